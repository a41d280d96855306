"""Tempo: the length that is asked for, the pitch that was there, and nothing else changed."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from components.audio.condition import MAX_TEMPO, MIN_TEMPO
from components.audio.sound import RATE
from components.audio.tempo import change_tempo
from tests.errors import refused

TEMPOS = [0.5, 0.8, 0.9, 1.1, 1.25, 2.0]


def sine(hertz: float, seconds: float = 2.0, level: float = 0.5) -> np.ndarray:
    return (level * np.sin(2 * np.pi * hertz * np.arange(int(RATE * seconds)) / RATE)).astype(
        np.float32
    )


def peak_of(samples: np.ndarray) -> float:
    """Frequency in Hz of the largest value of the spectrum; a bin is as wide as one over the length
    in seconds.
    """
    spectrum = np.abs(np.fft.rfft(samples * np.hanning(len(samples)), 8 * len(samples)))
    return float(spectrum.argmax()) * RATE / (8 * len(samples))


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 9_000), st.floats(MIN_TEMPO, MAX_TEMPO), st.integers(0, 5))
def test_length_is_exact_and_nothing_gets_louder(count: int, tempo: float, seed: int) -> None:
    samples = np.random.default_rng(seed).uniform(-1, 1, count).astype(np.float32)
    changed = change_tempo(samples, tempo)
    assert changed.shape == (round(count / tempo),)
    assert changed.dtype == np.float32
    assert np.isfinite(changed).all()
    assert np.abs(changed).max(initial=0.0) <= np.abs(samples).max(initial=0.0) + 1e-6


@pytest.mark.parametrize("tempo", TEMPOS)
@pytest.mark.parametrize("hertz", [80, 220, 1000, 3500])
def test_a_tone_keeps_its_pitch_and_its_level(hertz: float, tempo: float) -> None:
    before, after = sine(hertz), change_tempo(sine(hertz), tempo)
    assert peak_of(after) == pytest.approx(hertz, rel=0.005)
    inner = after[RATE // 10 : -RATE // 10]
    assert np.sqrt(np.mean(inner**2)) == pytest.approx(np.sqrt(np.mean(before**2)), rel=0.05)


@pytest.mark.parametrize("tempo", TEMPOS)
def test_an_event_is_at_its_share_of_the_time(tempo: float) -> None:
    """A low tone and then a high one change where the tempo puts the border."""
    after = change_tempo(np.concatenate([sine(200, 1.0), sine(2_000, 1.5)]), tempo)
    border = round(RATE / tempo)
    slack = RATE // 25
    assert peak_of(after[: border - slack]) == pytest.approx(200, rel=0.02)
    assert peak_of(after[border + slack :]) == pytest.approx(2_000, rel=0.02)


@pytest.mark.parametrize("tempo", TEMPOS)
def test_silence_stays_silence(tempo: float) -> None:
    assert not change_tempo(np.zeros(RATE, np.float32), tempo).any()
    speech = np.concatenate(
        [np.zeros(RATE, np.float32), sine(300, 1.0), np.zeros(RATE, np.float32)]
    )
    changed = change_tempo(speech, tempo)
    assert not changed[: round(0.95 * RATE / tempo)].any()
    assert not changed[round(2.05 * RATE / tempo) :].any()


def test_the_tempo_that_was_there_gives_the_same_samples() -> None:
    samples = np.random.default_rng(1).uniform(-1, 1, 5_000).astype(np.float32)
    assert np.array_equal(change_tempo(samples, 1.0), samples)


def test_a_tempo_next_to_one_leaves_the_sound_nearly_as_it_was() -> None:
    """So that the identity is the method's and no exception from it."""
    samples = np.random.default_rng(1).uniform(-1, 1, 8_000).astype(np.float32)
    assert np.abs(change_tempo(samples, 1 + 1e-9) - samples).max() < 1e-5


def test_the_same_samples_each_time() -> None:
    samples = np.random.default_rng(2).standard_normal(RATE).astype(np.float32)
    assert np.array_equal(change_tempo(samples, 0.8), change_tempo(samples.copy(), 0.8))


@pytest.mark.parametrize("tempo", [0.0, 0.49, 2.01, -1.0, float("nan")])
def test_a_tempo_out_of_range_is_refused(tempo: float) -> None:
    with refused(None, "0.5", "2"):
        change_tempo(np.zeros(10, np.float32), tempo)
