"""Prefix scores of CTC against the sum over all paths, and the search that adds them."""

from __future__ import annotations

import itertools
import math
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from components.search import constraints as constraints_module
from components.search.acoustic_evidence import CtcEvidence
from components.search.beam import search
from components.search.constraints import GREEDY, JointScore
from components.search.ctc_prefixes import CtcPrefixes
from tests.checkpoints import frames_of, joined

STEPS, NUM_UNITS = 5, 3  # with the blank, which is unit 0
SEQUENCES = [
    units for length in range(4) for units in itertools.product(range(1, NUM_UNITS), repeat=length)
]


def random_scores(seed: int, steps: int = STEPS) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(steps, NUM_UNITS, generator=generator).mul(2).double().log_softmax(-1)


def collapse(path: tuple[int, ...]) -> tuple[int, ...]:
    """Repeats joined, blanks dropped."""
    joined_units = [unit for unit, _ in itertools.groupby(path)]
    return tuple(unit for unit in joined_units if unit)


def sum_paths(scores: torch.Tensor) -> dict[tuple[int, ...], float]:
    """The probability of each text, over all paths."""
    sums: dict[tuple[int, ...], float] = {}
    for path in itertools.product(range(NUM_UNITS), repeat=len(scores)):
        log_probability = sum(float(scores[step, unit]) for step, unit in enumerate(path))
        text = collapse(path)
        sums[text] = sums.get(text, 0.0) + math.exp(log_probability)
    return sums


@given(st.integers(0, 2**31), st.integers(1, STEPS))
@settings(max_examples=30, deadline=None)
def test_a_prefix_has_the_probability_of_all_texts_that_begin_with_it(
    seed: int, steps: int
) -> None:
    scores = random_scores(seed, steps)
    sums, prefixes = sum_paths(scores), CtcPrefixes(scores, 0)
    for units, found in zip(SEQUENCES, prefixes.log_prefix(SEQUENCES), strict=True):
        begins = sum(value for text, value in sums.items() if text[: len(units)] == units)
        assert math.exp(found) == pytest.approx(begins, abs=1e-9)
        assert math.exp(prefixes.log_whole(units)) == pytest.approx(sums.get(units, 0), abs=1e-9)


def test_what_is_forgotten_is_computed_again() -> None:
    prefixes = CtcPrefixes(random_scores(1), 0)
    before = prefixes.log_prefix(SEQUENCES)
    prefixes.forget([(1,)])
    assert prefixes.log_prefix(SEQUENCES) == pytest.approx(before)


class Letters:
    """A head over two letters, for an LLM whose tokens are written as one of them."""

    blank = 0

    def encode_in_vocabulary(self, text: str) -> list[int]:
        return ["ab".index(letter) + 1 for letter in text]


END = 9


def evidence_of(scores: torch.Tensor) -> CtcEvidence:
    """Token 1 is written "a", token 2 "b", token 3 "ab"."""
    return CtcEvidence(
        scores,
        "",
        Letters(),  # type: ignore[arg-type]
        lambda tokens: "".join(["", "a", "b", "ab"][token] for token in tokens),
    )


def test_the_tokens_of_a_text_add_up_to_its_log_probability() -> None:
    scores = random_scores(2)
    evidence = evidence_of(scores)
    for tokens in ((), (1,), (3, 1), (2, 2)):
        parts = [
            evidence.log_joint(tokens[:length], [token], END)[0]
            for length, token in enumerate((*tokens, END))
        ]
        text = "".join(["", "a", "b", "ab"][token] for token in tokens)
        assert sum(parts) == pytest.approx(evidence.log_agreement(tokens, text), rel=1e-5)


def test_each_beam_gets_the_scores_of_its_own_utterance_and_text() -> None:
    all_evidence = [evidence_of(random_scores(seed)) for seed in (3, 4)]
    processor = JointScore(all_evidence, 0.5, END, set())
    input_ids = torch.tensor([[1], [2], [3], [END]])  # two beams of two utterances
    scores = torch.randn(4, 10).log_softmax(-1)
    scores[:, 4:END] = float("-inf")
    scores[:, 0] = float("-inf")
    joint = processor(input_ids, scores)
    for row in range(3):
        added = all_evidence[row // 2].log_joint(input_ids[row].tolist(), [1, 2, 3, END], END)
        expected = scores[row, [1, 2, 3, END]] + 0.5 * torch.tensor(added)
        assert torch.allclose(joint[row, [1, 2, 3, END]], expected)
    assert torch.equal(joint[3], scores[3]), "a beam that has ended stays as it is"


@pytest.mark.parametrize("beams", [1, 4])
def test_a_heavy_weight_makes_the_search_write_what_ctc_reads(
    beams: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # an LLM with random weights finds no token likely
    monkeypatch.setattr(constraints_module, "JOINT_CANDIDATES", 10**6)
    model = joined(tmp_path, "phi")
    heard = "one two"
    letters = sorted(set(heard))

    class Head:
        blank = 0

        def encode_in_vocabulary(self, text: str) -> list[int]:
            return [letters.index(letter) + 1 if letter in letters else 99 for letter in text]

    scores = torch.full((2 * len(heard), 100), -30.0)
    for step, letter in enumerate(heard):
        scores[2 * step, letters.index(letter) + 1] = 0.0
        scores[2 * step + 1, 0] = 0.0
    decode = model.tokenizer.decode  # with the spaces at the end, which would be free
    evidence = CtcEvidence(scores.log_softmax(-1), heard, Head(), decode)  # type: ignore[arg-type]
    constraints = replace(GREEDY, beams=beams, max_tokens=20, ctc_weight=10.0)
    found = search(model, frames_of([20]), [1.0], constraints, [evidence])[0]
    assert found.text == heard
    off = search(model, frames_of([20]), [1.0], replace(constraints, ctc_weight=0.0), [evidence])[0]
    assert off.text != heard
