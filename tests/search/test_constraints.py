"""Constraints of the search: what each forbids, for each utterance by itself."""

from __future__ import annotations

from collections.abc import Container
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from components.config.decoding import ConstraintSet
from components.model.speech_llm import SpeechLLM
from components.search.acoustic_evidence import (
    CtcEvidence,
    Evidence,
    MatchedEvidence,
    PrefixState,
    letters,
)
from components.search.beam import search
from components.search.constraints import GREEDY
from components.text.hypothesis import Hypothesis
from tests.checkpoints import WORDS, frames_of, joined

FREE = replace(GREEDY, beams=4, max_tokens=12)
LENGTHS = [3, 22, 9, 14]
ALIKE, SECONDS = [1.0] * 4, [0.4, 2.0, 1.0, 1.4]


class Head:
    """A CTC head that knows two letters, as a plain matter of sums."""

    blank = 0

    def encode_in_vocabulary(self, text: str) -> list[int]:
        return ["ab".index(each) + 1 for each in text if each in "ab"]


class Heard:
    """Evidence of an utterance in which a text was heard; ``sure`` that anything was, and what is
    said against each text.
    """

    def __init__(
        self,
        model: SpeechLLM,
        heard: str,
        sure: float = 1.0,
        against: dict[str, float] | None = None,
    ) -> None:
        scores = torch.zeros(1, 3)
        self._ctc = CtcEvidence(scores, heard, Head(), model.builder.decode)  # type: ignore[arg-type]
        self._sure, self._against = sure, against or {}

    def max_units(self, token: int) -> int:
        return self._ctc.max_units(token)

    def extend(self, state: PrefixState, token: int) -> PrefixState:
        return self._ctc.extend(state, token)

    def speech_probability(self, tokens: list[int]) -> float:
        return self._sure

    def log_agreement(self, tokens: list[int], text: str) -> float:
        return self._against.get(text, 0.0)


def unheard(evidence: Evidence, found: Hypothesis, ignored: Container[int] = ()) -> int:
    """The most units that a text runs on without one that was heard, after any of its tokens."""
    reaches = [PrefixState()]
    for token in found.tokens:
        if token not in ignored:
            reaches.append(evidence.extend(reaches[-1], token))
    return max(each.unsupported for each in reaches)


def run(
    model: SpeechLLM,
    rules: ConstraintSet,
    evidence: list[Heard] | None = None,
    seconds: list[float] = ALIKE,
) -> list[Hypothesis]:
    return search(model, frames_of(LENGTHS), seconds, rules, evidence)


def test_no_text_runs_further_past_what_was_heard_than_it_may(tmp_path: Path) -> None:
    model = joined(tmp_path)
    heard = ["", "amber birch", "cedar", "delta ember fjord grove"]
    evidence = [Heard(model, each) for each in heard]
    free = run(model, FREE)
    assert any(unheard(each, found) > 3 for each, found in zip(evidence, free, strict=True)), (
        "there is something to forbid"
    )
    for each, found in zip(
        evidence, run(model, replace(FREE, max_unsupported_units=3), evidence), strict=True
    ):
        assert all(unheard(each, text) <= 3 for text in (found, *found.alternatives))


def test_what_was_heard_of_one_utterance_bounds_no_other(tmp_path: Path) -> None:
    model, rules = joined(tmp_path, "phi"), replace(FREE, max_unsupported_units=6, silence_gate=0.5)
    frames, heard = frames_of(LENGTHS), ["", "amber birch", "cedar", "delta ember fjord grove"]
    evidence = [
        Heard(model, each, sure) for each, sure in zip(heard, (0.2, 0.9, 0.4, 1.0), strict=True)
    ]
    together = search(model, frames, [1.0] * 4, rules, evidence)
    assert len({found.text for found in together}) > 2
    for each, own, found in zip(frames, evidence, together, strict=True):
        (alone,) = search(model, [each], [1.0], rules, [own])
        assert (alone.text, alone.tokens) == (found.text, found.tokens)
        assert [other.tokens for other in alone.alternatives] == [
            other.tokens for other in found.alternatives
        ]


def test_evidence_that_allows_everything_changes_nothing(tmp_path: Path) -> None:
    model = joined(tmp_path)
    wide = run(
        model, replace(FREE, max_unsupported_units=1000), [Heard(model, "") for _ in LENGTHS]
    )
    assert [found.tokens for found in wide] == [found.tokens for found in run(model, FREE)]


def test_a_text_whose_allowance_is_used_up_ends(tmp_path: Path) -> None:
    model = joined(tmp_path)
    for found in run(
        model, replace(FREE, max_unsupported_units=1), [Heard(model, "") for _ in LENGTHS]
    ):
        assert len(letters(found.text)) <= 1


def test_where_nothing_is_likely_to_be_said_the_empty_transcript_competes(tmp_path: Path) -> None:
    model = joined(tmp_path)
    free = run(model, FREE)
    assert all(found.text for found in free)
    rules, against = replace(FREE, silence_gate=0.5), -1000.0

    def told(sure: float) -> list[str]:
        evidence = [
            Heard(model, "", sure, {text.text: against for text in (found, *found.alternatives)})
            for found in free
        ]
        return [found.text for found in run(model, rules, evidence)]

    assert told(0.4) == ["", "", "", ""]
    assert told(0.6) == [found.text for found in free], "an open gate leaves the search as it is"
    unsaid = [Heard(model, "", 0.4, {"": against}) for _ in free]
    assert [found.text for found in run(model, rules, unsaid)] == [found.text for found in free], (
        "it competes, and may lose"
    )


