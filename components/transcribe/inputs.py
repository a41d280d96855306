"""The recordings that a command line names: files, folders and standard input, and the file for the
text of each.

In: paths, ``-`` among them. Out: inputs in their order, folders searched and sorted, and what is
left out of the folders, with the reason. Cost: reading the headers, for the length.
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

from components.audio.endings import (
    ENDINGS,
    UNREADABLE,
    is_recording,
    is_unreadable_recording,
)
from components.audio.sound import BrokenSound, read_duration_s
from components.config.errors import InputError
from components.runtime.folders import list_folder, printable
from components.runtime.s3 import RemotePath

STDIN = "-"


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


@dataclass(frozen=True)
class InputListing:
    """What a command line names: what is transcribed, and why the rest of it is left out."""

    inputs: list[AudioInput]
    left_out: dict[str, str]  # reason by the name of a file or folder


def list_inputs(names: Sequence[str]) -> InputListing:
    """The inputs that a command line names, each once. A file of a folder counts where its ending
    is that of a recording and no part of its path is hidden.

    Raises InputError for a path that does not exist and for a folder without recordings.
    """
    inputs: dict[str, AudioInput] = {}
    left_out: dict[str, str] = {}
    for name in names:
        listing = _inputs_of(name)
        for audio_input in listing.inputs:
            inputs.setdefault(audio_input.name, audio_input)
        left_out |= listing.left_out
    return InputListing(list(inputs.values()), left_out)


def _inputs_of(name: str) -> InputListing:
    path = Path(name)
    if name == STDIN:
        return InputListing([AudioInput(STDIN, None, Path("stdin"))], {})
    if path.is_dir():
        files, left_out = list_recordings(path)
        return InputListing(
            [AudioInput(printable(f"{path / file}"), path / file, Path(file)) for file in files],
            left_out,
        )
    if not path.exists():
        raise InputError(
            f"{name} is neither a file nor a folder.", subject=name, hint="Check the path."
        )
    return InputListing([AudioInput(printable(name), path, Path(path.name))], {})


def list_recordings(folder: Path | RemotePath) -> tuple[dict[str, int], dict[str, str]]:
    """Bytes of each recording of a folder or bucket, by its path below it, and the reason for each
    that can't be read, by its name; raises InputError if there is none of both.
    """
    listing = list_folder(folder)
    sizes = {
        file: size
        for file, size in listing.sizes.items()
        if is_recording(PurePath(file)) and not _is_hidden(file)
    }
    unread = {file: UNREADABLE for file in listing.sizes if is_unreadable_recording(PurePath(file))}
    faults = {
        file: reason for file, reason in listing.faults.items() if is_recording(PurePath(file))
    }
    left_out = {
        printable(f"{folder}/{file}").rstrip("/"): reason
        for file, reason in {**unread, **faults, **listing.unreadable, **listing.repeated}.items()
        if not _is_hidden(file)
    }
    if not sizes and not left_out:
        raise InputError(
            f"{folder} contains no sound file.",
            subject=str(folder),
            hint=f"Known endings: {', '.join(sorted(ENDINGS))}.",
        )
    return sizes, left_out


def _is_hidden(file: str) -> bool:
    return any(part.startswith(".") for part in PurePath(file).parts)


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
