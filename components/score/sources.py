"""What the corpus says of a set that is scored: under which condition it stands, and how many words
it must have.

In: the set's entry in ``catalogue/corpus.yaml`` and, for LibriSpeech, the word totals in
``catalogue/archive.yaml``. Out: the condition of an altered set, and whether the words were
checked. A total that differs means that references were altered on the way, an excerpt that
utterances were left out: no rate of either may stand beside published ones.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from components.config import catalogue
from components.config.errors import InputError, nearest
from components.corpus.fetch.archive import archives

ALTERED = (
    "snr_db",
    "tempo",
    "cut",
    "around_seconds",
)  # what a source of kind altered changes: one of them
LIBRISPEECH = "librispeech"  # the kind, and the entry of its archives


def settings_of(corpus: str, role: str, name: str) -> Mapping[str, Any]:
    """The settings of a source; raises InputError where the corpus lists no such one."""
    listed = catalogue.corpus(corpus).sources.get(role, {})
    if name not in listed:
        raise InputError(
            f"data/decode holds {role}/{name}, which the corpus '{corpus}' does not list.",
            subject=name,
            hint=f"Run 'dvc repro'. {nearest(name, listed)}",
        )
    return listed[name]


def condition_of(settings: Mapping[str, Any]) -> dict[str, Any]:
    """``{"condition": {"name": …, "value": …}}`` of an altered set (decibels, factor, share or
    seconds); nothing for another.

    Raises InputError where an altered set does not say what was changed.
    """
    if settings["kind"] != "altered":
        return {}
    name = next((each for each in ALTERED if settings.get(each) is not None), None)
    if name is None:
        raise InputError(
            f"An altered source says none of {', '.join(ALTERED)}.",
            hint="Give it one in catalogue/corpus.yaml.",
        )
    return {"condition": {"name": name, "value": float(settings[name])}}


def check_words(
    name: str, settings: Mapping[str, Any], references: Sequence[str]
) -> dict[str, bool]:
    """``{"words_checked": True}`` where the references are all of one LibriSpeech subset whose
    total is known, False where some of its utterances are not there, and nothing for other sets.

    Raises InputError where all are there and their words, as they stand, are of another number.
    """
    if settings["kind"] != LIBRISPEECH or len(settings["subsets"]) != 1:
        return {}
    subset = settings["subsets"][0]
    known = [each for each in archives(LIBRISPEECH) if each.folder == subset and each.packed.words]
    if not known:
        return {}
    if known[0].utterances(subset) != len(references):
        return {"words_checked": False}
    words = sum(len(reference.split()) for reference in references)
    if words != known[0].packed.words:
        raise InputError(
            f"{name}: {words:,} reference words in {len(references):,} utterances, but {subset} has {known[0].packed.words:,}: some were "
            "altered.",
            subject=name,
            hint="Compare data/corpus with the transcripts as published.",
        )
    return {"words_checked": True}
