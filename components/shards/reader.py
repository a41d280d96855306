"""Reading shards: the entries of a role, and one utterance's audio or features by its place in a
tar.

A role's folder holds a folder a source: ``<role>/<source>/index.parquet`` and tars. Nothing is
unpickled: payloads are FLAC, or ``.npy`` read with ``allow_pickle=False``.
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
    """An entry with the source it belongs to and the folder of its tar."""

    entry: IndexEntry
    source: str
    folder: Path


def sources(role_folder: Path) -> list[str]:
    """Names of the sources of a role's folder; raises InputError where the folder is not whole."""
    read_record(role_folder)
    return sorted(path.parent.name for path in role_folder.glob(f"*/{INDEX}"))


def entries(role_folder: Path, below: str = "") -> list[IndexedUtterance]:
    """Every utterance of a role, by source, shard and place; ``below`` names a folder inside each
    source's, of the same layout.
    """
    return [
        IndexedUtterance(entry, source, role_folder / source / below)
        for source in sources(role_folder)
        for entry in read_index(role_folder / source / below / INDEX)
    ]


def payload(item: IndexedUtterance) -> bytes:
    """The bytes of an utterance's payload; raises InputError where the tar is shorter than its
    index says.
    """
    return _range(item, item.entry.offset, item.entry.size)


def description(item: IndexedUtterance) -> dict[str, Any]:
    """The ``.json`` member of an utterance."""
    return json.loads(_range(item, item.entry.json_offset, item.entry.json_size))


def prefetch(items: Iterable[IndexedUtterance]) -> None:
    """Tells which utterances will be read, in their order; where their tars lie in a bucket, these
    come in meanwhile.
    """
    tars = dict.fromkeys((item.folder, item.entry.shard) for item in items)
    wanted = [stored[shard] for folder, shard in tars if (stored := _stored(folder))]
    if wanted:
        tar_prefetcher().prefetch(wanted)


def _stored(folder: Path) -> dict[str, str]:
    """Digest of each tar of a source's folder (or of a view in it) that lies in the store; empty
    where they lie in the folder.
    """
    above = next(
        (each for each in (folder.parent, folder.parent.parent) if (each / RECORD).is_file()), None
    )
    if above is None:
        return {}
    record = above / RECORD
    return _in_store(
        record.absolute(), record.stat().st_mtime_ns, folder.relative_to(above).as_posix()
    )


@lru_cache(maxsize=64)
def _in_store(record: Path, _changed: int, below: str) -> dict[str, str]:
    outputs = read_record(record.parent) if record.is_file() else {}
    names = outputs["outputs"].items() if outputs.get("remote") else ()
    return {
        name.removeprefix(f"{below}/"): digest
        for name, digest in names
        if name.rpartition("/")[0] == below and name.endswith(".tar")
    }


def _range(item: IndexedUtterance, offset: int, size: int) -> bytes:
    path: Path | RemotePath = item.folder / item.entry.shard
    digest = _stored(item.folder).get(item.entry.shard)
    try:
        if digest:
            path = stored_tar(digest)
            data = tar_prefetcher().part(digest, offset, size)
        else:
            with open(path, "rb") as stream:  # type: ignore[arg-type]
                stream.seek(offset)
                data = stream.read(size)
    except FileNotFoundError:
        raise InputError(
            f"{path} is gone; it holds utterance '{item.entry.id}'.",
            subject=item.entry.id,
            hint="Run 'dvc repro'.",
        ) from None
    if len(data) != size:
        raise InputError(
            f"{path} ends inside utterance '{item.entry.id}'.",
            subject=item.entry.id,
            hint="Run 'dvc repro -f shards'.",
        )
    return data


def audio(item: IndexedUtterance) -> np.ndarray:
    """Mono float32 at 16 kHz, shape (samples,), of an utterance of an audio shard."""
    try:
        samples = read_waveform(payload(item))
    except BrokenSound as error:
        raise InputError(
            f"{item.folder / item.entry.shard}, utterance '{item.entry.id}': {error}.",
            subject=item.entry.id,
        ) from None
    if len(samples) != item.entry.samples:
        raise InputError(
            f"{item.folder / item.entry.shard}, utterance '{item.entry.id}': {len(samples)} samples, not the"
            f" {item.entry.samples} of the index.",
            subject=item.entry.id,
            hint="Run 'dvc repro -f shards'.",
        )
    return samples


def part(item: IndexedUtterance, start: int, count: int) -> np.ndarray:
    """``count`` samples from ``start`` on of an utterance of an audio shard, as ``audio`` gives the
    whole of it.
    """
    try:
        samples = read_excerpt(payload(item), start, count)
    except BrokenSound as error:
        raise InputError(
            f"{item.folder / item.entry.shard}, utterance '{item.entry.id}': {error}.",
            subject=item.entry.id,
        ) from None
    if len(samples) != count:
        raise InputError(
            f"{item.folder / item.entry.shard}, utterance '{item.entry.id}' ends before sample "
            f"{start + count}.",
            subject=item.entry.id,
            hint="Run 'dvc repro -f shards'.",
        )
    return samples


@dataclass(frozen=True)
class ShardClip:
    """A recording of noise or of a room, read where it is wanted
    (components.audio.augmentation.Recording).
    """

    item: IndexedUtterance

    @property
    def samples(self) -> int:
        return self.item.entry.samples

    def read(self, start: int, count: int) -> np.ndarray:
        return part(self.item, start, count)


def array(item: IndexedUtterance) -> np.ndarray:
    """Features of an utterance, shape (frames, width), in the dtype that they were stored in;
    raises InputError where other bytes lie there than the index says.
    """
    try:
        frames = np.load(io.BytesIO(payload(item)), allow_pickle=False)
    except (ValueError, OSError, EOFError) as error:
        raise _unlike(item, str(error).rstrip(".")) from None
    if len(frames) != item.entry.frames:
        raise _unlike(item, f"{len(frames)} frames, not the {item.entry.frames} of the index")
    return frames


def _unlike(item: IndexedUtterance, what: str) -> InputError:
    """The error for features that are not what the index says."""
    return InputError(
        f"{item.folder / item.entry.shard}, utterance '{item.entry.id}': {what}.",
        subject=item.entry.id,
        hint="Run 'dvc repro -f features'.",
    )
