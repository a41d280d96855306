"""Joints of a long recording of real voices: what is heard in pieces is what is heard in one go.

A trained encoder makes errors of its own, which would hide those of a joint, so a stand-in listens:
it hears a stretch of sound between two dips as a word, spelt by the shape of its spectrum every 40
ms from where the segment begins. As with an encoder, a word at a segment's edge is heard broken,
and one that two segments hear is spelt a little differently by each. Unlike with one, what should
be heard is known: what it hears of the whole recording.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from bench.joints import cut_pauses, frame_energy
from components.audio.segments import FRAME_SAMPLES, Segment, stream_segments
from components.audio.sound import RATE, read_waveform
from components.text.hypothesis import Hypothesis
from components.text.joining import Word
from components.transcribe.transcript import SegmentHypothesis, join_segments

MINUTES = 44  # 31 of them stay where the pauses are cut out
LETTERS = "bdfghjklmnprstvw"


def hear(waveform: np.ndarray, floor: float) -> list[Word]:
    """The words of the stand-in: 60 ms of sound or more over the ``floor``, apart by 30 ms below
    it, or by the quietest place of the 0.4 s around: fewer letters than that have no word of their
    own. It listens no further than that.
    """
    energy = frame_energy(waveform)
    spectra = np.abs(
        np.fft.rfft(waveform[: len(energy) * FRAME_SAMPLES].reshape(-1, FRAME_SAMPLES), axis=1)
    )[:, 1:65]
    spelt = np.array(list(LETTERS))[spectra.reshape(len(spectra), 16, 4).sum(2).argmax(1)]
    smooth = np.convolve(energy, np.ones(5) / 5, "same")
    around = np.lib.stride_tricks.sliding_window_view(
        np.pad(smooth, 20, constant_values=np.inf), 41
    ).min(axis=1)
    sound = np.flatnonzero((energy > floor) & (smooth > around))
    words = []
    for run in np.split(
        sound, np.flatnonzero((np.diff(sound) > 3) | ((smooth <= around)[sound[:-1] + 1])) + 1
    ):
        if len(run) and run[-1] - run[0] >= 5:
            letters = [spelt[place] for place in range(run[0], run[-1] + 1) if place % 4 == 0]
            words.append(Word("".join(letters), run[0] / 100, (run[-1] + 1) / 100))
    return words


def counted(waveform: np.ndarray) -> tuple[list[Segment], int, int, int]:
    """(segments, words, words lost, words doubled) of a recording that is heard in segments."""
    heard = []
    floor = 1e-2 * float(frame_energy(waveform).mean())
    for piece in stream_segments([waveform]):
        words = hear(piece.samples, floor)
        heard.append(
            SegmentHypothesis(
                piece.segment, Hypothesis(" ".join(word.text for word in words), score=0.0), words
            )
        )
    found = join_segments("long", len(waveform), heard).words
    whole = hear(waveform, floor)
    covered = np.zeros(len(waveform) // FRAME_SAMPLES + 2, int)
    for word in found:
        covered[round(word.start * 100) : round(word.end * 100)] += 1
    spans = [covered[round(word.start * 100) : round(word.end * 100)] for word in whole]
    lost = sum(bool((span == 0).mean() > 0.5) for span in spans)
    doubled = sum(bool((span > 1).mean() > 0.5) for span in spans)
    return [each.segment for each in heard], len(whole), lost, doubled


@pytest.fixture(scope="module")
def long(recordings: Path) -> np.ndarray:
    """Half an hour of many voices, one utterance behind the other."""
    parts: list[np.ndarray] = []
    for file in sorted((recordings / "real-librispeech").rglob("*.flac")):
        parts.append(read_waveform(file))
        if sum(map(len, parts)) > MINUTES * 60 * RATE:
            return np.concatenate(parts)
    pytest.skip(f"fewer than {MINUTES} minutes of recordings")


@pytest.mark.slow
@pytest.mark.parametrize("pauses", [True, False])
def test_at_a_hundred_joints_at_most_one_word_is_lost_or_doubled(
    pauses: bool, long: np.ndarray
) -> None:
    waveform = long if pauses else cut_pauses(long)
    segments, words, lost, doubled = counted(waveform)
    joints, overlapping = len(segments) - 1, sum(each.overlaps for each in segments)
    print(
        f"{len(waveform) / RATE / 60:.1f} min, {words} words, {joints} joints ({overlapping} "
        f"overlap): {lost} lost, {doubled} doubled"
    )
    assert len(waveform) > 30 * 60 * RATE
    assert joints >= 100
    assert overlapping / joints < 0.1 if pauses else overlapping / joints > 0.5
    assert lost + doubled <= joints / 100
