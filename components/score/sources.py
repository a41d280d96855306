"""Facts of the corpus about a set that is scored: its condition, and the number of words that it
must have.

In: the set's entry in ``catalogue/corpus.yaml`` and, for LibriSpeech, the word totals in
``catalogue/archive.yaml``. Out: the condition of an altered set, and whether the words were
checked. A different total means that references were changed, missing utterances that the set
is an excerpt. A rate of either is not comparable with published ones.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from components.audio.condition import ALTERED_KIND, CONDITION_KINDS, condition_of
from components.config import catalogue
from components.config.errors import InputError, nearest
from components.corpus.fetch.archive import list_archives

LIBRISPEECH = "librispeech"  # the kind, and the entry of its archives


def read_source(corpus: str, role: str, name: str) -> Mapping[str, Any]:
    """The settings of a source; raises InputError if the corpus does not list it."""
    sources = catalogue.corpus(corpus).sources.get(role, {})
    if name not in sources:
        raise InputError(
            f"data/decode has {role}/{name}, which the corpus '{corpus}' does not list.",
            subject=name,
            hint=f"Run 'dvc repro'. {nearest(name, sources)}",
        )
    return sources[name]


def condition_figure(name: str, settings: Mapping[str, Any]) -> dict[str, Any]:
    """``{"condition": {"name": …, "value": …}}`` of an altered set (decibels, factor, share or
    seconds); empty for another.

    Raises InputError if an altered set has no condition.
    """
    if settings["kind"] != ALTERED_KIND:
        return {}
    condition = condition_of(settings)
    if condition is None:
        raise InputError(
            f"The altered source '{name}' has none of {', '.join(CONDITION_KINDS)}.",
            subject=name,
            hint="Set one in catalogue/corpus.yaml.",
        )
    return {"condition": {"name": condition.name, "value": condition.value}}


def check_words(
    name: str, settings: Mapping[str, Any], references: Sequence[str]
) -> dict[str, bool]:
    """``{"words_checked": True}`` if the references are all of one LibriSpeech subset with a known
    total, False if some of its utterances are missing; empty for other sets.

    Raises InputError if all utterances are there but the number of their words differs.
    """
    if settings["kind"] != LIBRISPEECH or len(settings["subsets"]) != 1:
        return {}
    subset = settings["subsets"][0]
    archive = next(
        (
            archive
            for archive in list_archives(LIBRISPEECH)
            if archive.folder == subset and archive.entry.words
        ),
        None,
    )
    if archive is None:
        return {}
    if archive.utterances(subset) != len(references):
        return {"words_checked": False}
    words, expected = sum(len(reference.split()) for reference in references), archive.entry.words
    if words != expected:
        raise InputError(
            f"{name}: {words:,} reference words in {len(references):,} utterances, but {subset} "
            f"has {expected:,}: some were changed.",
            subject=name,
            hint="Compare data/corpus with the transcripts as published.",
        )
    return {"words_checked": True}
