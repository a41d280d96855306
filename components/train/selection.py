"""Choosing a checkpoint by the word error rate of decoded dev utterances: loss and accuracy are no
safe guide to it.
"""

from __future__ import annotations

from dataclasses import astuple

import torch

from components.config.training import Selection
from components.features.frames import FrameSource
from components.model.speech_llm import SpeechLLM
from components.optim.ranks import Ranks
from components.search.beam import search
from components.search.constraints import GREEDY
from components.shards.order import by_length
from components.shards.reader import IndexedUtterance, prefetch
from components.text.wer import WordErrors, count_word_errors


def selection_utterances(source: FrameSource, settings: Selection) -> list[IndexedUtterance]:
    """The first utterances of each dev source."""
    held: dict[str, list[IndexedUtterance]] = {}
    for item in source.items:
        held.setdefault(item.source, []).append(item)
    return [item for items in held.values() for item in items[: settings.utterances]]


@torch.no_grad()  # a tuned encoder would keep what a backward pass needs
def dev_errors(
    model: SpeechLLM,
    source: FrameSource,
    items: list[IndexedUtterance],
    batch_seconds: float,
    ranks: Ranks,
) -> WordErrors:
    """Word errors of greedy search over ``items``, case-folded, on every rank; each decodes its
    share of the batches.
    """
    prefetch([source.located(item) for item in items])
    total = WordErrors()
    for batch, counts in ranks.assigned_items(
        list(by_length(items, [item.entry.seconds for item in items], batch_seconds))
    ):
        found = search(
            model,
            source.frames(batch),
            [item.entry.seconds for item in batch],
            GREEDY,
            together=ranks.sharded,
        )
        if counts:
            total += count_word_errors(
                [item.entry.text for item in batch], [each.text for each in found], "casefold"
            )
    counted = ranks.sum(torch.tensor(astuple(total), dtype=torch.int64)).tolist()
    return WordErrors(*counted)
