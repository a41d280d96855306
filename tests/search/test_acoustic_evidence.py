"""What was heard: how much of a text finds nothing in it, how sure it is that anything was said,
how well a text agrees.
"""

from __future__ import annotations

import itertools
import math
from functools import lru_cache
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from components.model.encoders.ctc import CtcHead
from components.model.encoders.encoder import SpeechEncoder
from components.model.matching import MatchingHead
from components.search.acoustic_evidence import (
    CtcEvidence,
    MatchedEvidence,
    PrefixState,
    ctc_evidence,
    letters,
)
from tests.checkpoints import save_encoder

TEXTS = st.text(alphabet="ab c", max_size=12)


class Units:
    """A head of three units beside the blank, with a plain tokenizer."""

    blank = 0

    def encode_in_vocabulary(self, text: str) -> list[int]:
        return ["abc".index(each) + 1 for each in text]


def written(tokens: tuple[int, ...]) -> str:
    """Tokens that are letters, by their code."""
    return "".join(map(chr, tokens))


def evidence_of(heard: str, scores: torch.Tensor | None = None) -> CtcEvidence:
    """Evidence whose tokens are letters."""
    return CtcEvidence(torch.zeros(0, 4) if scores is None else scores, heard, Units(), written)  # type: ignore[arg-type]


def reached(evidence: CtcEvidence, text: str) -> list[PrefixState]:
    """The state after each letter of a text."""
    found = [PrefixState()]
    for each in letters(text):
        found.append(evidence.extend(found[-1], ord(each)))
    return found


def common(one: str, other: str) -> int:
    """Longest common subsequence, by its definition."""

    @lru_cache(None)
    def best(i: int, j: int) -> int:
        if i == len(one) or j == len(other):
            return 0
        return 1 + best(i + 1, j + 1) if one[i] == other[j] else max(best(i + 1, j), best(i, j + 1))

    return best(0, 0)


@given(TEXTS, TEXTS)
@settings(max_examples=200, deadline=None)
def test_a_letter_is_heard_where_it_lengthens_the_longest_common_subsequence(
    text: str, heard: str
) -> None:
    said = letters(text)
    longest = [common(said[:count], letters(heard)) for count in range(len(said) + 1)]
    last = max(
        (place for place in range(1, len(longest)) if longest[place] > longest[place - 1]),
        default=0,
    )
    assert reached(evidence_of(heard), text)[-1].unsupported == len(said) - last


def test_a_letter_that_two_tokens_write_is_one() -> None:
    def bytewise(tokens: tuple[int, ...]) -> str:
        return bytes(tokens).decode(errors="replace")

    heard, other = (
        CtcEvidence(torch.zeros(0, 4), text, Units(), bytewise)  # type: ignore[arg-type]
        for text in ("é", "o")
    )
    for evidence, unheard in ((heard, 0), (other, 1)):
        state = PrefixState()
        for token in "é".encode():
            assert evidence.max_units(token) == 1
            state = evidence.extend(state, token)
        assert (state.letters, state.unsupported) == ("é", unheard)


def test_a_text_that_runs_on_or_round_is_not_heard_and_one_in_another_writing_is() -> None:
    evidence = evidence_of("The cat sat.")
    assert [
        reached(evidence, text)[-1].unsupported
        for text in ("the cat sat", "THE, cat-sat!", "the cat", "")
    ] == [0, 0, 0, 0]
    assert reached(evidence, "the cat sat on the mat")[-1].unsupported == len("onthemat")
    assert reached(evidence, "the cat sat the cat sat")[-1].unsupported == len("thecatsat")
    assert reached(evidence, "the dog sat")[-1].unsupported == 0, "a wrong word alone is no run-on"
    assert reached(evidence_of(""), "thank you")[-1].unsupported == len("thankyou")


@given(st.integers(1, 5), st.integers(0, 2**31))
@settings(max_examples=30, deadline=None)
def test_the_agreement_of_a_text_is_the_sum_over_all_of_its_paths(frames: int, seed: int) -> None:
    scores = torch.randn(frames, 4, generator=torch.Generator().manual_seed(seed)).log_softmax(-1)
    sums: dict[str, float] = {}
    for path in itertools.product(range(4), repeat=frames):
        text = "".join("-abc"[unit] for unit, _ in itertools.groupby(path)).replace("-", "")
        sums[text] = sums.get(text, 0.0) + math.exp(
            sum(float(scores[at, unit]) for at, unit in enumerate(path))
        )
    evidence = evidence_of("", scores)
    for text in ("", "a", "ab", "aa", "cab"):
        wanted = math.log(sums[text]) if text in sums else -math.inf
        assert evidence.log_agreement([], text) == pytest.approx(wanted, rel=1e-4)
    assert evidence.speech_probability([]) == pytest.approx(1 - sums[""], abs=1e-5)


def test_a_recording_gives_its_own_evidence_whatever_stands_beside_it(tmp_path: Path) -> None:
    save_encoder(tmp_path, "parakeet")
    encoder = SpeechEncoder(tmp_path)
    random = np.random.default_rng(1)
    frames = encoder(
        [0.1 * random.standard_normal(size).astype(np.float32) for size in (16_000, 4_000, 9_000)]
    )
    together = ctc_evidence(encoder, frames, written)
    for each, found in zip(frames, together, strict=True):
        (alone,) = ctc_evidence(encoder, [each], written)
        text = encoder.decode_ctc([each])[0]
        assert np.array_equal(reached(found, text)[-1].row, reached(alone, text)[-1].row)
        assert found.log_agreement([], text) == pytest.approx(
            alone.log_agreement([], text), rel=1e-5
        )
        assert 0 <= found.speech_probability([]) <= 1


def test_units_that_the_head_lacks_are_left_out_of_a_text(tmp_path: Path) -> None:
    save_encoder(tmp_path, "parakeet")
    head = CtcHead(SpeechEncoder(tmp_path))
    assert head.encode_in_vocabulary("amber 7 birch") == head.encode_in_vocabulary("amber  birch")
    assert head.encode_in_vocabulary("") == []


def test_a_token_is_heard_where_the_speech_it_attends_to_looks_like_it() -> None:
    embed = torch.nn.Embedding.from_pretrained(torch.eye(4) * 3)
    evidence = MatchedEvidence(MatchingHead(4), embed.weight[[0, 2]].repeat(3, 1), embed)
    evidence._matching.query.weight.data = evidence._matching.key.weight.data = torch.eye(4) * 3
    state = PrefixState()
    for token, unheard in ((0, 0), (2, 0), (1, 1), (2, 0), (3, 1), (1, 2)):
        state = evidence.extend(state, token)
        assert state.unsupported == unheard
    assert evidence.speech_probability([0, 2]) == 1 > 0 == evidence.speech_probability([1, 3])
    assert evidence.speech_probability([]) == 0 == evidence.log_agreement([], "")
    assert evidence.log_agreement([0, 2], "") > evidence.log_agreement([1, 3], "")
