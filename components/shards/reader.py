"""Reading shards: the utterances of a role, and the audio or features of one utterance by its place
in a tar.

A role's folder has a folder for each source: ``<role>/<source>/index.parquet`` and tars. Nothing is
unpickled: payloads are FLAC, or ``.npy`` with numbers alone. What is read has the checksum of the
index, or the read stops. Cost: one read of a file for each utterance, or one request if its tar is
in a bucket and not prefetched.
"""

from __future__ import annotations

import io
import json
import math
import os
from collections.abc import Iterable
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np

from components.audio.sound import BrokenSound, read_excerpt, read_waveform
from components.config.errors import REPAIR, InputError
from components.runtime.artifact import RECORD, read_record
from components.runtime.s3 import RemotePath
from components.shards.index import (
    INDEX,
    NO_CHECKSUM,
    IndexEntry,
    member_checksum,
    read_index,
)
from components.shards.prefetch import REWRITE, tar_prefetcher
from components.shards.store import stored_tar

_HEADERS = {
    (1, 0): np.lib.format.read_array_header_1_0,
    (2, 0): np.lib.format.read_array_header_2_0,
}


@dataclass(frozen=True)
class IndexedUtterance:
    """An utterance and where its payload is: its index entry, its source and the folder of its
    tar.
    """

    entry: IndexEntry
    source: str
    folder: Path

    @property
    def id(self) -> str:
        """Id of the utterance, unique in its role."""
        return self.entry.id

    @property
    def text(self) -> str:
        """The transcript as published."""
        return self.entry.text

    @property
    def speaker(self) -> str:
        """Name of the speaker; empty if unknown."""
        return self.entry.speaker

    @property
    def num_samples(self) -> int:
        """Samples at 16 kHz."""
        return self.entry.samples

    @property
    def duration_s(self) -> float:
        """Seconds of audio."""
        return self.entry.duration_s

    @property
    def tar(self) -> Path:
        """The tar in the stage's output; it is elsewhere if the stage stores tars in a bucket."""
        return self.folder / self.entry.shard


def list_sources(role_folder: Path) -> list[str]:
    """Names of the sources of a role's folder; raises InputError if its record is missing."""
    read_record(role_folder)
    return sorted(path.parent.name for path in role_folder.glob(f"*/{INDEX}"))


def list_utterances(role_folder: Path, below: str = "") -> list[IndexedUtterance]:
    """Every utterance of a role, by source, shard and place in the tar; ``below`` names a folder
    inside that of each source, with the same layout.
    """
    return [
        IndexedUtterance(entry, source, role_folder / source / below)
        for source in list_sources(role_folder)
        for entry in read_index(role_folder / source / below / INDEX)
    ]


def read_payload(utterance: IndexedUtterance) -> bytes:
    """The bytes of an utterance's payload; raises InputError if the tar is missing, shorter than
    its index says, or has other bytes there.
    """
    entry = utterance.entry
    return _read_range(utterance, entry.offset, entry.size, entry.checksum)


def read_description(utterance: IndexedUtterance) -> dict[str, Any]:
    """The ``.json`` member of an utterance, as ``components.shards.writer.describe`` has it; raises
    InputError as ``read_payload`` does, and for anything else in its place.
    """
    entry = utterance.entry
    data = _read_range(utterance, entry.json_offset, entry.json_size, entry.json_checksum)
    try:
        member = json.loads(data)
    except (ValueError, RecursionError):
        member = None
    if not isinstance(member, dict) or not all(
        isinstance(member.get(key), str) for key in ("id", "text", "speaker", "language")
    ):
        raise _damaged(utterance, "the index points to bytes that are no description of it")
    return member


def prefetch(utterances: Iterable[IndexedUtterance]) -> None:
    """Starts to fetch the tars of utterances that will be read in this order; does nothing for tars
    on this machine.
    """
    tars = dict.fromkeys((utterance.folder, utterance.entry.shard) for utterance in utterances)
    digests = [
        digest for folder, shard in tars if (digest := _stored_digests(folder).get(shard, ""))
    ]
    if digests:
        tar_prefetcher().prefetch(digests)


def _stored_digests(folder: Path) -> dict[str, str]:
    """Digest of each tar in the store, by its name in a source's folder (or a view in it); empty if
    the tars are in the folder.
    """
    role_folder = next(
        (path for path in (folder.parent, folder.parent.parent) if (path / RECORD).is_file()), None
    )
    if role_folder is None:
        return {}
    record = role_folder / RECORD
    return _recorded_digests(
        record.absolute(), record.stat().st_mtime_ns, folder.relative_to(role_folder).as_posix()
    )


@lru_cache(maxsize=64)
def _recorded_digests(record: Path, _mtime_ns: int, below: str) -> dict[str, str]:
    content = read_record(record.parent) if record.is_file() else {}
    outputs = content["outputs"].items() if content.get("remote") else ()
    return {
        name.removeprefix(f"{below}/"): digest
        for name, digest in outputs
        if name.rpartition("/")[0] == below and name.endswith(".tar")
    }


