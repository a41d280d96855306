"""``python -m components.splits``: checks that no id, speaker or recording is in training and in
test.

In: the manifests of all roles but ``noise``. Out: ``data/splits`` with a record whose content is
the same whenever all rules hold, so that a new test source reruns nothing that depends on it. An
altered copy of a recording (a source of kind ``altered``) counts as that recording too. Cost: 0.3 s
for 14,000 utterances.
"""

from __future__ import annotations

import logging
from collections import defaultdict
from collections.abc import Callable, Iterable
from itertools import combinations, product
from pathlib import Path

from components.audio.condition import ALTERED_KIND
from components.config.errors import InputError
from components.runtime.artifact import empty_folder, read_record, write_record
from components.runtime.stage import Stage, run_stage
from components.text.utterance import Utterance

logger = logging.getLogger("components.splits")

CORPUS, OUT = Path("data/corpus"), Path("data/splits")
# Noise is mixed into speech and never transcribed or scored, so it may come from anywhere.
CHECKED_ROLES = ("train", "dev", "test", "nonspeech-train", "nonspeech-test")
TRAINING_ROLES, TEST_ROLES = ("train", "nonspeech-train"), ("test", "nonspeech-test")
RULES = [  # as recorded
    "no id stands in two roles",
    "no recording (SHA-256) stands in two roles",
    "no named speaker stands in training and in test",
]
# after the name of a source of altered copies: the recordings that they were made from
UNALTERED = ", unaltered"

UtterancesBySource = dict[str, list[Utterance]]
Locations = dict[str, set[str]]  # id, digest or speaker → "role/source" of all that contain it


def read_roles() -> dict[str, UtterancesBySource]:
    """Utterances by role and source; the originals of altered copies have a name of their own
    (``UNALTERED``).

    Raises InputError if the folder of a role is not complete.
    """
    # Imported here, so that --help needs no library.
    from components.corpus.manifest import MANIFEST, read_manifest, restore_original

    roles: dict[str, UtterancesBySource] = {}
    for role in CHECKED_ROLES:
        settings, sources = read_record(CORPUS / role)["parameters"], {}
        for path in sorted((CORPUS / role).glob(f"*/{MANIFEST}")):
            name = path.parent.name
            sources[name] = read_manifest(path.parent)
            if settings.get(name, {}).get("kind") == ALTERED_KIND:
                sources[f"{name}{UNALTERED}"] = [
                    restore_original(utterance) for utterance in sources[name]
                ]
        roles[role] = sources
    return roles


def find_locations(
    sources: UtterancesBySource, role: str, value_of: Callable[[Utterance], str]
) -> Locations:
    """The sources of one role that contain each value; empty values are left out."""
    locations: Locations = defaultdict(set)
    for name, utterances in sources.items():
        for utterance in utterances:
            value = value_of(utterance)
            if value:
                locations[value].add(f"{role}/{name}")
    return locations


def describe_shared(first: Locations, second: Locations) -> str:
    """Number and the first three of the values on both sides, with their locations; empty if there
    is none.
    """
    shared = sorted(first.keys() & second.keys())
    if not shared:
        return ""
    examples = [
        f"{value} ({', '.join([*sorted(first[value]), *sorted(second[value])])})"
        for value in shared[:3]
    ]
    return f"{len(shared)}: {'; '.join(examples)}{', …' if len(shared) > 3 else ''}"


def check_roles(roles: dict[str, UtterancesBySource]) -> list[str]:
    """Notes on what is allowed but worth knowing; raises InputError for the first rule that is
    broken.
    """
    _check_disjoint(
        roles,
        combinations(CHECKED_ROLES, 2),
        lambda utterance: utterance.id,
        "ids",
        "Remove one of the sources, or rename its files.",
    )
    _check_disjoint(
        roles,
        combinations(CHECKED_ROLES, 2),
        lambda utterance: utterance.sha256,
        "recordings",
        "The same audio has two names (its SHA-256 is given): remove it from one of the roles.",
    )
    _check_disjoint(
        roles,
        product(TRAINING_ROLES, TEST_ROLES),
        lambda utterance: utterance.speaker,
        "speakers",
        "Remove them from one side; if two corpora use one name for different people, set "
        "'speaker_prefix' of the table.",
    )
    notes = []
    for first, second in (("train", "dev"), ("dev", "test")):
        shared = describe_shared(
            find_locations(roles[first], first, _speaker_of),
            find_locations(roles[second], second, _speaker_of),
        )
        if shared:
            notes.append(f"speakers in {first} and in {second}: {shared}")
    return notes


def _speaker_of(utterance: Utterance) -> str:
    return utterance.speaker


def _check_disjoint(
    roles: dict[str, UtterancesBySource],
    role_pairs: Iterable[tuple[str, str]],
    value_of: Callable[[Utterance], str],
    values_name: str,
    hint: str,
) -> None:
    """Raises InputError if two roles of a pair share a value."""
    for first, second in role_pairs:
        shared = describe_shared(
            find_locations(roles[first], first, value_of),
            find_locations(roles[second], second, value_of),
        )
        if shared:
            raise InputError(
                f"{values_name} in {first} and in {second}: {shared}.",
                subject=f"{first}, {second}",
                hint=hint,
            )


def work(stage: Stage) -> None:
    """Checks the manifests and writes the record; raises InputError for a rule that is broken."""
    out = empty_folder(OUT)
    roles = read_roles()
    for note in check_roles(roles):
        logger.info("splits: note: %s", note)
    counts = {
        role: sum(
            len(utterances) for name, utterances in sources.items() if not name.endswith(UNALTERED)
        )
        for role, sources in roles.items()
    }
    logger.info(
        "splits: %s: nothing is on both sides",
        ", ".join(f"{count} {role}" for role, count in counts.items()),
    )
    stage.facts["utterances"] = counts
    write_record(out, "splits", parameters=None, inputs={}, rules=RULES)


if __name__ == "__main__":
    run_stage("splits", work)
