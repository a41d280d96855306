"""Joints of a long recording of real voices: the words of its segments are those of the recording.

A trained encoder makes errors of its own, which would hide those of a joint. So a substitute
recogniser is used: sound between two dips is a word, spelt by the shape of its spectrum every 40 ms
from the beginning of the segment. As with an encoder, a word at the edge of a segment is cut, and a
word in two segments has two slightly different spellings. Unlike with an encoder, the right result
is known: the words of the recording in one piece.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bench.joints import cut_pauses, frame_energy
from components.audio.segments import FRAME_SAMPLES, Segment, stream_segments
from components.audio.sound import RATE, read_waveform
from components.text.hypothesis import Hypothesis
from components.text.joining import Word
from components.transcribe.formats import captions
from components.transcribe.transcript import SegmentHypothesis, join_segments

MINUTES = 44  # 31 of them stay where the pauses are cut out
LETTERS = "bdfghjklmnprstvw"


def hear(waveform: np.ndarray, floor: float) -> list[Word]:
    """The words of the substitute recogniser: at least 60 ms of sound over the ``floor``, separated
    by 30 ms below it or by the lowest energy within 0.4 s.
    """
    energy = frame_energy(waveform)
    spectra = np.abs(
        np.fft.rfft(waveform[: len(energy) * FRAME_SAMPLES].reshape(-1, FRAME_SAMPLES), axis=1)
    )[:, 1:65]
    spelt = np.array(list(LETTERS))[spectra.reshape(len(spectra), 16, 4).sum(2).argmax(1)]
    smooth = np.convolve(energy, np.ones(5) / 5, "same")
    local_minimum = np.lib.stride_tricks.sliding_window_view(
        np.pad(smooth, 20, constant_values=np.inf), 41
    ).min(axis=1)
    sound = np.flatnonzero((energy > floor) & (smooth > local_minimum))
    words = []
    for run in np.split(
        sound,
        np.flatnonzero((np.diff(sound) > 3) | ((smooth <= local_minimum)[sound[:-1] + 1])) + 1,
    ):
        if len(run) and run[-1] - run[0] >= 5:
            letters = [spelt[index] for index in range(run[0], run[-1] + 1) if index % 4 == 0]
            words.append(Word("".join(letters), run[0] / 100, (run[-1] + 1) / 100))
    return words


def count_errors(waveform: np.ndarray) -> tuple[list[Segment], int, int, int]:
    """(segments, words, missing words, doubled words) of a recording in segments."""
    hypotheses = []
    floor = 1e-2 * float(frame_energy(waveform).mean())
    for piece in stream_segments([waveform]):
        words = hear(piece.samples, floor)
        hypotheses.append(
            SegmentHypothesis(
                piece.segment, Hypothesis(" ".join(word.text for word in words), score=0.0), words
            )
        )
    joined = join_segments("long", len(waveform), hypotheses).words
    expected = hear(waveform, floor)
    covered = np.zeros(len(waveform) // FRAME_SAMPLES + 2, int)
    for word in joined:
        covered[round(word.start * 100) : round(word.end * 100)] += 1
    spans = [covered[round(word.start * 100) : round(word.end * 100)] for word in expected]
    num_missing = sum(bool((span == 0).mean() > 0.5) for span in spans)
    num_doubled = sum(bool((span > 1).mean() > 0.5) for span in spans)
    return (
        [hypothesis.segment for hypothesis in hypotheses],
        len(expected),
        num_missing,
        num_doubled,
    )


@pytest.fixture(scope="module")
def long(recordings: Path) -> np.ndarray:
    """Half an hour of many voices, utterances concatenated."""
    parts: list[np.ndarray] = []
    for file in sorted((recordings / "real-librispeech").rglob("*.flac")):
        parts.append(read_waveform(file))
        if sum(map(len, parts)) > MINUTES * 60 * RATE:
            return np.concatenate(parts)
    pytest.skip(f"fewer than {MINUTES} minutes of recordings")


@pytest.mark.slow
@pytest.mark.parametrize("pauses", [True, False])
def test_at_most_one_word_in_a_hundred_joints_is_missing_or_doubled(
    pauses: bool, long: np.ndarray
) -> None:
    waveform = long if pauses else cut_pauses(long)
    segments, words, num_missing, num_doubled = count_errors(waveform)
    joints, overlapping = len(segments) - 1, sum(segment.overlaps for segment in segments)
    print(
        f"{len(waveform) / RATE / 60:.1f} min, {words} words, {joints} joints ({overlapping} "
        f"overlap): {num_missing} missing, {num_doubled} doubled"
    )
    assert len(waveform) > 30 * 60 * RATE
    assert joints >= 100
    assert overlapping / joints < 0.1 if pauses else overlapping / joints > 0.5
    assert num_missing + num_doubled <= joints / 100


@st.composite
def timed_hypotheses(draw: st.DrawFn) -> list[SegmentHypothesis]:
    """Segments, some of which overlap, and words whose times are off by up to half a second."""
    hypotheses, end = [], 0
    for _ in range(draw(st.integers(1, 5))):
        overlaps = bool(hypotheses) and draw(st.booleans())
        start = end - RATE if overlaps else end + draw(st.integers(0, RATE))
        end = start + draw(st.integers(3 * RATE, 10 * RATE))
        seconds = (end - start) / RATE
        times = draw(st.lists(st.floats(0, seconds), max_size=8).map(sorted))
        words = [
            Word(draw(st.sampled_from("abc")), time, min(seconds, time + draw(st.floats(0, 0.5))))
            for time in times
        ]
        text = " ".join(word.text for word in words)
        segment = Segment(start, end, overlaps)
        hypotheses.append(SegmentHypothesis(segment, Hypothesis(text), words))
    return hypotheses


@given(timed_hypotheses())
@settings(max_examples=200, deadline=None)
def test_times_never_go_backwards_and_words_lie_in_their_passage(
    hypotheses: list[SegmentHypothesis],
) -> None:
    joined = join_segments("talk", hypotheses[-1].segment.end, hypotheses)
    passages = joined.segments
    times = [time for word in joined.words for time in (word.start, word.end)]
    assert times == sorted(times)
    bounds = [time for passage in passages for time in (passage.start, passage.end)]
    assert bounds == sorted(bounds)
    for passage in passages:
        for word in passage.words:
            assert passage.start <= word.start <= word.end <= passage.end
    shown = [time for caption in captions(joined) for time in (caption.start, caption.end)]
    assert shown == sorted(shown)
