"""Reading shards: the utterances of a role, and the audio or features of one utterance by its place
in a tar.

A role's folder has a folder for each source: ``<role>/<source>/index.parquet`` and tars. Nothing is
unpickled: payloads are FLAC, or ``.npy`` read with ``allow_pickle=False``. Cost: one read of a file
for each utterance, or one request if its tar is in a bucket and not prefetched.
"""

from __future__ import annotations

import io
import json
from collections.abc import Iterable
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np

from components.audio.sound import BrokenSound, read_excerpt, read_waveform
from components.config.errors import InputError
from components.runtime.artifact import RECORD, read_record
from components.runtime.s3 import RemotePath
from components.shards.index import INDEX, IndexEntry, read_index
from components.shards.prefetch import tar_prefetcher
from components.shards.store import stored_tar


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
    """The bytes of an utterance's payload; raises InputError if the tar is missing or shorter than
    its index says.
    """
    return _read_range(utterance, utterance.entry.offset, utterance.entry.size)


def read_description(utterance: IndexedUtterance) -> dict[str, Any]:
    """The ``.json`` member of an utterance; raises InputError as ``read_payload`` does."""
    entry = utterance.entry
    member: dict[str, Any] = json.loads(_read_range(utterance, entry.json_offset, entry.json_size))
    return member


def prefetch(utterances: Iterable[IndexedUtterance]) -> None:
    """Starts to fetch the tars of utterances that will be read in this order; does nothing for tars
    on this machine.
    """
    tars = dict.fromkeys((utterance.folder, utterance.entry.shard) for utterance in utterances)
    digests = [stored[shard] for folder, shard in tars if (stored := _stored_digests(folder))]
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


def _read_range(utterance: IndexedUtterance, offset: int, size: int) -> bytes:
    path: Path | RemotePath = utterance.tar
    digest = _stored_digests(utterance.folder).get(utterance.entry.shard)
    try:
        if digest:
            path = stored_tar(digest)
            data = tar_prefetcher().read(digest, offset, size)
        else:
            with utterance.tar.open("rb") as stream:
                stream.seek(offset)
                data = stream.read(size)
    except FileNotFoundError:
        raise InputError(
            f"{path} is missing; it contains utterance '{utterance.id}'.",
            subject=utterance.id,
            hint="Run 'dvc repro'.",
        ) from None
    if len(data) != size:
        raise InputError(
            f"{path} ends inside utterance '{utterance.id}'.",
            subject=utterance.id,
            hint="Run 'dvc repro -f shards'.",
        )
    return data


def read_audio(utterance: IndexedUtterance) -> np.ndarray:
    """Mono float32 at 16 kHz, shape (samples,), of an utterance of an audio shard.

    Raises InputError if it does not decode, or has another length than the index says.
    """
    try:
        waveform = read_waveform(read_payload(utterance))
    except BrokenSound as error:
        raise _broken_audio(utterance, error) from None
    if len(waveform) != utterance.num_samples:
        raise InputError(
            f"{utterance.tar}, utterance '{utterance.id}': {len(waveform)} samples, not the "
            f"{utterance.num_samples} of the index.",
            subject=utterance.id,
            hint="Run 'dvc repro -f shards'.",
        )
    return waveform


def read_audio_part(utterance: IndexedUtterance, start: int, count: int) -> np.ndarray:
    """``count`` samples from ``start`` on of an utterance of an audio shard: a part of what
    ``read_audio`` returns, shape (count,). Raises InputError as ``read_audio`` does.
    """
    try:
        waveform = read_excerpt(read_payload(utterance), start, count)
    except BrokenSound as error:
        raise _broken_audio(utterance, error) from None
    if len(waveform) != count:
        raise InputError(
            f"{utterance.tar}, utterance '{utterance.id}' ends before sample {start + count}.",
            subject=utterance.id,
            hint="Run 'dvc repro -f shards'.",
        )
    return waveform


def _broken_audio(utterance: IndexedUtterance, error: BrokenSound) -> InputError:
    return InputError(
        f"{utterance.tar}, utterance '{utterance.id}': {error}.",
        subject=utterance.id,
        hint="Run 'dvc repro -f shards'.",
    )


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

    Raises InputError if the bytes are no array of as many frames as the index says.
    """
    try:
        frames: np.ndarray = np.load(io.BytesIO(read_payload(utterance)), allow_pickle=False)
    except (ValueError, OSError, EOFError) as error:
        raise _broken_features(utterance, str(error).rstrip(".")) from None
    if len(frames) != utterance.entry.frames:
        raise _broken_features(
            utterance, f"{len(frames)} frames, not the {utterance.entry.frames} of the index"
        )
    return frames


def _broken_features(utterance: IndexedUtterance, reason: str) -> InputError:
    return InputError(
        f"{utterance.tar}, utterance '{utterance.id}': {reason}.",
        subject=utterance.id,
        hint="Run 'dvc repro -f features'.",
    )
