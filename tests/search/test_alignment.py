"""Word times by CTC: the likeliest of all paths, and what becomes of units that the head does not
know.
"""

from __future__ import annotations

from itertools import pairwise, product
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from components.encoder.tokenizers import build_subword_tokenizer
from components.model.encoders.encoder import SpeechEncoder
from components.search.alignment import Aligner, align_units
from tests.checkpoints import TEXTS, save_encoder
from tests.world import tone

BLANK = 1


def collapsed(path: tuple[int, ...]) -> list[int]:
    return [
        unit
        for place, unit in enumerate(path)
        if unit != BLANK and (place == 0 or path[place - 1] != unit)
    ]


@settings(max_examples=150, deadline=None)
@given(st.integers(1, 6), st.lists(st.sampled_from([0, 2]), max_size=4), st.integers(0, 2**31))
def test_the_path_is_the_likeliest_of_all_that_give_the_text(
    frames: int, target: list[int], seed: int
) -> None:
    scores = np.log(np.random.default_rng(seed).dirichlet([0.5, 0.5, 0.5], frames) + 1e-9)
    paths = [path for path in product(range(3), repeat=frames) if collapsed(path) == target]
    runs = align_units(torch.from_numpy(scores), target, BLANK)
    if not paths:
        assert runs is None
        return
    assert runs is not None
    likeliest = max(sum(scores[frame, unit] for frame, unit in enumerate(path)) for path in paths)
    path = np.full(frames, BLANK)
    for unit, run in zip(target, runs, strict=True):
        path[run.start : run.end] = unit
        assert run.token == unit
        assert run.score == pytest.approx(scores[run.start : run.end, unit].mean())
    assert collapsed(tuple(path.tolist())) == target
    assert scores[range(frames), path].sum() == pytest.approx(likeliest)
    assert all(one.end <= other.start for one, other in pairwise(runs))


@pytest.fixture
def aligner(tmp_path: Path) -> Aligner:
    encoder = SpeechEncoder(save_encoder(tmp_path / "encoder"))
    return Aligner(encoder, encoder.frame_rate)


def certain(aligner: Aligner, said: str, monkeypatch: pytest.MonkeyPatch) -> torch.Tensor:
    """Frames of which the head is sure that each holds the unit of a letter: ``_`` stands for a
    blank, a space for the delimiter.
    """
    ids = {"_": aligner.head.blank, " ": aligner.head.tokenizer.convert_tokens_to_ids("|")}
    units = [
        ids.get(letter, aligner.head.tokenizer.convert_tokens_to_ids(letter)) for letter in said
    ]
    scores = np.full((len(said), len(aligner.head.tokenizer)), np.log(1e-4), np.float32)
    scores[range(len(said)), units] = np.log(0.9)
    monkeypatch.setattr(aligner, "log_probabilities", lambda frames: torch.from_numpy(scores))
    return torch.zeros(len(said), 1)


def test_words_stand_where_their_letters_are(
    aligner: Aligner, monkeypatch: pytest.MonkeyPatch
) -> None:
    frames = certain(aligner, "__aamm_ber_ |_birrch__", monkeypatch)
    words = aligner(frames, "amber birch")
    rate = aligner._frame_rate
    assert [(word.text, round(word.start * rate), round(word.end * rate)) for word in words] == [
        ("amber", 2, 10),
        ("birch", 14, 20),
    ]
    assert all(word.score == pytest.approx(0.9, abs=0.01) for word in words if word.text == "birch")
    wrong = aligner(frames, "ember birch")
    assert wrong[0].score < 0.5 < wrong[1].score  # type: ignore[operator]


def test_what_the_head_does_not_know_is_left_out(
    aligner: Aligner, monkeypatch: pytest.MonkeyPatch
) -> None:
    frames = certain(aligner, "__amber______ birch__", monkeypatch)
    rate = aligner._frame_rate
    words = aligner(frames, "7 Amber, 4 % birch! 99")
    assert [word.text for word in words] == ["7", "Amber,", "4", "%", "birch!", "99"]
    times = [time * rate for word in words for time in (word.start, word.end)]
    assert times == pytest.approx([0, 2, 2, 7, 7, 10.5, 10.5, 14, 14, 19, 19, 21])
    assert [word.score is None for word in words] == [True, False, True, True, False, True]


def test_a_text_that_does_not_fit_is_spread_over_the_time(aligner: Aligner) -> None:
    for text in ("amber birch " * 30, "123 456"):
        words = aligner(torch.zeros(12, 32), text)
        assert [word.text for word in words] == text.split()
        assert (words[0].start, words[-1].end) == (
            0,
            pytest.approx(12 / aligner._frame_rate),
        )
        assert {word.score for word in words} == {None}
    assert aligner(torch.zeros(12, 32), " ") == []


def test_no_word_is_in_the_frames_behind_the_audio(aligner: Aligner) -> None:
    """Of 20 frames, twelve and a half are audio: what the head says of the others does not count,
    and a word that it can't write ends with the audio.
    """
    rate = aligner._frame_rate
    frames = torch.randn(20, 32, generator=torch.Generator().manual_seed(1))
    end_s = 12.5 / rate
    cut = aligner(frames[:13], "amber 42", end_s)
    words = aligner(frames, "amber 42", end_s)
    assert words == cut
    assert (words[1].text, words[1].end) == ("42", end_s)
    assert words[0].end <= words[1].start <= end_s
    for text in ("amber birch " * 30, "123 456"):
        assert aligner(frames, text, end_s)[-1].end == pytest.approx(end_s)
    (word,) = aligner(frames, "amber birch"[:5], 5 / rate)
    assert word.end <= 5 / rate
    assert aligner(frames, "amber 42", 99.0) == aligner(frames, "amber 42")


@pytest.mark.parametrize("family", ["parakeet", "hubert-layer-norm"])
def test_times_lie_inside_the_recording_in_order(family: str, tmp_path: Path) -> None:
    encoder = SpeechEncoder(save_encoder(tmp_path / "encoder", family))
    samples = tone("amber birch cedar", 1)
    words = Aligner(encoder, encoder.frame_rate)(encoder([samples])[0], "amber birch cedar")
    times = [time for word in words for time in (word.start, word.end)]
    assert times == sorted(times)
    assert min(times) >= 0 and max(times) <= len(samples) / 16_000 + 0.1


def test_subwords_that_mark_beginnings_need_nothing_between_words(tmp_path: Path) -> None:
    folder = save_encoder(tmp_path / "encoder")
    units = build_subword_tokenizer(TEXTS, 32)
    encoder = SpeechEncoder(folder)
    aligner = Aligner(encoder, encoder.frame_rate)
    letters = aligner._target(
        [aligner.head.encode_in_vocabulary(word) for word in ("amber", "birch")]
    )[0]
    assert letters == aligner.head.tokenizer("amber birch").input_ids
    aligner.head.tokenizer = units
    aligner._delimiter = aligner._read_delimiter()
    subwords = aligner._target(
        [aligner.head.encode_in_vocabulary(word) for word in ("amber", "birch")]
    )[0]
    assert subwords == units("amber birch").input_ids
