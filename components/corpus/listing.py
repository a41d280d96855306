"""Listing of file sources: recordings and transcripts → accepted utterances and rejects.

In: what a source lists, and its rules. Out: one row for each listed recording, either an
``Utterance`` or a ``Reject`` with the reason. Cost: that of ``components.corpus.inspection``.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from components.config.catalogue import SPEECH_ROLES
from components.corpus.inspection import InspectedFile, inspect_files
from components.corpus.manifest import Reject
from components.runtime.s3 import RemotePath
from components.text.utterance import Utterance

SILENT = "silent: nothing is louder than -80 dB of full scale"  # reason in the speech roles

# s. An encoder's first frame needs 25 ms; without one a recording would stop the stage features for
# its role. In training, features.augment.speed may halve it.
SHORTEST_SECONDS, SHORTEST_TRAINING_SECONDS = 0.025, 0.05


@dataclass(frozen=True, slots=True)
class ListedRecording:
    """One recording or transcript as a source lists it, before its sound is inspected."""

    id: str
    path: str  # where its file is or should be, relative to the source's root
    text: str | None  # None: no transcript was found
    speaker: str
    language: str
    fault: str = ""  # reason to refuse it that the listing itself shows


@dataclass(frozen=True)
class AcceptanceRules:
    """What a source requires of its recordings.

    Silence is refused in the speech roles only. Speech has no upper limit of length here:
    ``train.max_seconds`` leaves long utterances out of training, and evaluation is never shortened.
    """

    role: str
    rate: int | None = None  # Hz; None: any
    needs_mono: bool = False
    min_seconds: float = 0.0
    max_seconds: float = math.inf


def check_recordings(
    name: str,
    root: Path | RemotePath,
    recordings: Sequence[ListedRecording],
    existing_paths: Iterable[str],
    rules: AcceptanceRules,
    inspected: Mapping[str, InspectedFile] | None = None,
) -> tuple[list[Utterance], list[Reject]]:
    """Every recording of the source ``name`` as accepted or rejected, each sorted by id.

    ``existing_paths`` are the paths below ``root`` at which there are files; ``inspected`` is what
    they contain, where that is known: they are inspected otherwise. Two recordings that
    name one file are both refused, since it is unknown which is right; of two files with one id the
    first by path is accepted.
    """
    faults = _listing_faults(recordings, set(existing_paths), rules)
    pairs = list(zip(recordings, faults, strict=True))
    if inspected is None:
        paths = sorted({recording.path for recording, fault in pairs if not fault})
        inspected = inspect_files(name, root, paths)
    accepted, rejected = [], []
    for recording, fault in pairs:
        file = inspected.get(recording.path, InspectedFile())
        reason = fault or _sound_fault(file, rules)
        if reason:
            rejected.append(Reject(recording.id, recording.path, reason))
        else:
            accepted.append(_utterance(recording, file, rules.role))
    if len(accepted) + len(rejected) != len(recordings):
        raise RuntimeError(
            f"source '{name}': {len(recordings)} listed, but {len(accepted)} accepted and "
            f"{len(rejected)} rejected."
        )
    return (
        sorted(accepted, key=lambda utterance: utterance.id),
        sorted(rejected, key=lambda reject: (reject.id, reject.path, reject.reason)),
    )


def _utterance(recording: ListedRecording, file: InspectedFile, role: str) -> Utterance:
    return Utterance(
        id=recording.id,
        split=role,
        speaker=recording.speaker,
        language=recording.language,
        path=recording.path,
        sample_rate=file.rate,
        samples=file.samples,
        text=(recording.text or "").strip(),
        sha256=file.sha256,
    )


def _listing_faults(
    recordings: Sequence[ListedRecording], existing_paths: set[str], rules: AcceptanceRules
) -> list[str]:
    """The fault of each recording that shows without opening its file, or an empty string."""
    num_by_path = Counter(recording.path for recording in recordings)
    first_path_by_id: dict[str, str] = {}
    for recording in sorted(recordings, key=lambda recording: recording.path):
        first_path_by_id.setdefault(recording.id, recording.path)
    is_speech = rules.role in SPEECH_ROLES

    def find_fault(recording: ListedRecording) -> str:
        path = recording.path
        if recording.fault:
            return recording.fault
        if path not in existing_paths:
            kind = "transcript without audio" if is_speech else "missing file"
            return f"{kind}: no such file"
        if num_by_path[path] > 1:
            return f"duplicate transcript: {num_by_path[path]} entries name this file; leave one"
        if is_speech and not (recording.text or "").strip():
            problem = "none was found" if recording.text is None else "it is empty"
            return f"missing transcript: {problem}"
        if first_path_by_id[recording.id] != path:
            return f"duplicate id: taken by {first_path_by_id[recording.id]}"
        return ""

    return [find_fault(recording) for recording in recordings]


def _shortest_of(role: str) -> float:
    """Seconds below which a recording has no frame, whatever the encoder is."""
    if role == "noise":  # it is mixed into speech, an encoder never reads it alone
        return 0.0
    return SHORTEST_TRAINING_SECONDS if role.endswith("train") else SHORTEST_SECONDS


def _sound_fault(file: InspectedFile, rules: AcceptanceRules) -> str:
    """Why an inspected file is refused, or an empty string."""
    if file.fault:
        return file.fault
    if rules.rate and file.rate != rules.rate:
        return f"wrong rate: {file.rate} Hz where {rules.rate} is expected"
    if rules.needs_mono and file.channels != 1:
        return f"stereo: {file.channels} channels where one is expected"
    duration_s = file.samples / file.rate
    min_seconds = max(rules.min_seconds, _shortest_of(rules.role))
    if not min_seconds <= duration_s <= rules.max_seconds:
        is_short = duration_s < min_seconds
        bound = f"at least {min_seconds:g}" if is_short else f"at most {rules.max_seconds:g}"
        size = "short" if is_short else "long"
        length = f"{duration_s:.2f} s" if duration_s >= 0.01 else f"{file.samples} samples"
        return f"too {size}: {length} where {bound} s are required"
    if file.is_silent and rules.role in SPEECH_ROLES:
        return SILENT
    return ""
