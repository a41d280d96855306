"""The systems that are scored: those of ``data/decode``, and other systems whose texts are in a
plain file.

In: ``data/decode/<role>/<set>.parquet``, and ``data/systems/<system>/<set>.tsv`` (UTF-8; a line is
id, tab, text; no header; the text may be empty). Out: the hypotheses of each set by system. Every
system must have exactly one text for each utterance of a set, and the same references. A missing,
unknown or duplicate id, a missing text, a broken line or the name of an own system stops before any
figure is computed. Cost: some 100,000 rows a second.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from components.config.errors import InputError, nearest
from components.decode.hypotheses import read_hypotheses
from components.score.metrics import REDECODE
from components.text.hypothesis import CTC, LLM_ONLY, WHISPER, Hypothesis

SUFFIX = ".tsv"
RESERVED = (CTC, LLM_ONLY, WHISPER)  # names of systems that decode may write


@dataclass(frozen=True)
class DecodedSet:
    """One source that was decoded: its role, and the hypotheses of each system in one order of
    utterances.
    """

    name: str
    role: str
    systems: dict[str, list[Hypothesis]]

    @property
    def is_speech(self) -> bool:
        """Whether it is a set of speech."""
        return not self.role.startswith("nonspeech")

    @property
    def utterances(self) -> list[Hypothesis]:
        """The hypotheses of one system, for the facts about the utterances."""
        return next(iter(self.systems.values()))


def read_sets(
    hypotheses: Path, other_systems: Path, own_names: Iterable[str] = ()
) -> list[DecodedSet]:
    """The sets in the folder ``hypotheses``, sorted by path, with the systems of the folder
    ``other_systems`` (which may be missing).

    ``own_names`` are names of own systems that need not be in the hypotheses. Raises InputError
    that names the file and the line or id.
    """
    sets: dict[str, DecodedSet] = {}
    for path in sorted(hypotheses.glob("*/*.parquet")):
        name = path.stem
        if name in sets:
            raise InputError(
                f"Two sources are called '{name}'.",
                subject=name,
                hint="Rename one in catalogue/corpus.yaml.",
            )
        systems = _by_system(read_hypotheses(path))
        if systems:  # none: the source has no utterance
            _check_texts(name, systems)
            sets[name] = DecodedSet(name, path.parent.name, _in_same_order(name, systems))
    used = (system for decoded in sets.values() for system in decoded.systems)
    reserved = {*RESERVED, *own_names, *used}
    for path in _system_files(other_systems, reserved):
        decoded = sets.get(path.stem)
        if decoded is None or path.suffix != SUFFIX:
            raise InputError(
                f"{path}: no set of speech or non-speech has this name.",
                subject=str(path),
                hint=f"{nearest(path.stem, sets)} The file's name is <set>{SUFFIX}.",
            )
        system = path.parent.name
        added = _read_system(path, system, decoded.utterances)
        sets[decoded.name] = replace(decoded, systems={**decoded.systems, system: added})
    return list(sets.values())


def _by_system(hypotheses: Iterable[Hypothesis]) -> dict[str, list[Hypothesis]]:
    systems: dict[str, list[Hypothesis]] = {}
    for hypothesis in hypotheses:
        systems.setdefault(hypothesis.system, []).append(hypothesis)
    return systems


def _system_files(root: Path, reserved: Iterable[str]) -> list[Path]:
    """The files of all systems below ``root``, hidden ones left out; raises InputError for a
    reserved name and for a text outside a system's folder.
    """
    for path in sorted(root.glob(f"*{SUFFIX}")):
        raise InputError(
            f"{path} is not in the folder of a system.",
            subject=str(path),
            hint=f"Move it to {root}/<system>/<set>{SUFFIX}.",
        )
    files: list[Path] = []
    for folder in sorted(path for path in root.glob("[!.]*") if path.is_dir()):
        if folder.name in reserved:
            raise InputError(
                f"{folder}: '{folder.name}' is the name of a system of this project.",
                subject=folder.name,
                hint="Rename the folder.",
            )
        files += sorted(path for path in folder.iterdir() if not path.name.startswith("."))
    return files


def _check_texts(name: str, systems: Mapping[str, list[Hypothesis]]) -> None:
    for system, hypotheses in systems.items():
        for hypothesis in hypotheses:
            texts = {"reference": hypothesis.reference, "text": hypothesis.text}
            for field, text in texts.items():
                if not isinstance(text, str):
                    raise InputError(
                        f"{name}: the {field} of '{hypothesis.utterance_id}' in the hypotheses of "
                        f"'{system}' is not a text: {text!r}.",
                        subject=hypothesis.utterance_id,
                        hint=REDECODE,
                    )


def _in_same_order(name: str, systems: dict[str, list[Hypothesis]]) -> dict[str, list[Hypothesis]]:
    """All systems with the utterances in the order of the first system; raises InputError if one
    has other utterances or references.
    """
    first = next(iter(systems.values()))
    references = {hypothesis.utterance_id: hypothesis.reference for hypothesis in first}
    for system, hypotheses in systems.items():
        counts = Counter(hypothesis.utterance_id for hypothesis in hypotheses)
        duplicates = {utterance_id for utterance_id, count in counts.items() if count > 1}
        wrong_ids = sorted((counts.keys() ^ references.keys()) | duplicates)
        if wrong_ids:
            raise InputError(
                f"{name}: missing or duplicate utterances in the hypotheses of '{system}': "
                f"{wrong_ids[:3]}.",
                subject=name,
                hint=REDECODE,
            )
        for hypothesis in hypotheses:
            if hypothesis.reference != references[hypothesis.utterance_id]:
                raise InputError(
                    f"{name}: '{hypothesis.utterance_id}' has another reference in the hypotheses "
                    f"of '{system}'.",
                    subject=hypothesis.utterance_id,
                    hint=REDECODE,
                )
    by_id = {
        system: {hypothesis.utterance_id: hypothesis for hypothesis in hypotheses}
        for system, hypotheses in systems.items()
    }
    return {
        system: [by_id[system][utterance_id] for utterance_id in references] for system in systems
    }


def read_texts(path: Path) -> dict[str, str]:
    """Text by id of one ``<set>.tsv``; raises InputError that names the file and the line."""
    try:
        lines = path.read_bytes().decode("utf-8-sig").split("\n")
    except UnicodeDecodeError as error:
        raise InputError(
            f"{path}: not UTF-8 text, at byte {error.start}.",
            subject=str(path),
            hint="Save it as UTF-8.",
        ) from None
    texts: dict[str, str] = {}
    for line_number, line in enumerate(lines, 1):
        if not line.strip("\r") and line_number == len(lines):  # after the end of the last line
            continue
        utterance_id, *fields = line.removesuffix("\r").split("\t")
        if len(fields) != 1 or not utterance_id:
            raise InputError(
                f"{path}, line {line_number}: not an id, one tab and a text: {line[:60]!r}.",
                subject=str(path),
                hint="A line is one utterance; the tab is needed before an empty text too.",
            )
        if utterance_id in texts:
            raise InputError(
                f"{path}, line {line_number}: second line of '{utterance_id}'.",
                subject=utterance_id,
                hint="Remove one of the two.",
            )
        texts[utterance_id] = fields[0]
    return texts


def _read_system(path: Path, system: str, utterances: list[Hypothesis]) -> list[Hypothesis]:
    """The texts of a file as hypotheses of ``utterances``; raises InputError for ids that are
    missing or unknown.
    """
    texts = read_texts(path)
    ids = {utterance.utterance_id for utterance in utterances}
    if unknown := sorted(texts.keys() - ids):
        raise InputError(
            f"{path}: {len(unknown)} ids are unknown, such as {unknown[:3]}.",
            subject=unknown[0],
            hint="Use the ids of data/decode.",
        )
    if missing := sorted(ids - texts.keys()):
        raise InputError(
            f"{path}: {len(missing)} utterances are missing, such as {missing[:3]}.",
            subject=missing[0],
            hint="Add a line for each; if nothing was recognised, its text is empty.",
        )
    return [
        replace(
            utterance,
            system=system,
            text=texts[utterance.utterance_id],
            tokens=[],
            score=math.nan,
            alternatives=[],
        )
        for utterance in utterances
    ]
