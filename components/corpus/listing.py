"""Listing of file sources: entries (recordings and transcripts, as found) → kept utterances and
rejects.

Every file is decoded in full once; what was seen of it stays in the work cache, so that a killed or
repeated listing goes on where it stood. Cost: about 1,000 s of FLAC a second and core the first
time, next to nothing after that.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property, partial
from pathlib import Path
from typing import Any, Generic, Protocol, TypeVar

import soundfile

from components.audio.sound import BrokenSound, decode_file, is_silent
from components.config.catalogue import SPEECH_ROLES
from components.config.errors import InputError, nearest
from components.corpus import RESULT_VERSION
from components.corpus.manifest import Reject
from components.corpus.source import parse_settings
from components.runtime.data_roots import data_root
from components.runtime.hashing import data_digest, file_digest, seed_of
from components.runtime.pool import fan_out
from components.runtime.progress import progress
from components.runtime.s3 import RemotePath, as_path
from components.runtime.unit_cache import cached_unit
from components.text.utterance import Utterance

CHUNK = 128  # files looked at together: one unit of the work cache, some seconds of work
FACTS = "facts.json"
JUDGED = 2  # enters the keys of facts: raise it when components.audio.sound judges a file otherwise
SILENT = (
    "silent: nothing is louder than -80 dB of full scale"  # why a recording of speech is refused
)
# the way out where a folder is missing
FETCH = "What is published comes with 'python -m components.corpus fetch'."


@dataclass(frozen=True, slots=True)
class ListedRecording:
    """One recording or transcript as a source lists it, before its sound is looked at."""

    id: str
    path: str  # relative to the source's root: where its file lies, or should lie
    text: str | None  # None: no transcript was found
    speaker: str
    language: str
    fault: str = ""  # reason to refuse it that the listing itself shows


@dataclass(frozen=True)
class AcceptanceRules:
    """What a source asks of its recordings. Silence is refused in the speech roles only; speech has
    no limits of length here: ``train.max_seconds`` leaves long utterances out of training, and
    evaluation is never cut.
    """

    role: str
    rate: int | None = None  # Hz; None: any
    mono: bool = False
    min_seconds: float = 0.0
    max_seconds: float = math.inf


@dataclass(frozen=True, slots=True)
class InspectedFile:
    """What was seen of one file; with a ``fault`` the numbers mean nothing."""

    fault: str = ""
    rate: int = 0  # Hz
    samples: int = 0  # per channel
    channels: int = 0
    silent: bool = False
    sha256: str = ""  # of the file's bytes


class HasRoot(Protocol):
    """Settings that name a data root."""

    @property
    def root(self) -> str: ...


S = TypeVar("S", bound=HasRoot)


class FileSource(Generic[S]):
    """What the kinds of sources that read files below a data root have in common; ``settings`` are
    those of the kind.
    """

    def __init__(self, cls: type[S], name: str, role: str, settings: dict[str, Any]) -> None:
        self.name, self.role = name, role
        self.settings = parse_settings(cls, name, role, settings)

    @cached_property
    def _root(self) -> Path | RemotePath:
        return data_root(self.settings.root)

    def locate(self, path: str) -> Path | RemotePath:
        return self._root / path

    def _check_folder(self, folder: str) -> None:
        """Raises InputError with the nearest name where no such folder is below the data root."""
        if not (self._root / folder).is_dir():
            above = (self._root / folder).parent
            known = (
                [
                    path.relative_to(str(self._root)).as_posix()
                    for path in above.iterdir()
                    if path.is_dir()
                ]
                if above.is_dir()
                else []
            )
            raise InputError(
                f"source '{self.name}': no folder '{folder}' is in the data root "
                f"'{self.settings.root}'.",
                subject=folder,
                hint=f"{nearest(folder, known)} {FETCH}",
            )


def list_sizes_below(
    root: Path | RemotePath, folder: str, takes: Callable[[str], bool]
) -> dict[str, int]:
    """Size in bytes of each file at any depth of ``folder`` whose path ``takes`` wants, by that
    path, which is relative to ``root``, in sorted order. Folders that are links are followed; a
    folder that is not there gives nothing.
    """
    if isinstance(root, RemotePath):
        held = {
            path.relative_to(root).as_posix(): size
            for path, size in (root / folder).file_sizes().items()
        }
        return {path: held[path] for path in sorted(held) if takes(path)}
    files = (
        Path(above, name)
        for above, _, names in os.walk(root / folder, followlinks=True)
        for name in names
    )
    places = ((file.relative_to(root).as_posix(), file) for file in files)
    return dict(sorted((place, file.stat().st_size) for place, file in places if takes(place)))


def read_sizes(root: Path | RemotePath, paths: Iterable[str]) -> dict[str, int]:
    """Size in bytes of those of the ``paths`` below ``root`` at which a file lies, in sorted order.
    A bucket is listed, not asked for each."""
    if isinstance(root, RemotePath):
        wanted = set(paths)
        return list_sizes_below(root, ".", wanted.__contains__)
    return {path: (root / path).stat().st_size for path in sorted(paths) if (root / path).is_file()}


def read_lines(root: Path | RemotePath, path: str) -> Iterator[str]:
    """The lines of a text file below ``root`` that are not blank, as they are read: those of
    English MLS are 2 GB. Raises InputError where the file is not UTF-8.
    """
    try:
        with (root / path).open(encoding="utf-8") as stream:
            for line in stream:
                yield from (part for part in line.splitlines() if part.strip())
    except UnicodeDecodeError:
        raise InputError(
            f"{path}: not UTF-8 text.", subject=path, hint="Take the file as published."
        ) from None


def build_scan(
    root: Path | RemotePath, files: dict[str, int], texts: Iterable[str]
) -> dict[str, Any]:
    """The scan of a file source: relative paths and sizes, one digest of the files in ``texts``
    (read in full), one of all.
    """
    listed = [[path, size] for path, size in sorted(files.items())]
    words = data_digest([[path, file_digest(root / path)] for path in sorted(texts)])
    return {"files": listed, "texts": words, "digest": data_digest([listed, words])}


def check_speech_role(name: str, role: str, kind: str) -> None:
    """Raises InputError where a kind that gives speech with transcripts stands in a role without
    transcripts.
    """
    if role not in SPEECH_ROLES:
        raise InputError(
            f"source '{name}': the kind '{kind}' gives transcribed speech, which the role "
            f"'{role}' does not take.",
            subject=name,
            hint=(
                "List it as 'clips' or as 'table' without a text column, or give it another role."
            ),
        )


def check_recordings(
    name: str,
    root: Path | RemotePath,
    entries: Sequence[ListedRecording],
    there: Iterable[str],
    rules: AcceptanceRules,
) -> tuple[list[Utterance], list[Reject]]:
    """Every entry as kept or rejected, each sorted by id; ``there`` are the paths at which files
    lie below ``root``.

    Two entries of one file are both refused: which of them is right is not known. Of two files with
    one id the first by path stands.
    """
    faults = _listing_faults(entries, set(there), rules)
    sound = sorted({entry.path for entry, fault in zip(entries, faults, strict=True) if not fault})
    facts = _facts(name, root, sound)
    kept, rejected = [], []
    for entry, fault in zip(entries, faults, strict=True):
        seen = facts.get(entry.path, InspectedFile())
        reason = fault or _sound_fault(seen, rules)
        if reason:
            rejected.append(Reject(entry.id, entry.path, reason))
        else:
            kept.append(
                Utterance(
                    entry.id,
                    rules.role,
                    entry.speaker,
                    entry.language,
                    entry.path,
                    seen.rate,
                    seen.samples,
                    (entry.text or "").strip(),
                    seen.sha256,
                )
            )
    if len(kept) + len(rejected) != len(entries):
        raise RuntimeError(
            f"source '{name}': {len(entries)} found, but {len(kept)} kept and {len(rejected)} "
            "rejected."
        )
    return sorted(kept, key=lambda row: row.id), sorted(
        rejected, key=lambda row: (row.id, row.path, row.reason)
    )


def _listing_faults(
    entries: Sequence[ListedRecording], there: set[str], rules: AcceptanceRules
) -> list[str]:
    """The fault of each entry that shows without opening its file, or an empty string."""
    named = Counter(entry.path for entry in entries)
    owner: dict[str, str] = {}
    for entry in sorted(entries, key=lambda entry: entry.path):
        owner.setdefault(entry.id, entry.path)
    speech = rules.role in SPEECH_ROLES

    def fault(entry: ListedRecording) -> str:
        if entry.fault:
            return entry.fault
        if entry.path not in there:
            return (
                "transcript without audio: no such file" if speech else "missing file: no such file"
            )
        if named[entry.path] > 1:
            return f"duplicate transcript: {named[entry.path]} entries name this file; leave one"
        if speech and not (entry.text or "").strip():
            return "missing transcript: " + (
                "none was found" if entry.text is None else "it is empty"
            )
        if owner[entry.id] != entry.path:
            return f"duplicate id: taken by {owner[entry.id]}"
        return ""

    return [fault(entry) for entry in entries]


def _sound_fault(seen: InspectedFile, rules: AcceptanceRules) -> str:
    """Why a file that was looked at is refused, or an empty string."""
    if seen.fault:
        return seen.fault
    if rules.rate and seen.rate != rules.rate:
        return f"wrong rate: {seen.rate} Hz where {rules.rate} is expected"
    if rules.mono and seen.channels != 1:
        return f"stereo: {seen.channels} channels where one is expected"
    seconds = seen.samples / seen.rate
    if not rules.min_seconds <= seconds <= rules.max_seconds:
        short = seconds < rules.min_seconds
        limit = f"at least {rules.min_seconds:g}" if short else f"at most {rules.max_seconds:g}"
        return f"too {'short' if short else 'long'}: {seconds:.2f} s where {limit} are asked for"
    if seen.silent and rules.role in SPEECH_ROLES:
        return SILENT
    return ""


def _facts(name: str, root: Path | RemotePath, paths: Sequence[str]) -> dict[str, InspectedFile]:
    """What is seen of each file, looked at by the worker processes of this machine."""
    facts: dict[str, InspectedFile] = {}
    with progress("corpus", f"looking at {name}", len(paths), "files") as bar:
        for chunk, seen in fan_out(partial(_look, str(root)), _chunks(paths)):
            facts.update(seen)
            bar.advance(len(chunk))
    return facts


def _chunks(paths: Sequence[str]) -> list[list[str]]:
    """Paths dealt by their digest into a power of two of chunks: one file more leaves the other
    chunks as they are.
    """
    count = 1
    while count * CHUNK < len(paths):
        count *= 2
    chunks: dict[int, list[str]] = defaultdict(list)
    for path in paths:
        chunks[seed_of(path) % count].append(path)
    return [chunks[number] for number in sorted(chunks)]


def _look(root: str, paths: list[str]) -> dict[str, InspectedFile]:
    """The facts of one chunk, from the work cache while path, size and time of change of all its
    files are the same.
    """
    stamps = [[path, *_stamp(as_path(root) / path)] for path in paths]
    key = {
        "version": RESULT_VERSION,
        "judged": JUDGED,
        "libsndfile": soundfile.__libsndfile_version__,
        "root": root,
        "files": stamps,
    }

    def make(folder: Path) -> None:
        rows = {path: asdict(inspect_file(as_path(root) / path)) for path in paths}
        (folder / FACTS).write_text(json.dumps(rows, indent=0))

    rows = json.loads((cached_unit("corpus", key, make, code=__name__) / FACTS).read_text())
    return {path: InspectedFile(**row) for path, row in rows.items()}


def _stamp(path: Path | RemotePath) -> tuple[int, int]:
    try:
        status = path.stat()
    except OSError:
        return 0, 0
    return status.st_size, status.st_mtime_ns


def inspect_file(path: Path | RemotePath) -> InspectedFile:
    """Reads and decodes one file in full."""
    try:
        data = path.read_bytes()
    except OSError as error:
        return InspectedFile(f"unreadable: {error.strerror}")
    if not data:
        return InspectedFile("empty: the file has no bytes")
    try:
        sound = decode_file(data)
    except BrokenSound as reason:
        return InspectedFile(str(reason))
    digest = hashlib.sha256(data).hexdigest()
    return InspectedFile(
        "", sound.rate, len(sound.samples), sound.channels, is_silent(sound.samples), digest
    )
