"""A folder or bucket of recordings → parquet: ``python -m components.transcribe batch IN OUT
[--model DIR] [--set NAME]``.

In: recordings at any depth of ``IN``, a folder or ``s3://bucket/prefix``. Out, in ``OUT`` (either
too): ``listing.parquet`` (each recording, its bytes and its shard), ``batch.json`` (model and set),
and a ``part-NNNNNN.parquet`` for each shard, a row a recording: text, passages with times, words
where the encoder tells them, or the reason why there is no text. Each recording is one row of one
part, whatever is killed: a part comes whole or not at all, and the same command goes on with those
that are missing. Recordings that came since then make new shards. Work goes out by shard
(components.runtime.pool). Cost: that of ``transcribe``.
"""

from __future__ import annotations

import argparse
import io
import json
import re
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from functools import lru_cache
from pathlib import Path, PurePosixPath
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from components.config.errors import InputError, TransientError
from components.runtime.hashing import data_digest
from components.runtime.pool import fan_out
from components.runtime.progress import progress
from components.runtime.s3 import RemotePath, as_path, write_atomically
from components.runtime.settings import device, work_root
from components.transcribe.setup import key_of, setup_of
from components.transcribe.sources import ENDINGS, is_sound, shown
from components.transcribe.transcript import FAILED, Failure, Transcript

LISTING, BATCH, PART = "listing.parquet", "batch.json", re.compile(r"part-(\d+)\.parquet")
SHARD = 100  # recordings in a part: some hours of talks, a minute of commands; what a kill costs
AnyPath = Path | RemotePath
WORD = pa.struct(
    [("text", pa.string()), ("start", pa.float64()), ("end", pa.float64()), ("score", pa.float64())]
)
PASSAGE = pa.struct(
    [
        ("start", pa.float64()),
        ("end", pa.float64()),
        ("text", pa.string()),
        ("score", pa.float64()),
        ("words", pa.list_(WORD)),
    ]
)
ROWS = pa.schema(
    [
        ("file", pa.string()),
        ("text", pa.string()),
        ("seconds", pa.float64()),
        ("silent_seconds", pa.float64()),
        ("segments", pa.list_(PASSAGE)),
        ("failure", pa.string()),
    ]
)
LISTED = pa.schema([("file", pa.string()), ("bytes", pa.int64()), ("shard", pa.int64())])


@dataclass(frozen=True)
class Listed:
    """A recording by its path below ``IN``."""

    file: str
    bytes: int
    shard: int


@dataclass(frozen=True)
class Job:
    """A shard to transcribe; plain data."""

    shard: int
    files: list[str]
    within: str
    out: str
    model: str  # an exported folder, absolute; empty: the workspace's model
    constraints: str


def run(
    within: str,
    out: str,
    model: str = "",
    constraints: str = "",
    shard: int = SHARD,
    again: bool = False,
) -> int:
    """Transcribes what is not done yet; returns how many recordings of all gave no text.

    ``again`` takes up anew the shards of recordings whose size has changed since they were listed;
    without it they are told and left. Raises InputError for an ``out`` that was begun with another
    model or set, TransientError where another run is at it.
    """
    source, target = _absolute(within), _absolute(out)
    folder = str(Path(model).absolute()) if model else ""
    setup = setup_of(Path(folder) if folder else None)
    constraints = constraints or setup.usual()
    setup.constraints(constraints)  # stops here where it has none of that name
    with _alone(target):
        _check_begun(
            target, {"model": key_of(Path(folder) if folder else None), "set": constraints}
        )
        found = list_files(source)
        listing = _listing(source, target, found, shard, again)
        shards: dict[int, list[str]] = {}
        for each in listing:
            shards.setdefault(each.shard, []).append(each.file)
        there = _parts(target)
        jobs = [
            Job(number, files, str(source), str(target), folder, constraints)
            for number, files in shards.items()
            if number not in there
        ]
        _work(jobs, len(listing))
        return _add_up(target, listing)


