"""Which recordings a command line names: files, folders and standard input, and where the text of
each goes.

In: paths, ``-`` among them. Out: sources in their order, folders searched through and sorted. Of a
folder those files count whose ending libsndfile knows. Cost: reading the headers, for the length.
"""

from __future__ import annotations

import shutil
import sys
import tempfile
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path, PurePath

import soundfile

from components.audio.sound import BrokenSound, read_duration_s
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


@dataclass(frozen=True)
class Source:
    """A file, or standard input that has not arrived where ``path`` is None; ``name`` as it is
    shown, always text that can be written, ``below`` as it lies in the folder that was named.
    """

    name: str
    path: Path | None
    below: Path

    def seconds(self) -> float:
        """What its header says of its length; 0 where it says nothing."""
        try:
            return read_duration_s(self.path) if self.path is not None else 0.0
        except BrokenSound:
            return 0.0


def sources(names: Sequence[str]) -> list[Source]:
    """The sources that a command line names, each once; raises InputError for a path that is not,
    and a folder without sound.
    """
    found: dict[str, Source] = {}
    for name in names:
        path = Path(name)
        if name == STDIN:
            new = [Source(STDIN, None, Path("stdin"))]
        elif path.is_dir():
            files = sorted(
                each
                for each in path.rglob("*")
                if is_sound(each.relative_to(path)) and each.is_file()
            )
            if not files:
                raise InputError(
                    f"{name} holds no sound file.",
                    subject=name,
                    hint=f"Known endings: {', '.join(sorted(ENDINGS))}.",
                )
            new = [Source(shown(str(each)), each, each.relative_to(path)) for each in files]
        elif path.exists():
            new = [Source(shown(name), path, Path(path.name))]
        else:
            raise InputError(f"{name} is neither a file nor a folder.", subject=name)
        found |= {each.name: each for each in new if each.name not in found}
    return list(found.values())


def shown(name: str) -> str:
    """A path's name as text that can be written: a byte in it that is no UTF-8 is shown by its
    number.
    """
    return name.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")


def is_sound(path: PurePath) -> bool:
    """Whether a path below a folder counts as a recording: a known ending, and nothing hidden."""
    return path.suffix.lower() in ENDINGS and not any(part.startswith(".") for part in path.parts)


def outputs(found: Sequence[Source], folder: Path, ending: str) -> dict[str, Path]:
    """The file below ``folder`` for the text of each source, by its name: as the source lies below
    the folder that was named.

    Where two would be the same (``a.wav``, ``a.flac``) they keep their endings; raises InputError
    where they still are.
    """
    short = {each.name: each.below.with_suffix(f".{ending}") for each in found}
    counts = Counter(short.values())
    long = {
        each.name: each.below.with_name(f"{each.below.name}.{ending}")
        for each in found
        if counts[short[each.name]] > 1
    }
    places = {name: folder / path for name, path in (short | long).items()}
    taken = {place: name for name, place in places.items()}
    for name, place in places.items():
        if taken[place] != name:
            raise InputError(
                f"{name} and {taken[place]} would both be written to {place}.",
                subject=name,
                hint="Transcribe them into two folders, or name the folder above both.",
            )
    return places


@contextmanager
def arrived(found: Sequence[Source]) -> Iterator[list[Source]]:
    """The sources with standard input, which is read to its end, in a temporary file; that is
    removed at the end.

    Raises InputError where it can't be written.
    """
    with ExitStack() as stack:
        yield [
            replace(each, path=stack.enter_context(_kept())) if each.path is None else each
            for each in found
        ]


@contextmanager
def _kept() -> Iterator[Path]:
    with tempfile.NamedTemporaryFile(prefix="transcribe-") as file:
        try:
            shutil.copyfileobj(sys.stdin.buffer, file)
            file.flush()
        except OSError as error:
            raise InputError(
                f"Standard input can't be kept in {file.name}: {error.strerror}.",
                subject=STDIN,
                hint="TMPDIR names another folder for it.",
            ) from None
        yield Path(file.name)