def _read_range(utterance: IndexedUtterance, offset: int, size: int, checksum: int) -> bytes:
    """Bytes of the utterance's tar that have ``checksum``, if there is one; those of a bucket are
    read a second time before they count as damaged.
    """
    digest = _stored_digests(utterance.folder).get(utterance.entry.shard, "")
    path: Path | RemotePath = stored_tar(digest) if digest else utterance.tar
    for _ in range(2 if digest else 1):
        try:
            if digest:
                data = tar_prefetcher().read(digest, offset, size)
            else:
                data = _read_local_range(utterance.tar, offset, size)
        except FileNotFoundError:
            raise InputError(
                f"{path} is missing; it contains utterance '{utterance.id}'.",
                subject=utterance.id,
                hint="Run 'dvc repro'.",
            ) from None
        except OSError as error:
            reason = error.strerror or str(error)
            raise _damaged(utterance, f"it can't be read: {reason}", digest) from None
        if len(data) == size and checksum in (NO_CHECKSUM, member_checksum(data)):
            return data
    if len(data) != size:
        raise _damaged(utterance, f"it ends before byte {offset + size} of its {INDEX}", digest)
    reason = f"bytes {offset} to {offset + size} differ from the checksum of its {INDEX}"
    raise _damaged(utterance, reason, digest)


def _read_local_range(tar: Path, offset: int, size: int) -> bytes:
    """Bytes of a file, none where the range does not lie in it: a wrong index costs no memory."""
    with tar.open("rb") as stream:
        if offset + size > os.fstat(stream.fileno()).st_size:
            return b""
        stream.seek(offset)
        return stream.read(size)


def _damaged(utterance: IndexedUtterance, reason: str, digest: str = "") -> InputError:
    """``digest`` is that of the tar if it is in a bucket."""
    return InputError(
        f"{stored_tar(digest) if digest else utterance.tar}, utterance '{utterance.id}': {reason}.",
        subject=utterance.id,
        hint=REWRITE if digest else REPAIR,
    )


def read_audio(utterance: IndexedUtterance) -> np.ndarray:
    """Mono float32 at 16 kHz, shape (samples,), of an utterance of an audio shard.

    Raises InputError if it does not decode, or has another length than the index says.
    """
    try:
        waveform = read_waveform(read_payload(utterance))
    except BrokenSound as error:
        raise _damaged(utterance, str(error)) from None
    if len(waveform) != utterance.num_samples:
        reason = f"{len(waveform)} samples, not the {utterance.num_samples} of its {INDEX}"
        raise _damaged(utterance, reason)
    return waveform


def read_audio_part(utterance: IndexedUtterance, start: int, count: int) -> np.ndarray:
    """``count`` samples from ``start`` on of an utterance of an audio shard: a part of what
    ``read_audio`` returns, shape (count,). Raises InputError as ``read_audio`` does.
    """
    try:
        waveform = read_excerpt(read_payload(utterance), start, count)
    except BrokenSound as error:
        raise _damaged(utterance, str(error)) from None
    if len(waveform) != count:
        raise _damaged(utterance, f"it ends before sample {start + count}")
    return waveform


@dataclass(frozen=True)
class ShardClip:
    """A recording of noise or of a room, read when it is needed
    (components.audio.augmentation.ClipReader).
    """

    utterance: IndexedUtterance

    @property
    def samples(self) -> int:
        """Samples at 16 kHz."""
        return self.utterance.num_samples

    def read(self, start: int, count: int) -> np.ndarray:
        """``count`` samples from ``start`` on, shape (count,)."""
        return read_audio_part(self.utterance, start, count)


def read_frames(utterance: IndexedUtterance) -> np.ndarray:
    """Features of an utterance, shape (frames, width), in the dtype in which they are stored.

    Raises InputError if the bytes are no array of floats with as many frames as the index says.
    """
    data = read_payload(utterance)
    stream = io.BytesIO(data)
    try:
        read_header = _HEADERS[np.lib.format.read_magic(stream)]
        shape, is_fortran, dtype = read_header(stream)
    except Exception:  # NumPy parses Python's syntax here and raises what its parser raises
        raise _damaged(utterance, "its bytes are no NumPy array") from None
    num_bytes = dtype.itemsize * math.prod(shape)
    is_plain = dtype in (np.float16, np.float32) and len(shape) == 2
    if not is_plain or num_bytes != len(data) - stream.tell():
        raise _damaged(utterance, "its bytes are no array of floats (frames × width)")
    if shape[0] != utterance.entry.frames:
        reason = f"{shape[0]} frames, not the {utterance.entry.frames} of its {INDEX}"
        raise _damaged(utterance, reason)
    values: np.ndarray = np.frombuffer(data, dtype, offset=stream.tell())
    return values.reshape(shape, order="F" if is_fortran else "C").copy(order="K")
