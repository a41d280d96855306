"""The texts of a CTC head, of which the LLM as a language model chooses one: it takes part in the
prefix beam search, and rescores the list that is its result.

In: the model and the evidence of its CTC head. Out: a hypothesis for each utterance, with the other
texts as its alternatives. A score is the log-probability under the LLM, which does not hear the
speech, behind ``context``, plus ``ctc_weight`` times that under CTC, plus ``word_bonus`` for each
word. Where the head gives speech a probability below ``silence_gate``, no word has a bonus and the
empty text is among the texts. The LLM is the one before training, or with LoRA that has read
transcripts alone (``train.curriculum.*.reads``). Nothing is generated, so no text is longer than
what the head hears. Cost: a pass of the LLM over the last words of each prefix, every few words.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import replace

import torch

from components.config.decoding import ConstraintSet
from components.model.llms.causal import score_texts
from components.model.speech_llm import SpeechLLM
from components.search.acoustic_evidence import CtcEvidence
from components.text.hypothesis import Hypothesis


@torch.inference_mode()
def choose_texts(
    model: SpeechLLM,
    evidence: Sequence[CtcEvidence],
    constraints: ConstraintSet,
    *,
    uses_adapter: bool = False,
) -> list[Hypothesis]:
    """The best of ``constraints.ctc_texts`` texts of each utterance; ``uses_adapter``: under the
    LLM with its LoRA, which has read transcripts alone.
    """
    wrapper = None if uses_adapter else model.lora_wrappers.get("llm")
    with wrapper.disable_adapter() if wrapper else nullcontext():
        return [_choose(model, own, constraints) for own in evidence]


def _choose(model: SpeechLLM, evidence: CtcEvidence, constraints: ConstraintSet) -> Hypothesis:
    builder, weight = model.builder, constraints.ctc_weight
    is_silent = evidence.speech_probability() < float(constraints.silence_gate)
    bonus = 0.0 if is_silent else constraints.word_bonus  # it would outweigh the empty text
    before = [builder.text_start, *builder.encode_alone(constraints.context)]

    def score(texts: Sequence[str]) -> dict[str, float]:
        different = list(dict.fromkeys(texts))
        ids = [builder.encode_alone(text) for text in different]
        values = score_texts(model.llm, before, ids)
        return {
            text: value + bonus * len(text.split())
            for text, value in zip(different, values, strict=True)
        }

    def score_beside_ctc(texts: Sequence[str]) -> list[float]:
        scores = score(texts)
        return [scores[text] / weight for text in texts]

    likely = evidence.list_likely_texts(constraints.ctc_texts, score_beside_ctc)
    if is_silent:
        likely.setdefault("", evidence.log_agreement((), ""))
    scores = score(list(likely))
    hypotheses = [
        Hypothesis(text, builder.encode_alone(text), scores[text] + weight * log_probability)
        for text, log_probability in likely.items()
    ]
    hypotheses.sort(key=lambda hypothesis: hypothesis.score, reverse=True)
    return replace(hypotheses[0], alternatives=hypotheses[1:])