def list_files(source: AnyPath) -> dict[str, int]:
    """Bytes of each recording at any depth, by its path below ``source``, in sorted order; raises
    InputError where there is none.
    """
    if isinstance(source, RemotePath):
        sizes = {
            path.relative_to(source).as_posix(): size for path, size in source.file_sizes().items()
        }
    else:
        sizes = {
            path.relative_to(source).as_posix(): path.stat().st_size
            for path in source.rglob("*")
            if path.is_file()
        }
    wanted = {name: sizes[name] for name in sorted(sizes) if is_sound(PurePosixPath(name))}
    if not wanted:
        raise InputError(
            f"{source} holds no sound file.",
            subject=str(source),
            hint=f"Known endings: {', '.join(sorted(ENDINGS))}.",
        )
    for name in wanted:
        if (seen := shown(name)) != name:
            raise InputError(
                f"{source}: the name of {seen} is no UTF-8, which parquet can't hold.",
                subject=seen,
                hint="Rename the file.",
            )
    return wanted


def _absolute(name: str) -> AnyPath:
    path = as_path(name)
    return path if isinstance(path, RemotePath) else path.absolute()


@contextmanager
def _alone(target: AnyPath) -> Iterator[None]:
    """Holds ``target`` against a second run of this machine; of another machine it is for whoever
    starts them to see to it.
    """
    from filelock import FileLock, Timeout

    lock = work_root() / "batches" / f"{data_digest(str(target))[:12]}.lock"
    lock.parent.mkdir(parents=True, exist_ok=True)
    try:
        with FileLock(lock, timeout=0):
            yield
    except Timeout:
        raise TransientError(
            f"Another run transcribes into {target}.", subject=str(target), hint="Wait for its end."
        ) from None


def _check_begun(target: AnyPath, settings: dict[str, str]) -> None:
    """Notes with what a batch is made, or raises InputError where it was begun otherwise."""
    path = target / BATCH
    if not path.is_file():
        write_atomically(path, json.dumps(settings, indent=1).encode())
    elif (begun := json.loads(path.read_text())) != settings:
        other = ", ".join(sorted(key for key in settings if begun.get(key) != settings[key]))
        raise InputError(
            f"{target} was begun with another {other}.",
            subject=str(target),
            hint="Name another folder for this one.",
        )


