"""Augmentation: what is asked for is what is heard, from the seed, the utterance and the view
alone.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from components.audio.augmentation import (
    Augmentation,
    add_noise,
    add_reverberation,
    draw_excerpt,
    limit_band,
    limit_to_full_scale,
    perturb_speed,
    perturbed_length,
)
from components.audio.sound import RATE
from components.config.augment import AddedNoise, Augment, Band, Rooms

OFF = Augment(
    seed=1,
    views=1,
    speed=[1.0],
    level_db=[0, 0],
    noise=AddedNoise(0, [5, 20]),
    rooms=Rooms(0),
    band=Band(0, [3000, 7000]),
)
ALL = replace(
    OFF,
    speed=[0.9, 1.0, 1.1],
    level_db=[-12, 6],
    noise=AddedNoise(0.7, [5, 20]),
    rooms=Rooms(0.7),
    band=Band(0.7, [3000, 7000]),
)


@dataclass(frozen=True, eq=False)
class LoadedClip:
    """A recording in memory."""

    data: np.ndarray

    @property
    def samples(self) -> int:
        return len(self.data)

    def read(self, start: int, count: int) -> np.ndarray:
        assert 0 <= start <= start + count <= len(self.data)
        return self.data[start : start + count]


def hiss(seconds: float, seed: int, level: float = 0.1) -> np.ndarray:
    return (level * np.random.default_rng(seed).standard_normal(int(seconds * RATE))).astype(
        np.float32
    )


def tone(pitch: float, seconds: float = 1.0) -> np.ndarray:
    return (0.3 * np.sin(2 * np.pi * pitch * np.arange(int(seconds * RATE)) / RATE)).astype(
        np.float32
    )


def room(direct: int, seed: int = 3) -> np.ndarray:
    """A response with a direct path, a faint sound before it, and a tail that dies away."""
    tail = hiss(0.3, seed) * np.exp(-np.arange(int(0.3 * RATE)) / 800).astype(np.float32)
    before = np.full(direct, 1e-3, np.float32)
    return np.concatenate([before, np.ones(1, np.float32), tail])


NOISE = [LoadedClip(hiss(3, 1)), LoadedClip(hiss(0.02, 2)), LoadedClip(np.zeros(50, np.float32))]
ROOMS = [LoadedClip(room(0)), LoadedClip(room(90)), LoadedClip(np.ones(1, np.float32))]


def power_db(samples: np.ndarray) -> float:
    return 10 * float(np.log10(np.square(samples, dtype=np.float64).mean()))


@pytest.mark.parametrize("limit", [1500.0, 3400.0, 6999.5])
@pytest.mark.parametrize("seconds", [0.01, 0.5, 1.37])
def test_a_band_keeps_what_is_below_its_limit_and_nothing_above(
    limit: float, seconds: float
) -> None:
    below, above = tone(0.5 * limit, seconds), tone(min(1.15 * limit, 7900), seconds)
    output = limit_band(below + above, limit)
    assert (len(output), output.dtype) == (len(below), np.float32)
    if seconds > 0.1:
        inside = slice(800, -800)  # ends ring
        assert power_db(output[inside] - below[inside]) < power_db(below) - 30
        assert power_db(limit_band(above, limit)[inside]) < power_db(above) - 30


@pytest.mark.parametrize("snr", [-5.0, 0.0, 12.5, 30.0])
@pytest.mark.parametrize("level", [0.003, 0.2])
def test_noise_has_the_ratio_that_is_set(snr: float, level: float) -> None:
    speech = tone(300)
    mixed = add_noise(speech, hiss(1, 4, level), snr)
    assert power_db(speech) - power_db(mixed - speech) == pytest.approx(snr, abs=0.1)


@pytest.mark.parametrize("snr", [-5.0, 30.0])
@pytest.mark.parametrize("seconds", [0.001, 60.0])
def test_noise_is_added_by_the_ratio_of_mean_squares(snr: float, seconds: float) -> None:
    """Against the formula in NumPy, to the last bits of float32 (measured: 6e-8 at most)."""
    speech, noise = hiss(seconds, 9, 0.1), hiss(seconds, 10, 0.02)
    powers = [np.square(sound, dtype=np.float64).mean() for sound in (speech, noise)]
    expected = speech + noise * np.sqrt(powers[0] / powers[1] * 10 ** (-snr / 10))
    np.testing.assert_allclose(add_noise(speech, noise, snr), expected, atol=2e-7)


@pytest.mark.parametrize("seconds", [0.01, 0.5, 5])
def test_drawn_ratios_fill_their_range_for_noise_shorter_and_longer_than_speech(
    seconds: float,
) -> None:
    """Speech and noise have no frequency in common; what is not of the speech is the noise."""
    speech = tone(1000)
    output = Augmentation(
        replace(OFF, noise=AddedNoise(1, [5, 20])), noise=[LoadedClip(hiss(seconds, 5))]
    )
    ratios = [power_db(speech) - power_db(output(speech, "a", view) - speech) for view in range(60)]
    assert min(ratios) == pytest.approx(5, abs=1.5)
    assert max(ratios) == pytest.approx(20, abs=1.5)
    assert 4.9 < min(ratios) <= max(ratios) < 20.1


def test_silence_gets_no_noise_and_silent_noise_adds_none() -> None:
    speech, nothing = tone(300), np.zeros(RATE, np.float32)
    assert np.array_equal(add_noise(nothing, hiss(1, 6), 10), nothing)
    assert np.array_equal(add_noise(speech, nothing, 10), speech)
    faint = hiss(1, 6, 1e-5)  # under -80 dB: digital silence must not be blown up to noise
    assert np.array_equal(add_noise(speech, faint, 10), speech)
    assert np.array_equal(add_noise(faint, speech, 10), faint)
    assert np.array_equal(add_reverberation(nothing, room(20)), nothing)


@pytest.mark.parametrize("direct", [0, 1, 700])
def test_a_room_keeps_length_energy_and_the_position_of_the_direct_path(direct: int) -> None:
    click = np.zeros(9000, np.float32)
    click[2000] = 0.5
    output = add_reverberation(click, room(direct))
    assert len(output) == len(click)
    assert int(np.abs(output).argmax()) == 2000
    assert np.abs(output[2001:6000]).max() > 1e-3  # and a tail
    speech = hiss(2, 7)
    assert power_db(add_reverberation(speech, room(direct))) == pytest.approx(
        power_db(speech), abs=0.01
    )


@pytest.mark.parametrize("count", [1, 100, 9000])
def test_a_room_is_a_convolution(count: int) -> None:
    """Against the sum of its definition, also where the response is longer than the sound."""
    sound, response = hiss(count / RATE, 8), room(40)
    expected = np.convolve(sound.astype(np.float64), response)[40 : 40 + count]
    expected *= np.sqrt(np.square(sound, dtype=np.float64).sum() / np.square(expected).sum())
    np.testing.assert_allclose(add_reverberation(sound, response), expected, atol=1e-6)


@pytest.mark.parametrize("speed", [0.9, 1.1, 1.25])
def test_speed_moves_tempo_and_pitch_together(speed: float) -> None:
    quick = perturb_speed(tone(440), speed)
    assert len(quick) == perturbed_length(RATE, speed) == pytest.approx(RATE / speed, abs=1)
    spectrum = np.abs(np.fft.rfft(quick * np.hanning(len(quick)), 1 << 17))
    assert spectrum.argmax() / (1 << 17) * RATE == pytest.approx(440 * speed, rel=0.002)
    assert power_db(quick[200:-200]) == pytest.approx(power_db(tone(440)), abs=0.1)


def test_a_level_is_a_gain_and_what_would_clip_is_scaled_down() -> None:
    speech = tone(300)
    louder = Augmentation(replace(OFF, level_db=[6, 6]))(speech, "a", 0)
    np.testing.assert_allclose(louder, speech * 10 ** (6 / 20), rtol=1e-5)
    loudest = Augmentation(replace(OFF, level_db=[40, 40]))(speech, "a", 0)
    np.testing.assert_allclose(loudest, speech / np.abs(speech).max(), rtol=1e-5)
    assert np.array_equal(limit_to_full_scale(speech), speech)


def test_with_all_off_nothing_is_changed() -> None:
    assert not OFF.is_enabled
    assert np.array_equal(Augmentation(OFF)(tone(300), "a", 3), tone(300))


@pytest.mark.parametrize(
    "on",
    [
        {"speed": [0.9, 1.1]},
        {"level_db": [-3, 3]},
        {"noise": AddedNoise(0.5, [5, 5])},
        {"rooms": Rooms(0.5)},
        {"band": Band(0.5, [2000, 2000])},
    ],
)
def test_every_effect_is_drawn_by_seed_utterance_and_view(on: dict[str, Any]) -> None:
    settings = replace(OFF, **on)
    assert settings.is_enabled
    speech = hiss(0.3, 9)

    def output(seed: int, utterance: str) -> list[bytes]:
        drawn = Augmentation(replace(settings, seed=seed), NOISE[:2], ROOMS[:2])
        return [drawn(speech, utterance, view).tobytes() for view in range(12)]

    assert output(1, "a") == output(1, "a")
    assert len({tuple(output(*drawn)) for drawn in ((1, "a"), (2, "a"), (1, "b"))}) == 3
    assert len(set(output(1, "a"))) > 1


def test_what_came_before_does_not_matter() -> None:
    drawn = Augmentation(ALL, NOISE, ROOMS)
    names = [f"utterance-{number}" for number in range(12)]
    forward = {name: drawn(hiss(0.2, 10), name, 1) for name in names}
    for name in reversed(names):
        assert np.array_equal(
            Augmentation(ALL, NOISE, ROOMS)(hiss(0.2, 10), name, 1), forward[name]
        )


def test_switching_an_effect_on_leaves_the_other_draws() -> None:
    quick = Augmentation(replace(OFF, speed=[0.9, 1.0, 1.1]))
    both = Augmentation(ALL, NOISE, ROOMS)
    lengths = [quick.length(RATE, f"u{number}", 0) for number in range(50)]
    assert lengths == [both.length(RATE, f"u{number}", 0) for number in range(50)]
    assert set(lengths) == {perturbed_length(RATE, speed) for speed in (0.9, 1.0, 1.1)}


def test_an_effect_falls_on_its_share_of_the_utterances() -> None:
    drawn = Augmentation(replace(OFF, noise=AddedNoise(0.3, [5, 20])), [NOISE[0]])
    speech = hiss(0.05, 11)
    assert sum(
        not np.array_equal(drawn(speech, str(number), 0), speech) for number in range(1000)
    ) == pytest.approx(300, abs=60)


@given(
    count=st.integers(1, 3000),
    scale=st.sampled_from([0.0, 1e-30, 1e-4, 0.1, 1.0]),
    view=st.integers(0, 10**6),
    name=st.text(max_size=8),
    speeds=st.lists(st.floats(0.5, 2), min_size=1, max_size=3),
    level=st.floats(-100, 100),
    snr=st.floats(-100, 100),
)
def test_lengths_are_computed_and_samples_finite_within_full_scale(
    count: int, scale: float, view: int, name: str, speeds: list[float], level: float, snr: float
) -> None:
    settings = Augment(
        1,
        1,
        speeds,
        [level, level],
        AddedNoise(0.8, [snr, snr]),
        Rooms(0.8),
        Band(0.5, [3000, 7000]),
    )
    drawn = Augmentation(settings, NOISE, ROOMS)
    sound = (scale * np.random.default_rng(count).uniform(-1, 1, count)).astype(np.float32)
    output = drawn(sound, name, view)
    assert output.dtype == np.float32
    assert output.shape == (drawn.length(count, name, view),)
    assert np.isfinite(output).all()
    assert np.abs(output).max() <= 1


@given(clip_length=st.integers(1, 400), count=st.integers(1, 900), seed=st.integers(0, 99))
def test_a_stretch_of_noise_is_a_run_of_the_clip_that_repeats(
    clip_length: int, count: int, seed: int
) -> None:
    got = draw_excerpt(
        LoadedClip(np.arange(clip_length, dtype=np.float32)), count, np.random.default_rng(seed)
    )
    assert len(got) == count
    assert np.array_equal(np.diff(got) % clip_length, np.full(count - 1, 1 % clip_length))
    assert clip_length < count or got[-1] - got[0] == count - 1
