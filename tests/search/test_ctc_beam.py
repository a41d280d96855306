"""The likeliest texts of a CTC head against the sum over all paths, and the LLM's choice of one."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from components.encoder.tokenizers import build_subword_tokenizer
from components.model.encoders.ctc import CtcHead
from components.model.llms.causal import score_text, score_texts
from components.search.acoustic_evidence import CtcEvidence
from components.search.beam import search
from components.search.constraints import GREEDY
from components.search.ctc_beam import list_likely_texts
from components.search.ctc_prefixes import Units
from tests.checkpoints import LLMS, frames_of, joined
from tests.search.test_ctc_prefixes import STEPS, random_scores, sum_paths


@given(st.integers(0, 2**31), st.integers(1, STEPS))
@settings(max_examples=30, deadline=None)
def test_a_wide_beam_lists_all_texts_with_the_sums_of_their_paths(seed: int, steps: int) -> None:
    scores = random_scores(seed, steps).clamp(min=-6.5)  # no unit of a step is left out
    sums = sum_paths(scores)
    texts = list_likely_texts(scores, 0, 10_000, margin=math.inf)
    assert {units: math.exp(value) for units, value in texts} == pytest.approx(sums, abs=1e-9)
    assert [value for _, value in texts] == sorted((value for _, value in texts), reverse=True)
    narrow = list_likely_texts(scores, 0, 3, margin=math.inf)
    assert len(narrow) == min(3, len(sums))

    def judge(prefixes: Sequence[Units]) -> list[float]:
        return [float(len(prefix)) for prefix in prefixes]

    likely = list_likely_texts(scores, 0, 10_000, judge, margin=math.inf)
    assert likely == texts, "it only chooses what is kept"


def test_prefixes_far_below_the_best_are_dropped() -> None:
    steps = [even(1, 2, 4, 0.9), even(2, 3, 4, 1 - math.exp(-13))]
    assert [text for text, _ in list_likely_texts(torch.tensor(steps), 0, 9)] == [(1, 2), (2,)]


def certain(unit: int, units: int) -> list[float]:
    """Log-probabilities of a step with that unit alone."""
    return [0.0 if other == unit else -50.0 for other in range(units)]


def even(first: int, second: int, units: int, share: float = 0.5) -> list[float]:
    """Log-probabilities of a step with two units, the first of that share."""
    values = {first: math.log(share), second: math.log(1 - share)}
    return [values.get(other, -50.0) for other in range(units)]


def test_a_judge_keeps_a_beginning_that_the_head_thinks_less_likely() -> None:
    """The first of eight units is 1 or 2; each of four later ones is 9 or 10, which alone make more
    texts than the beam has room for.
    """
    units = 12
    steps = [even(1, 2, units, 0.7), *(certain(unit, units) for unit in (3, 4, 5, 6, 7, 8))]
    for unit in (9, 9, 9, 9):
        steps += [even(unit, unit + 1, units), certain(0, units)]
    scores, seen = torch.tensor(steps), []

    def judge(prefixes: Sequence[Units]) -> list[float]:
        seen.extend(prefixes)
        return [3.0 if prefix[0] == 2 else 0.0 for prefix in prefixes]

    assert {text[0] for text, _ in list_likely_texts(scores, 0, 4)} == {1}
    judged = list_likely_texts(scores, 0, 4, judge)
    assert {text[0] for text, _ in judged} == {2}
    assert judged[0][1] == pytest.approx(math.log(0.3 / 2**4)), "its figures are the head's"
    assert {len(prefix) for prefix in seen} == {6}


class ChosenEvidence(CtcEvidence):
    """Evidence whose head has these texts."""

    def __init__(self, texts: dict[str, float], speech: float = 1.0) -> None:
        self.texts, self.speech = texts, speech

    def speech_probability(self, tokens: Sequence[int] = ()) -> float:
        return self.speech

    def log_agreement(self, tokens: Sequence[int], text: str) -> float:
        return math.log1p(-self.speech)  # of the empty text

    def list_likely_texts(self, count: int, score_texts: object = None) -> dict[str, float]:
        return dict(list(self.texts.items())[:count])


@pytest.mark.parametrize(("context", "bonus"), [("", 0.0), ("cedar birch", 0.0), ("", 5.0)])
def test_the_llm_before_training_chooses_among_the_texts_of_the_head(
    context: str, bonus: float, tmp_path: Path
) -> None:
    model = joined(tmp_path)
    texts = {"amber birch": -3.0, "amber": -2.0, "birch cedar amber": -9.0, "": -30.0}
    constraints = replace(GREEDY, ctc_texts=4, ctc_weight=2.0, word_bonus=bonus, context=context)
    (hypothesis,) = search(model, frames_of([40]), [1.0], constraints, [ChosenEvidence(texts)])
    ranked = [hypothesis, *hypothesis.alternatives]

    def score_behind_context(text: str) -> float:
        ids, before = (
            model.tokenizer(part, add_special_tokens=False).input_ids for part in (text, context)
        )
        bos = model.tokenizer.bos_token_id
        return score_text(model.llm, bos, [*before, *ids]) - score_text(model.llm, bos, before)

    scores = {
        text: score_behind_context(text) + 2 * value + bonus * len(text.split())
        for text, value in texts.items()
    }
    assert [one.text for one in ranked] == sorted(scores, key=lambda text: -scores[text])
    assert [one.score for one in ranked] == pytest.approx(sorted(scores.values(), reverse=True))
    one_text = replace(constraints, ctc_texts=1)
    (first,) = search(model, frames_of([40]), [1.0], one_text, [ChosenEvidence(texts)])
    assert first.text == "amber birch" and not first.alternatives


@pytest.mark.parametrize("listed", [{"amber": -1.0}, {"amber": -1.0, "": -1.6}])
def test_where_the_head_hardly_hears_speech_no_bonus_outweighs_silence(
    listed: dict[str, float], tmp_path: Path
) -> None:
    """The probability of speech is 0.8: below a gate of 0.9, not below one of 0.7."""
    model = joined(tmp_path)

    def best(gate: float) -> str:
        rules = replace(GREEDY, ctc_texts=4, ctc_weight=2.0, word_bonus=50.0, silence_gate=gate)
        evidence = ChosenEvidence(listed, speech=0.8)
        (hypothesis,) = search(model, frames_of([40]), [1.0], rules, [evidence])
        return hypothesis.text

    assert (best(0.0), best(0.7), best(0.9)) == ("amber", "amber", "")


@pytest.mark.parametrize("family", LLMS)
@pytest.mark.parametrize("before", [[3], [3, 13, 14, 5]])
@pytest.mark.parametrize(
    "texts",
    [
        [[5, 6, 7], [8], [], [9, 10, 11, 12]],
        [[5, 6, 7, 8, 9], [5, 6, 7, 10], [5, 6, 7]],  # a beginning of all is computed once
        [[5, 6, 7], [5, 6, 7]],
        [[]],
    ],
)
def test_texts_in_one_batch_have_the_scores_of_each_alone(
    family: str, before: list[int], texts: list[list[int]], tmp_path: Path
) -> None:
    llm = joined(tmp_path, family).llm
    with torch.inference_mode():
        together = score_texts(llm, before, texts)
        for ids, score in zip(texts, together, strict=True):
            row = torch.tensor([[*before, *ids]])
            log_probs = llm(input_ids=row).logits[0, len(before) - 1 :].log_softmax(-1)
            alone = sum(float(log_probs[index, token]) for index, token in enumerate(ids))
            assert score == pytest.approx(alone, abs=1e-4)


def test_prefixes_are_judged_by_the_words_that_are_finished() -> None:
    """Words of one letter: the last may go on."""
    tokenizer = build_subword_tokenizer(["a b c d e f g h"], 30)
    words = ["a", "b", "c", "d", "e", "f", "g", "h"]
    ids = [tokenizer(word).input_ids[-1] for word in words]
    size = len(tokenizer)
    rows = [row for unit in ids for row in (certain(unit, size), certain(0, size))]
    head = CtcHead(SimpleNamespace(tokenizer=tokenizer, blank=0))  # type: ignore[arg-type]
    seen: list[str] = []

    def score(texts: Sequence[str]) -> list[float]:
        seen.extend(texts)
        return [0.0] * len(texts)

    evidence = CtcEvidence(torch.tensor(rows), " ".join(words), head, lambda tokens: "")
    assert next(iter(evidence.list_likely_texts(2, score))) == " ".join(words)
    assert "a b c d e" in seen and " ".join(words) not in seen
