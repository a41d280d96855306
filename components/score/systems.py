"""Whose texts are scored: the systems of ``data/decode``, and others beside them that left a plain
file.

In: ``data/decode/<role>/<set>.parquet``, and ``data/systems/<system>/<set>.tsv`` (UTF-8, a line:
id, tab, text; no header; an empty text is a text). Out: the rows of each set by system. Every
system must have said something about each utterance of a set, once, and against the same
references: a missing, unknown or doubled id, a text that is no text, a broken line or a name that
is taken stops before any figure is made. Cost: some 100,000 rows a second.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from components.config.errors import InputError, nearest
from components.decode.hypotheses import read_hypotheses
from components.text.hypothesis import CTC, LLM_ONLY, WHISPER, Hypothesis

SUFFIX = ".tsv"
TAKEN = (CTC, LLM_ONLY, WHISPER)  # names of systems that decode may write
AGAIN = "Run 'dvc repro -f decode'."


@dataclass(frozen=True)
class Set:
    """One source that was decoded: its role, and the rows of each system in one order of
    utterances.
    """

    name: str
    role: str
    systems: dict[str, list[Hypothesis]]

    @property
    def rows(self) -> list[Hypothesis]:
        """Rows of one system: for what they say of the utterances."""
        return next(iter(self.systems.values()))


def by_system(rows: Iterable[Hypothesis]) -> dict[str, list[Hypothesis]]:
    """Rows by system, in the order of their first row."""
    found: dict[str, list[Hypothesis]] = {}
    for row in rows:
        found.setdefault(row.system, []).append(row)
    return found


def read_sets(hypotheses: Path, others: Path, taken: Iterable[str] = ()) -> list[Set]:
    """The sets below ``hypotheses``, sorted by path, with the systems of the folder ``others``
    (which may be missing).

    ``taken`` are names of ours beside those that stand in the hypotheses. Raises InputError that
    names the file and the line or id.
    """
    found: dict[str, Set] = {}
    for path in sorted(hypotheses.glob("*/*.parquet")):
        name, systems = path.stem, by_system(read_hypotheses(path))
        if name in found:
            raise InputError(
                f"Two sources are called '{name}'.",
                subject=name,
                hint="Rename one in catalogue/corpus.yaml.",
            )
        if systems:  # else the source has no utterance
            _check_texts(name, systems)
            found[name] = Set(name, path.parent.name, _in_one_order(name, systems))
    ours = {*TAKEN, *taken, *(system for each in found.values() for system in each.systems)}
    for file in sorted(others.glob(f"*{SUFFIX}")):
        raise InputError(
            f"{file} is of no system.",
            subject=str(file),
            hint=f"Move it to {others}/<system>/<set>{SUFFIX}.",
        )
    for folder in sorted(path for path in others.glob("[!.]*") if path.is_dir()):
        if folder.name in ours:
            raise InputError(
                f"{folder}: a system of ours is called '{folder.name}' too.",
                subject=folder.name,
                hint="Rename the folder.",
            )
        for path in sorted(path for path in folder.iterdir() if not path.name.startswith(".")):
            each = found.get(path.stem)
            if each is None or path.suffix != SUFFIX:
                raise InputError(
                    f"{path}: no set of speech or non-speech is called so.",
                    subject=str(path),
                    hint=f"{nearest(path.stem, found)} The file's name is <set>{SUFFIX}.",
                )
            found[each.name] = replace(
                each, systems={**each.systems, folder.name: _joined(path, folder.name, each.rows)}
            )
    return list(found.values())


def _check_texts(name: str, systems: Mapping[str, list[Hypothesis]]) -> None:
    for system, rows in systems.items():
        for row in rows:
            for what, text in (("reference", row.reference), ("text", row.text)):
                if not isinstance(text, str):
                    raise InputError(
                        f"{name}: the {what} of '{row.utterance_id}' in the hypotheses of '{system}' is "
                        f"no text: {text!r}.",
                        subject=row.utterance_id,
                        hint=AGAIN,
                    )


def _in_one_order(name: str, systems: dict[str, list[Hypothesis]]) -> dict[str, list[Hypothesis]]:
    """The systems, each with the utterances of the first in its order; raises InputError where one
    has others or other references.
    """
    first = next(iter(systems.values()))
    wanted = {row.utterance_id: row.reference for row in first}
    for system, rows in systems.items():
        counts = Counter(row.utterance_id for row in rows)
        wrong = sorted(
            (counts.keys() ^ wanted.keys()) | {each for each, count in counts.items() if count > 1}
        )
        if wrong:
            raise InputError(
                f"{name}: the hypotheses of '{system}' miss or double {wrong[:3]}.",
                subject=name,
                hint=AGAIN,
            )
        other = next(
            (row.utterance_id for row in rows if row.reference != wanted[row.utterance_id]), None
        )
        if other is not None:
            raise InputError(
                f"{name}: '{other}' has another reference in the hypotheses of '{system}'.",
                subject=other,
                hint=AGAIN,
            )
    held = {system: {row.utterance_id: row for row in rows} for system, rows in systems.items()}
    return {system: [held[system][row.utterance_id] for row in first] for system in systems}


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
    for number, line in enumerate(lines, 1):
        if not line.strip("\r") and number == len(lines):  # after the last line's end
            continue
        name, *text = line.removesuffix("\r").split("\t")
        if len(text) != 1 or not name:
            raise InputError(
                f"{path}, line {number}: not an id, one tab and a text: {line[:60]!r}.",
                subject=str(path),
                hint="A line is one utterance; an empty text keeps its tab.",
            )
        if name in texts:
            raise InputError(
                f"{path}, line {number}: '{name}' stands there twice.",
                subject=name,
                hint="Keep one line of it.",
            )
        texts[name] = text[0]
    return texts


def _joined(path: Path, system: str, rows: list[Hypothesis]) -> list[Hypothesis]:
    """The texts of a file as rows beside ``rows`` of the same set; raises InputError for ids that
    are missing or unknown.
    """
    texts = read_texts(path)
    known = {row.utterance_id for row in rows}
    if unknown := sorted(texts.keys() - known):
        raise InputError(
            f"{path}: {len(unknown)} ids are unknown, such as {unknown[:3]}.",
            subject=unknown[0],
            hint="Ids are those of data/decode.",
        )
    if missing := sorted(known - texts.keys()):
        raise InputError(
            f"{path}: {len(missing)} utterances are missing, such as {missing[:3]}.",
            subject=missing[0],
            hint="Give each a line; where nothing was recognised its text is empty.",
        )
    return [
        replace(
            row,
            system=system,
            text=texts[row.utterance_id],
            tokens=[],
            score=math.nan,
            alternatives=[],
        )
        for row in rows
    ]
