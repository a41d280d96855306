"""``python -m components.splits``: checks that no id, speaker or recording stands on both sides of
training and test.

In: the manifests of all roles but ``noise``. Out: ``data/splits`` with a record whose content is
the same whenever all rules hold, so that a new test source reruns nothing that hangs on it. A
changed copy of a recording (a source of kind ``altered``) counts as that recording too. Cost: 0.3 s
for 14,000 utterances.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable
from itertools import combinations
from pathlib import Path

from components.config.errors import InputError
from components.corpus.manifest import MANIFEST, read_manifest, restore_original
from components.runtime.artifact import empty_folder, read_record, write_record
from components.runtime.stage import Stage, run_stage
from components.text.utterance import Utterance

CORPUS, OUT = Path("data/corpus"), Path("data/splits")
CHECKED = ("train", "dev", "test", "nonspeech-train", "nonspeech-test")
# Noise is mixed into speech and never transcribed or scored, so it may come from anywhere.
LEARNT, SCORED = ("train", "nonspeech-train"), ("test", "nonspeech-test")
RULES = [
    "no id stands in two roles",
    "no recording (SHA-256) stands in two roles",
    "no named speaker stands in training and in test",
]

# after the name of a source whose recordings are changed copies: those that they were made from
BEFORE = ", unaltered"

Where = dict[str, set[str]]  # id, digest or speaker → "role/source" of all places that hold it


def read_roles() -> dict[str, dict[str, list[Utterance]]]:
    """Manifests by role and source, with the recordings that changed copies were made from under a
    name of their own (``BEFORE``); raises InputError where a role's folder is not whole.
    """
    roles: dict[str, dict[str, list[Utterance]]] = {}
    for role in CHECKED:
        settings, found = read_record(CORPUS / role)["parameters"], {}
        for path in sorted((CORPUS / role).glob(f"*/{MANIFEST}")):
            name = path.parent.name
            found[name] = read_manifest(path.parent)
            if settings.get(name, {}).get("kind") == "altered":
                found[f"{name}{BEFORE}"] = [restore_original(row) for row in found[name]]
        roles[role] = found
    return roles


def places(
    sources: dict[str, list[Utterance]], role: str, value: Callable[[Utterance], str]
) -> Where:
    """Where each value that is not empty stands within one role."""
    found: Where = defaultdict(set)
    for name, rows in sources.items():
        for row in rows:
            if value(row):
                found[value(row)].add(f"{role}/{name}")
    return found


def shared(one: Where, other: Where) -> str:
    """The first few values that stand on both sides, with their places; empty where
    there is none.
    """
    both = sorted(one.keys() & other.keys())
    shown = [
        f"{value} ({', '.join([*sorted(one[value]), *sorted(other[value])])})" for value in both[:3]
    ]
    return f"{len(both)}: {'; '.join(shown)}{', …' if len(both) > 3 else ''}" if both else ""


def check(roles: dict[str, dict[str, list[Utterance]]]) -> list[str]:
    """Notes on what is allowed but worth knowing; raises InputError for the first rule that is
    broken.
    """
    _apart(
        roles,
        combinations(CHECKED, 2),
        lambda row: row.id,
        "ids",
        "Take one of the sources out, or rename its files.",
    )
    _apart(
        roles,
        combinations(CHECKED, 2),
        lambda row: row.sha256,
        "recordings",
        "The same audio lies under two names (SHA-256 given): take it out of one of the roles.",
    )
    across = [(learnt, scored) for learnt in LEARNT for scored in SCORED]
    _apart(
        roles,
        across,
        lambda row: row.speaker,
        "speakers",
        "Take them out of one side; where two corpora call different people the same, set "
        "'speaker_prefix' of the table.",
    )
    notes = []
    for one, other in (("train", "dev"), ("dev", "test")):
        both = shared(places(roles[one], one, _speaker), places(roles[other], other, _speaker))
        if both:
            notes.append(f"speakers in {one} and in {other}: {both}")
    return notes


def _speaker(row: Utterance) -> str:
    return row.speaker


def _apart(
    roles: dict[str, dict[str, list[Utterance]]],
    pairs: Iterable[tuple[str, str]],
    value: Callable[[Utterance], str],
    what: str,
    hint: str,
) -> None:
    """Raises InputError where two roles of a pair share a value."""
    for one, other in pairs:
        both = shared(places(roles[one], one, value), places(roles[other], other, value))
        if both:
            raise InputError(
                f"{what} in {one} and in {other}: {both}.", subject=f"{one}, {other}", hint=hint
            )


def work(stage: Stage) -> None:
    out = empty_folder(OUT)
    roles = read_roles()
    for note in check(roles):
        print(f"splits: note: {note}")
    counted = {
        role: sum(len(rows) for name, rows in sources.items() if not name.endswith(BEFORE))
        for role, sources in roles.items()
    }
    print(
        f"splits: {', '.join(f'{count} {role}' for role, count in counted.items())}: nothing "
        "stands on both sides"
    )
    stage.facts["utterances"] = counted
    write_record(out, "splits", parameters=None, inputs={}, rules=RULES)


if __name__ == "__main__":
    run_stage("splits", work, names=("corpus",))