def _listing(
    source: AnyPath, target: AnyPath, found: dict[str, int], most: int, again: bool
) -> list[Listed]:
    """What was listed before, and what is new in shards of its own; kept before any of it is
    transcribed.
    """
    before = _read_listing(target)
    known = {each.file for each in before}
    changed = {each.shard for each in before if found.get(each.file, each.bytes) != each.bytes}
    gone = sorted(known - found.keys())
    if gone:
        print(
            f"{source}: {len(gone)} recordings are gone since they were listed "
            f"({gone[0]}{', …' if gone[1:] else ''})",
            file=sys.stderr,
        )
    if changed and not again:
        print(
            f"{source}: recordings of {len(changed)} shards changed since they were listed; "
            "--again takes them up anew",
            file=sys.stderr,
        )
    if changed and again:
        for number in changed & _parts(target):
            part_of(target, number).unlink()
        before = [
            Listed(each.file, found.get(each.file, each.bytes), each.shard) for each in before
        ]
    first = max((each.shard for each in before), default=-1) + 1
    new = [name for name in found if name not in known]
    listing = [
        *before,
        *(Listed(name, found[name], first + place_ // most) for place_, name in enumerate(new)),
    ]
    write_atomically(target / LISTING, as_parquet([asdict(each) for each in listing], LISTED))
    return listing


def _read_listing(target: AnyPath) -> list[Listed]:
    path = target / LISTING
    return (
        [Listed(**row) for row in pq.read_table(pa.BufferReader(path.read_bytes())).to_pylist()]
        if path.is_file()
        else []
    )


def _work(jobs: Sequence[Job], listed: int) -> None:
    left = sum(len(job.files) for job in jobs)
    with progress("transcribe", f"{left} of {listed} recordings", left, "recordings") as shown:
        for job, failed in fan_out(transcribe, jobs, uses_gpu=True):
            shown.advance(
                len(job.files), f"part {job.shard}" + (f", {failed} without text" if failed else "")
            )


def transcribe(job: Job) -> int:
    """Transcribes one shard and writes its part; returns how many of its recordings
    gave no text.
    """
    from components.transcribe.transcriber import Recording, recording_of

    source = as_path(job.within)

    def recording(file: str) -> Recording:
        def blocks() -> Iterator[Any]:
            yield from recording_of(_sound(source / file)).blocks()

        return Recording(file, blocks)

    rows = [
        _row(each)
        for each in _transcriber(job.model, job.constraints).stream(map(recording, job.files))
    ]
    write_atomically(part_of(as_path(job.out), job.shard), as_parquet(rows, ROWS))
    return sum(row["failure"] is not None for row in rows)


def _sound(path: AnyPath) -> Path | bytes:
    from components.audio.sound import BrokenSound

    try:
        return path.read_bytes() if isinstance(path, RemotePath) else path
    except FileNotFoundError:
        raise BrokenSound("unreadable: no such file") from None


@lru_cache(maxsize=1)
def _transcriber(model: str, constraints: str) -> Any:
    from transformers.utils import logging

    from components.transcribe.transcriber import Transcriber

    logging.disable_progress_bar()
    return Transcriber.load(model or None, device(), constraints)


def _row(result: Transcript | Failure) -> dict[str, Any]:
    if isinstance(result, Failure):
        return {"file": result.name, "failure": result.reason}
    plain = result.plain()
    return {"file": plain.pop("name"), "failure": None, **plain}


def part_of(target: AnyPath, shard: int) -> AnyPath:
    """Where the rows of a shard lie."""
    return target / f"part-{shard:06d}.parquet"


def _parts(target: AnyPath) -> set[int]:
    """Numbers of the shards that are done."""
    found = (PART.fullmatch(path.name) for path in target.iterdir())
    return {int(match[1]) for match in found if match}


def _add_up(target: AnyPath, listing: Sequence[Listed]) -> int:
    """Sees that each recording is one row; says and returns how many gave no text."""
    rows = [
        row
        for number in sorted({each.shard for each in listing})
        for row in _brief(part_of(target, number))
    ]
    if sorted(file for file, _ in rows) != sorted(each.file for each in listing):
        raise InputError(
            f"{target}: the parts hold other recordings than {LISTING}.",
            subject=str(target),
            hint=(
                "Something else wrote there: remove the parts that do not belong, then run again."
            ),
        )
    failed = sum(failure is not None for _, failure in rows)
    print(
        f"{target}: {len(rows)} recordings, {len(rows) - failed} with a transcript, {failed} "
        "without ('failure' says why)"
    )
    return failed


def _brief(path: AnyPath) -> list[tuple[str, str | None]]:
    table = pq.read_table(pa.BufferReader(path.read_bytes()), columns=["file", "failure"])
    return [(row["file"], row["failure"]) for row in table.to_pylist()]


def as_parquet(rows: Sequence[dict[str, Any]], schema: pa.Schema) -> bytes:
    """A table as bytes, the same for the same rows."""
    stream = io.BytesIO()
    pq.write_table(pa.Table.from_pylist(list(rows), schema=schema), stream, compression="zstd")
    return stream.getvalue()


def main(arguments: Sequence[str]) -> int:
    """From the command line; returns the exit code."""
    parser = argparse.ArgumentParser(
        prog="python -m components.transcribe batch",
        description="A folder or bucket of recordings to parquet.",
    )
    parser.add_argument("within", metavar="IN", help="a folder, or s3://bucket/prefix")
    parser.add_argument(
        "out", metavar="OUT", help="a folder, or s3://bucket/prefix; begun before: it goes on there"
    )
    parser.add_argument(
        "--model",
        default="",
        metavar="DIR",
        help="an exported folder (default: the model of this workspace)",
    )
    parser.add_argument(
        "--set",
        default="",
        metavar="NAME",
        help="a constraint set of the model, or ctc (default: constrained)",
    )
    parser.add_argument(
        "--shard",
        type=int,
        default=SHARD,
        metavar="N",
        help=f"recordings in a part (default {SHARD})",
    )
    parser.add_argument(
        "--again", action="store_true", help="take up anew the shards of recordings that changed"
    )
    options = parser.parse_args(arguments)
    if options.shard < 1:
        parser.error("--shard is at least 1")
    return (
        FAILED
        if run(
            options.within, options.out, options.model, options.set, options.shard, options.again
        )
        else 0
    )
