"""Selection of a checkpoint by the word error rate of decoded dev utterances: loss and accuracy
don't predict it well enough.

In: the model at a checkpoint, and frames of dev. Out: the checkpoint with the lowest error rate so
far. Cost: greedy decoding of ``train.selection.utterances`` utterances of each dev source, or
rescoring of what a CTC head hears in them, where the LLM reads text alone.
"""

from __future__ import annotations

from dataclasses import astuple, replace
from pathlib import Path
from typing import Any

import torch

from components.config.training import Selection, Train
from components.features.frames import FrameSource
from components.model.encoders.trained_head import TrainedHead
from components.model.speech_llm import SpeechLLM
from components.optim import checkpoint
from components.optim.ranks import Ranks
from components.runtime.hashing import seed_of
from components.search.acoustic_evidence import ctc_evidence
from components.search.beam import search
from components.search.constraints import GREEDY
from components.search.rescoring import choose_texts
from components.shards.order import batch_by_length
from components.shards.reader import IndexedUtterance, prefetch
from components.text.wer import WordErrors, count_word_errors

# Few prefixes: which checkpoint is best shows with them too, and dev is decoded often.
RESCORING = replace(GREEDY, ctc_texts=8, ctc_weight=1.0)


class CheckpointSelection:
    """Saves the checkpoint with the lowest dev word error rate to ``folder``."""

    def __init__(
        self,
        ranks: Ranks,
        model: SpeechLLM,
        dev: FrameSource,
        settings: Train,
        folder: Path,
        head: TrainedHead | None = None,
    ) -> None:
        self.best: dict[str, Any] | None = None  # step and wer of the selected checkpoint
        self.num_checks_without_gain = 0  # since then
        self._ranks, self._model, self._dev = ranks, model, dev
        self._settings, self._folder = settings, folder
        self._head = head  # whose texts an LLM that has read text alone rescores

    def check(self, num_steps_done: int) -> float:
        """Decodes dev and returns its word error rate. All ranks call it, decode a share each and
        return the same.
        """
        self._model.eval()
        settings = self._settings
        utterances = selection_utterances(self._dev, settings.selection, settings.seed)
        batch_seconds = settings.batch_seconds * 2
        arguments = (self._model, self._dev, utterances, batch_seconds, self._ranks, self._head)
        wer = dev_errors(*arguments).wer
        if self.best is None or wer < self.best["wer"]:
            self.num_checks_without_gain = 0
            self.best = {"step": num_steps_done, "wer": wer}
            is_first_rank = self._ranks.rank == 0
            checkpoint.save(self._folder, self._model, None, self.best, write=is_first_rank)
        else:
            self.num_checks_without_gain += 1
        return wer

    def find_fault(self, best: dict[str, Any] | None) -> str:
        """Puts the saved weights of ``best``, which an earlier run selected, to the folder; returns
        why that is not possible, empty where it is. The first rank calls it.
        """
        if best is None:
            return ""

        def fault_of_state(state: dict[str, Any]) -> str:
            return "" if state == best else f"it is of step {state.get('step')}"

        has_best, faults = checkpoint.recover(self._folder, fault_of_state)
        return "" if has_best else faults or f"{self._folder} is missing"

    def stop_reason(self) -> str:
        """Why the training stops: ``train.selection.patience`` checks without a lower error rate.
        Empty where it goes on.
        """
        if 0 < self._settings.selection.patience <= self.num_checks_without_gain:
            return f"no lower dev WER in {self.num_checks_without_gain} checks"
        return ""


def selection_utterances(
    source: FrameSource, settings: Selection, seed: int
) -> list[IndexedUtterance]:
    """``settings.utterances`` utterances of each dev source in the order of the index: a draw over
    the whole source, since utterances of one speaker follow each other there.
    """
    by_source: dict[str, list[IndexedUtterance]] = {}
    for utterance in source.utterances:
        by_source.setdefault(utterance.source, []).append(utterance)
    drawn: list[IndexedUtterance] = []
    for utterances in by_source.values():
        ranked = sorted(utterances, key=lambda item: seed_of("selection", seed, item.id))
        chosen = {utterance.id for utterance in ranked[: settings.utterances]}
        drawn += [utterance for utterance in utterances if utterance.id in chosen]
    return drawn


@torch.no_grad()  # a tuned encoder would keep activations for a backward pass
def dev_errors(
    model: SpeechLLM,
    source: FrameSource,
    utterances: list[IndexedUtterance],
    batch_seconds: float,
    ranks: Ranks,
    head: TrainedHead | None = None,
) -> WordErrors:
    """Word errors of greedy search over ``utterances``, or of rescoring of the texts of ``head``,
    case-folded, the same on every rank; each rank decodes its share of the batches.
    """
    prefetch([source.locate(utterance) for utterance in utterances])
    total = WordErrors()
    durations_s = [source.frame_duration_s(utterance) for utterance in utterances]
    batches = list(batch_by_length(utterances, durations_s, batch_seconds))
    for batch, is_real in ranks.assigned_items(batches):
        frames = source.frames(batch)
        if head:
            evidence = ctc_evidence(head, frames, model.builder.decode)
            hypotheses = choose_texts(model, evidence, RESCORING, uses_adapter=True)
        else:
            hypotheses = search(
                model,
                frames,
                [utterance.duration_s for utterance in batch],
                GREEDY,
                utterance_ids=[utterance.id for utterance in batch],
                is_synchronous=ranks.is_sharded,
            )
        if is_real:
            total += count_word_errors(
                [utterance.text for utterance in batch],
                [hypothesis.text for hypothesis in hypotheses],
                "casefold",
            )
    counts = ranks.sum(torch.tensor(astuple(total), dtype=torch.int64)).tolist()
    return WordErrors(*counts)