def test_scores_stay_those_of_the_model(tmp_path: Path) -> None:
    model = joined(tmp_path)
    gated = run(
        model,
        replace(FREE, silence_gate=1.0),
        [Heard(model, "", 0.0, {"": 1000.0}) for _ in LENGTHS],
    )
    forced = run(model, replace(FREE, max_unsupported_units=1), [Heard(model, "") for _ in LENGTHS])
    for one, other in zip(gated, forced, strict=True):
        if one.tokens == other.tokens:
            assert one.score == pytest.approx(other.score, rel=1e-4)


def test_without_ctc_the_matching_head_tells(tmp_path: Path) -> None:
    model = joined(tmp_path)
    found = run(model, replace(FREE, max_unsupported_units=2))
    assert [each.tokens for each in found] != [each.tokens for each in run(model, FREE)]
    frames = frames_of(LENGTHS)
    for each, speech, one in zip(frames, model.projector(frames), found, strict=True):
        assert (
            search(model, [each], [1.0], replace(FREE, max_unsupported_units=2))[0].tokens
            == one.tokens
        )
        assert (
            unheard(
                MatchedEvidence(model.matching, speech, model.llm.get_input_embeddings()),
                one,
                model.builder.special_ids,
            )
            <= 2
        )


def test_other_beams_are_kept_best_first_and_each_once(tmp_path: Path) -> None:
    for found in run(joined(tmp_path), replace(FREE, length_penalty=0.0)):
        scores = [found.score, *(other.score for other in found.alternatives)]
        assert len(scores) > 1
        assert scores == sorted(scores, reverse=True)
        assert len({tuple(each.tokens) for each in (found, *found.alternatives)}) == len(scores)
    assert all(found.alternatives == [] for found in run(joined(tmp_path / "greedy"), GREEDY))


def test_a_repetition_penalty_acts_on_what_was_said_and_not_on_the_prompt(tmp_path: Path) -> None:
    model, long = joined(tmp_path), replace(GREEDY, max_tokens=30)
    free, penal = run(model, long), run(model, replace(long, repetition_penalty=5.0))
    assert any(len(set(found.tokens)) < len(found.tokens) for found in free)
    for found, without in zip(penal, free, strict=True):
        assert found.tokens[:1] == without.tokens[:1], "nothing was said before the first token"
        assert len(set(found.tokens)) / max(1, len(found.tokens)) >= len(set(without.tokens)) / max(
            1, len(without.tokens)
        )
    assert [found.tokens for found in penal] != [found.tokens for found in free]


def test_a_text_does_not_end_where_the_llm_would_rather_go_on(tmp_path: Path) -> None:
    model = joined(tmp_path, "phi")
    with torch.no_grad():
        model.llm.lm_head.bias[model.builder.eos] += 3.0
    early, late = run(model, FREE), run(model, replace(FREE, eos_threshold=1.0))
    assert sum(len(found.tokens) for found in late) > sum(len(found.tokens) for found in early)


def test_an_unlikely_end_gives_way_to_the_most_tokens(tmp_path: Path) -> None:
    """The end that is forced there must not have been forbidden before."""
    model = joined(tmp_path, "phi")
    with torch.no_grad():
        model.llm.lm_head.bias[model.builder.eos] -= 60
    for beams in (1, 4):
        capped = replace(FREE, beams=beams, max_tokens_per_second=5)
        plain, rules = run(model, capped, seconds=SECONDS), replace(capped, eos_threshold=1.5)
        assert [found.tokens for found in run(model, rules, seconds=SECONDS)] == [
            found.tokens for found in plain
        ]
        assert [len(found.tokens) for found in plain] == [
            min(12, int(5 * seconds)) for seconds in SECONDS
        ]


def test_greedy_search_weighs_an_end_by_log_probabilities_too(tmp_path: Path) -> None:
    """An end that is the likeliest token is likelier than any other, whatever the logits are."""
    model = joined(tmp_path, "phi")
    with torch.no_grad():
        model.llm.lm_head.bias += 100.0
        model.llm.lm_head.bias[model.builder.eos] += 3.0
    greedy = replace(FREE, beams=1)
    plain = [found.tokens for found in run(model, greedy)]
    assert [found.tokens for found in run(model, replace(greedy, eos_threshold=1.5))] == plain
    assert any(len(tokens) < 12 for tokens in plain)


@pytest.mark.parametrize("beams", [1, 4])
def test_the_fewest_tokens_give_way_where_nothing_more_was_heard(
    beams: int, tmp_path: Path
) -> None:
    model = joined(tmp_path)
    evidence = [Heard(model, "") for _ in LENGTHS]
    rules = replace(FREE, beams=beams, min_tokens_per_second=7, max_unsupported_units=3)
    for at, found in enumerate(run(model, rules, evidence, SECONDS)):
        assert unheard(evidence[at], found) <= 3
        alone = search(model, [frames_of(LENGTHS)[at]], [SECONDS[at]], rules, [evidence[at]])[0]
        assert alone.tokens == found.tokens and model.tokenizer.pad_token_id not in found.tokens


def test_the_words_of_the_world_are_letters() -> None:
    assert letters("Don't STOP, 20 times!") == "dontstop20times"
    assert all(letters(word) == word for word in WORDS)
