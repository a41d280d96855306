"""The recordings that a command line names: files, folders and standard input, and the file for the
text of each.

In: paths, ``-`` among them. Out: sources in their order, folders searched and sorted. In a folder
those files count whose ending libsndfile knows. Cost: reading the headers, for the length.
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
ENDINGS -= {".raw"}  # it has no header, so its rate is unknown


@dataclass(frozen=True)
class AudioInput:
    """A file, or standard input that is not read yet if ``path`` is None."""

    name: str  # as printed: always valid text
    path: Path | None
    below: Path  # relative to the folder that the command line names

    def seconds(self) -> float:
        """Its length by its header; 0 if the header does not say."""
        try:
            return read_duration_s(self.path) if self.path is not None else 0.0
        except BrokenSound:
            return 0.0


def list_inputs(names: Sequence[str]) -> list[AudioInput]:
    """The inputs that a command line names, each once; raises InputError for a path that does not
    exist and for a folder without sound.
    """
    inputs: dict[str, AudioInput] = {}
    for name in names:
        for audio_input in _inputs_of(name):
            inputs.setdefault(audio_input.name, audio_input)
    return list(inputs.values())


def _inputs_of(name: str) -> list[AudioInput]:
    path = Path(name)
    if name == STDIN:
        return [AudioInput(STDIN, None, Path("stdin"))]
    if path.is_dir():
        files = sorted(
            file for file in path.rglob("*") if is_sound(file.relative_to(path)) and file.is_file()
        )
        if not files:
            raise InputError(
                f"{name} contains no sound file.",
                subject=name,
                hint=f"Known endings: {', '.join(sorted(ENDINGS))}.",
            )
        return [AudioInput(printable(str(file)), file, file.relative_to(path)) for file in files]
    if not path.exists():
        raise InputError(
            f"{name} is neither a file nor a folder.", subject=name, hint="Check the path."
        )
    return [AudioInput(printable(name), path, Path(path.name))]


def printable(name: str) -> str:
    """A path's name as valid text: a byte that is no UTF-8 becomes its number."""
    return name.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")


def is_sound(path: PurePath) -> bool:
    """Whether a path below a folder counts as a recording: a known ending, and no hidden part."""
    return path.suffix.lower() in ENDINGS and not any(part.startswith(".") for part in path.parts)


def output_paths(inputs: Sequence[AudioInput], folder: Path, ending: str) -> dict[str, Path]:
    """The file below ``folder`` for the text of each input, by its name: at the place that the
    input has below the folder that was named.

    If two would be the same (``a.wav``, ``a.flac``) they keep their endings; raises InputError if
    they are still the same.
    """
    short = {
        audio_input.name: audio_input.below.with_suffix(f".{ending}") for audio_input in inputs
    }
    counts = Counter(short.values())
    long = {
        audio_input.name: audio_input.below.with_name(f"{audio_input.below.name}.{ending}")
        for audio_input in inputs
        if counts[short[audio_input.name]] > 1
    }
    paths = {name: folder / path for name, path in (short | long).items()}
    names = {path: name for name, path in paths.items()}
    for name, path in paths.items():
        if names[path] != name:
            raise InputError(
                f"{name} and {names[path]} would both be written to {path}.",
                subject=name,
                hint="Transcribe them into two folders, or name the folder above both.",
            )
    return paths


@contextmanager
def with_stdin_in_file(inputs: Sequence[AudioInput]) -> Iterator[list[AudioInput]]:
    """The inputs with standard input in a temporary file, which is removed at the end.

    Raises InputError if the file cannot be written.
    """
    with ExitStack() as stack:
        yield [
            replace(audio_input, path=stack.enter_context(_stdin_file()))
            if audio_input.path is None
            else audio_input
            for audio_input in inputs
        ]


@contextmanager
def _stdin_file() -> Iterator[Path]:
    with tempfile.NamedTemporaryFile(prefix="transcribe-") as file:
        try:
            shutil.copyfileobj(sys.stdin.buffer, file)
            file.flush()
        except OSError as error:
            raise InputError(
                f"Standard input cannot be written to {file.name}: {error.strerror}.",
                subject=STDIN,
                hint="Set TMPDIR to another folder.",
            ) from None
        yield Path(file.name)
