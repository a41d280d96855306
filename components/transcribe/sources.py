"""Which recordings a command line names: files, folders and standard input, and where the text of each goes.

In: paths, ``-`` among them. Out: sources in their order, folders searched through and sorted. Of a folder those files count whose
ending libsndfile knows. Cost: reading the headers, for the length.
"""

from __future__ import annotations

import struct
import sys
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import soundfile

from components.config.errors import InputError

STDIN = "-"
ENDINGS = {
    *(f".{name.lower()}" for name in soundfile.available_formats()),
    ".opus",
    ".oga",
    ".mp2",
    ".mp3",
    ".aif",
    ".aifc",
    ".snd",
    ".wave",
}
ENDINGS -= {".raw"}  # without a header nobody knows the rate
UNTOLD = (0, 0xFFFFFFFF)  # sizes in a WAV that was written to a pipe, whose length nobody knew


@dataclass(frozen=True)
class Source:
    """A file, or standard input where ``path`` is None; ``name`` as it is shown, ``below`` as it lies in the folder that was named."""

    name: str
    path: Path | None
    below: Path

    def seconds(self) -> float:
        """What its header says of its length; 0 where it says nothing."""
        if self.path is None:
            return 0.0
        try:
            return float(soundfile.info(self.path).duration)
        except (soundfile.LibsndfileError, RuntimeError, OSError):
            return 0.0


def sources(names: Sequence[str]) -> list[Source]:
    """The sources that a command line names, each once; raises InputError for a path that is not, and a folder without sound."""
    found: dict[str, Source] = {}
    for name in names:
        path = Path(name)
        if name == STDIN:
            new = [Source(STDIN, None, Path("stdin"))]
        elif path.is_dir():
            files = sorted(
                each for each in path.rglob("*") if each.suffix.lower() in ENDINGS and each.is_file() and not _hidden(each, path)
            )
            if not files:
                raise InputError(f"{name} holds no sound file.", unit=name, way_out=f"Known endings: {', '.join(sorted(ENDINGS))}.")
            new = [Source(str(each), each, each.relative_to(path)) for each in files]
        elif path.exists():
            new = [Source(name, path, Path(path.name))]
        else:
            raise InputError(f"{name} is neither a file nor a folder.", unit=name)
        found |= {each.name: each for each in new if each.name not in found}
    return list(found.values())


def _hidden(file: Path, folder: Path) -> bool:
    return any(part.startswith(".") for part in file.relative_to(folder).parts)


def outputs(found: Sequence[Source], folder: Path, ending: str) -> dict[str, Path]:
    """The file below ``folder`` for the text of each source, by its name: as the source lies below the folder that was named.

    Where two would be the same (``a.wav``, ``a.flac``) they keep their endings; raises InputError where they still are.
    """
    short = {each.name: each.below.with_suffix(f".{ending}") for each in found}
    counts = Counter(short.values())
    long = {each.name: each.below.with_name(f"{each.below.name}.{ending}") for each in found if counts[short[each.name]] > 1}
    places = {name: folder / path for name, path in (short | long).items()}
    taken = {place: name for name, place in places.items()}
    for name, place in places.items():
        if taken[place] != name:
            raise InputError(f"{name} and {taken[place]} would both be written to {place}.", unit=name,
                             way_out="Transcribe them into two folders, or name the folder above both.")  # fmt: skip
    return places


def piped() -> bytes:
    """All of standard input; a WAV that was written to a pipe gets the sizes that it could not know."""
    return with_sizes(sys.stdin.buffer.read())


def with_sizes(data: bytes) -> bytes:
    """A WAV with the sizes of its header set to what there is, where they say that nobody knew; anything else as it is."""
    if data[:4] != b"RIFF" or data[8:12] != b"WAVE":
        return data
    place = 12
    while place + 8 <= len(data):
        (size,) = struct.unpack_from("<I", data, place + 4)
        if data[place : place + 4] == b"data":
            if size not in UNTOLD or len(data) - 8 > 0xFFFFFFFE:
                return data
            fixed = bytearray(data)
            struct.pack_into("<I", fixed, place + 4, len(data) - place - 8)
            struct.pack_into("<I", fixed, 4, len(data) - 8)
            return bytes(fixed)
        place += 8 + size + size % 2
    return data
