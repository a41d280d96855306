"""A folder or bucket of recordings → parquet: ``python -m components.transcribe batch IN OUT
[--model DIR] [--set NAME]``.

In: recordings at any depth of ``IN``, a folder or ``s3://bucket/prefix``. Out, in ``OUT`` (either
too): ``listing.parquet`` (each recording, its bytes and its shard), ``batch.json`` (model and set),
and a ``part-NNNNNN.parquet`` for each shard, one row for each recording: text, passages with times,
words if the encoder gives their times, or the reason why there is no text.

Each recording is one row of one part, even after a kill: a part is written as a whole or not at
all, and the same command continues with the missing ones. Recordings that were added since then
make new shards. Work is distributed by shard (components.runtime.pool). Cost: that of
``transcribe``.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING

from components.config.errors import InputError, TransientError
from components.runtime.hashing import data_digest
from components.runtime.json_files import parse_json
from components.runtime.pool import fan_out
from components.runtime.progress import progress
from components.runtime.s3 import RemotePath, as_path, write_atomically
from components.runtime.settings import device, work_root
from components.transcribe.parts import (
    LISTING,
    AnyPath,
    BatchRecording,
    extend_listing,
    finished_shards,
    list_files,
    part_path,
    read_failures,
    read_listing,
    write_listing,
    write_part,
)
from components.transcribe.published import exported_folder
from components.transcribe.setup import load_setup, model_keys

if TYPE_CHECKING:  # the command starts its workers without torch
    import numpy as np

    from components.transcribe.recording import Recording
    from components.transcribe.transcriber import Transcriber

BATCH = "batch.json"
# recordings in a part: some hours of talks, a minute of commands; what a kill costs at most
SHARD_SIZE = 100
log = logging.getLogger(__name__)


@dataclass(frozen=True)
class BatchSummary:
    """What all runs of a batch have done together."""

    num_recordings: int
    num_failed: int  # recordings without text
    left_out: dict[str, str]  # reason by the name of a recording or folder that is not read


@dataclass(frozen=True)
class TranscribeJob:
    """A shard to transcribe; plain data."""

    shard: int
    files: list[str]
    source: str
    target: str
    model: str  # an exported folder, absolute; empty: the workspace's model
    constraints: str


def run(
    source: str,
    target: str,
    model: str = "",
    constraints: str = "",
    shard_size: int = SHARD_SIZE,
    again: bool = False,
) -> BatchSummary:
    """Transcribes what is not done yet; returns the counts of all recordings.

    ``again`` repeats the shards of recordings whose size has changed since they were listed;
    without it a log message names them. Raises InputError for a ``target`` of another model or set,
    TransientError if another run is writing to it.
    """
    source_path, target_path = _absolute(source), _absolute(target)
    named = exported_folder(Path(model)) if model else None
    folder = named.absolute() if named else None
    setup = load_setup(folder)
    constraints = constraints or setup.default_set()
    setup.constraints(constraints)  # raises InputError for an unknown name
    with _locked(target_path):
        key, *older_keys = model_keys(folder)
        _check_settings(target_path, {"model": key, "set": constraints}, older_keys)
        sizes, left_out = list_files(source_path)
        listing = _listing(sizes, source_path, target_path, shard_size, again)
        shards: dict[int, list[str]] = {}
        for recording in listing:
            shards.setdefault(recording.shard, []).append(recording.file)
        finished = finished_shards(target_path)
        jobs = [
            TranscribeJob(
                number, files, str(source_path), str(target_path), str(folder or ""), constraints
            )
            for number, files in shards.items()
            if number not in finished
        ]
        _transcribe_shards(jobs, len(listing))
        return _summary(target_path, listing, left_out)


def _absolute(name: str) -> AnyPath:
    path = as_path(name)
    return path if isinstance(path, RemotePath) else path.absolute()


@contextmanager
def _locked(target: AnyPath) -> Iterator[None]:
    """Locks ``target`` against a second run on this machine. Runs on two machines are not locked
    against each other.
    """
    from filelock import FileLock, Timeout

    lock = work_root() / "batches" / f"{data_digest(str(target))[:12]}.lock"
    lock.parent.mkdir(parents=True, exist_ok=True)
    try:
        with FileLock(lock, timeout=0):
            yield
    except Timeout:
        raise TransientError(
            f"Another run transcribes into {target}.",
            subject=str(target),
            hint="Wait until it ends.",
        ) from None


def _check_settings(target: AnyPath, settings: dict[str, str], older_keys: Sequence[str]) -> None:
    """Writes the settings of a new batch; raises InputError if the batch has other ones.
    ``older_keys`` are what earlier versions recorded of the same model.
    """
    path = target / BATCH
    if not path.is_file():
        write_atomically(path, json.dumps(settings, indent=1).encode())
        return
    hint = "Name another folder, or remove this file: it says what the batch was started with."
    recorded = parse_json(path.read_bytes(), str(path), dict[str, str], hint=hint)
    if recorded.get("model") in older_keys:
        recorded["model"] = settings["model"]
    if recorded != settings:
        names = ", ".join(sorted(key for key in settings if recorded.get(key) != settings[key]))
        raise InputError(
            f"{target} was started with another {names}.",
            subject=str(target),
            hint="Name another folder for this one.",
        )


def _listing(
    sizes: Mapping[str, int], source: AnyPath, target: AnyPath, shard_size: int, again: bool
) -> list[BatchRecording]:
    """The recordings that were listed before and the new ones of ``sizes``, written before any of
    them is transcribed.
    """
    listing = read_listing(target)
    removed = sorted({recording.file for recording in listing} - sizes.keys())
    if removed:
        log.warning(
            "%s: %d recordings were removed since they were listed (%s%s)",
            source,
            len(removed),
            removed[0],
            ", …" if removed[1:] else "",
        )
    changed = {
        recording.shard
        for recording in listing
        if sizes.get(recording.file, recording.bytes) != recording.bytes
    }
    if changed and not again:
        log.warning(
            "%s: recordings of %d shards changed since they were listed; --again transcribes them "
            "again",
            source,
            len(changed),
        )
    if changed and again:
        for number in changed & finished_shards(target):
            part_path(target, number).unlink()
        listing = [
            replace(recording, bytes=sizes.get(recording.file, recording.bytes))
            for recording in listing
        ]
    listing = extend_listing(listing, sizes, shard_size)
    write_listing(target, listing)
    return listing


def _transcribe_shards(jobs: Sequence[TranscribeJob], num_recordings: int) -> None:
    num_pending = sum(len(job.files) for job in jobs)
    task = f"{num_pending} of {num_recordings} recordings"
    with progress("transcribe", task, num_pending, "recordings") as bar:
        for job, failed in fan_out(transcribe_shard, jobs, uses_gpu=True):
            note = f"part {job.shard}" + (f", {failed} without text" if failed else "")
            bar.advance(len(job.files), note)


def transcribe_shard(job: TranscribeJob) -> int:
    """Transcribes one shard and writes its part; returns how many of its recordings gave no
    text.
    """
    source = as_path(job.source)
    recordings = (_recording(source, file) for file in job.files)
    results = list(_transcriber(job.model, job.constraints).stream(recordings))
    return write_part(as_path(job.target), job.shard, results)


def _recording(source: AnyPath, file: str) -> Recording:
    from components.transcribe.recording import Recording, open_recording

    def blocks() -> Iterator[np.ndarray]:
        yield from open_recording(_path_or_bytes(source / file)).blocks()

    return Recording(file, blocks)


def _path_or_bytes(path: AnyPath) -> Path | bytes:
    from components.audio.sound import BrokenSound

    try:
        return path.read_bytes() if isinstance(path, RemotePath) else path
    except FileNotFoundError:
        raise BrokenSound("unreadable: no such file") from None


@lru_cache(maxsize=1)
def _transcriber(model: str, constraints: str) -> Transcriber:
    """The model of this worker process."""
    from transformers.utils import logging as transformers_logging

    from components.transcribe.transcriber import Transcriber

    transformers_logging.disable_progress_bar()
    return Transcriber.load(model or None, device(), constraints)


def _summary(
    target: AnyPath, listing: Sequence[BatchRecording], left_out: dict[str, str]
) -> BatchSummary:
    """Counts of the finished parts; raises InputError if they do not have each recording once."""
    rows = [
        row
        for number in sorted({recording.shard for recording in listing})
        for row in read_failures(target, number)
    ]
    if sorted(file for file, _ in rows) != sorted(recording.file for recording in listing):
        raise InputError(
            f"{target}: the parts have other recordings than {LISTING}.",
            subject=str(target),
            hint="Another program wrote there: remove the parts that do not belong, then run "
            "again.",
        )
    return BatchSummary(len(rows), sum(failure is not None for _, failure in rows), left_out)
