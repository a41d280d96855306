"""Inspection of sound files: each is decoded in full once, and the result stays in the work cache.

In: paths below a data root. Out: rate, samples, channels, silence and SHA-256 of each file, or why
it cannot be used. A killed or repeated inspection goes on where it stopped. Cost: about 1,000 s of
FLAC a second and core the first time, next to nothing after that.
"""

from __future__ import annotations

import hashlib
import json
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path

import soundfile

from components.audio.sound import BrokenSound, decode_file, is_silent
from components.corpus import RESULT_VERSION
from components.runtime.folders import DANGLING, NOT_REGULAR, NOT_TEXT
from components.runtime.hashing import seed_of
from components.runtime.json_files import read_json
from components.runtime.pool import fan_out
from components.runtime.progress import progress
from components.runtime.s3 import RemotePath, StoredFile, as_path
from components.runtime.unit_cache import cached_unit

CHUNK = 128  # files inspected together: one unit of the work cache, some seconds of work
RESULTS = "facts.json"  # in a unit


@dataclass(frozen=True, slots=True)
class InspectedFile:
    """What the inspection of one file found; with a ``fault`` the other values mean nothing."""

    fault: str = ""
    rate: int = 0  # Hz
    samples: int = 0  # per channel
    channels: int = 0
    is_silent: bool = False
    sha256: str = ""  # of the file's bytes


def inspect_files(
    name: str, root: Path | RemotePath, paths: Sequence[str]
) -> dict[str, InspectedFile]:
    """The result for each file of the source ``name``, by the worker processes of this machine."""
    results: dict[str, InspectedFile] = {}
    with progress("corpus", f"inspecting {name}", len(paths), "files") as bar:
        for chunk, chunk_results in fan_out(partial(_inspect_chunk, str(root)), _chunks(paths)):
            results.update(chunk_results)
            bar.advance(len(chunk))
    return results


def _chunks(paths: Sequence[str]) -> list[list[str]]:
    """Paths distributed by their digest over a power of two of chunks: one file more leaves the
    other chunks as they are.
    """
    num_chunks = 1
    while num_chunks * CHUNK < len(paths):
        num_chunks *= 2
    chunks: dict[int, list[str]] = defaultdict(list)
    for path in paths:
        chunks[seed_of(path) % num_chunks].append(path)
    return [chunks[chunk_index] for chunk_index in sorted(chunks)]


def _inspect_chunk(root: str, paths: list[str]) -> dict[str, InspectedFile]:
    """The results of one chunk, from the work cache as long as path, size and modification time of
    all its files are the same.
    """
    stamps = [[path, *stamp(as_path(root) / path)] for path in paths]
    key = {
        "version": RESULT_VERSION,
        "libsndfile": soundfile.__libsndfile_version__,
        "root": root,
        "files": stamps,
    }

    def compute(folder: Path) -> None:
        rows = {path: asdict(inspect_file(as_path(root) / path)) for path in paths}
        (folder / RESULTS).write_text(json.dumps(rows, indent=0))

    rows = read_json(cached_unit("corpus", key, compute, code=__name__) / RESULTS)
    return {path: InspectedFile(**row) for path, row in rows.items()}


def stamp(path: Path | RemotePath) -> tuple[int, int]:
    """(bytes, modification time in ns); zeros for a file that cannot be read."""
    try:
        status = path.stat()
    except OSError:
        return 0, 0
    return status.st_size, status.st_mtime_ns


def inspect_file(file: StoredFile) -> InspectedFile:
    """Reads and decodes one file in full. What is no regular file is not opened: a pipe would wait
    for ever.
    """
    if isinstance(file, Path) and not file.is_file():
        return InspectedFile(_describe_missing(file))
    try:
        data = file.read_bytes()
    except OSError as error:
        return InspectedFile(f"unreadable: {error.strerror}")
    return inspect_bytes(data)


def _describe_missing(path: Path) -> str:
    if path.exists():
        return NOT_REGULAR
    return DANGLING if path.is_symlink() else NOT_TEXT


def inspect_bytes(data: bytes) -> InspectedFile:
    """Decodes the bytes of one file in full."""
    if not data:
        return InspectedFile("empty: the file has no bytes")
    try:
        sound = decode_file(data)
    except BrokenSound as error:
        return InspectedFile(str(error))
    return InspectedFile(
        rate=sound.rate,
        samples=len(sound.samples),
        channels=sound.channels,
        is_silent=is_silent(sound.samples),
        sha256=hashlib.sha256(data).hexdigest(),
    )
