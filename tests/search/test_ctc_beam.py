"""The likeliest texts of a CTC head against the sum over all paths, and the LLM's choice of one."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from components.model.llms.causal import score_text, score_texts
from components.search.acoustic_evidence import CtcEvidence
from components.search.beam import search
from components.search.constraints import GREEDY
from components.search.ctc_beam import list_likely_texts
from tests.checkpoints import frames_of, joined
from tests.search.test_ctc_prefixes import STEPS, random_scores, sum_paths


@given(st.integers(0, 2**31), st.integers(1, STEPS))
@settings(max_examples=30, deadline=None)
def test_a_wide_beam_lists_all_texts_with_the_sums_of_their_paths(seed: int, steps: int) -> None:
    scores = random_scores(seed, steps).clamp(min=-6.5)  # no unit of a step is left out
    sums = sum_paths(scores)
    texts = list_likely_texts(scores, 0, 10_000)
    assert {units: math.exp(value) for units, value in texts} == pytest.approx(sums, abs=1e-9)
    assert [value for _, value in texts] == sorted((value for _, value in texts), reverse=True)
    narrow = list_likely_texts(scores, 0, 3)
    assert len(narrow) == min(3, len(sums))


class ChosenEvidence(CtcEvidence):
    """Evidence whose head has these texts."""

    def __init__(self, texts: dict[str, float]) -> None:
        self.texts = texts

    def list_likely_texts(self, count: int) -> dict[str, float]:
        return dict(list(self.texts.items())[:count])


def test_the_llm_before_training_chooses_among_the_texts_of_the_head(tmp_path: Path) -> None:
    model = joined(tmp_path)
    texts = {"amber birch": -3.0, "amber": -2.0, "birch cedar amber": -9.0, "": -30.0}
    constraints = replace(GREEDY, ctc_texts=4, ctc_weight=2.0)
    (hypothesis,) = search(model, frames_of([40]), [1.0], constraints, [ChosenEvidence(texts)])
    ranked = [hypothesis, *hypothesis.alternatives]
    scores = {
        text: score_text(
            model.llm,
            model.tokenizer.bos_token_id,
            model.tokenizer(text, add_special_tokens=False).input_ids,
        )
        + 2 * value
        for text, value in texts.items()
    }
    assert [one.text for one in ranked] == sorted(scores, key=lambda text: -scores[text])
    assert [one.score for one in ranked] == pytest.approx(sorted(scores.values(), reverse=True))
    one_text = replace(constraints, ctc_texts=1)
    (first,) = search(model, frames_of([40]), [1.0], one_text, [ChosenEvidence(texts)])
    assert first.text == "amber birch" and not first.alternatives


def test_texts_in_one_batch_have_the_scores_that_they_have_alone(tmp_path: Path) -> None:
    llm = joined(tmp_path).llm
    texts = [[5, 6, 7], [8], [], [9, 10, 11, 12]]
    with torch.inference_mode():
        together = score_texts(llm, 3, texts)
        assert together == pytest.approx([score_text(llm, 3, ids) for ids in texts], abs=1e-4)
