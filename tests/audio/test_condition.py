"""Conditions: the ratio, the share and the seconds that were asked for, and the same noise each
time.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from components.audio.condition import Condition
from components.audio.distortion import apply_condition, generate_noise
from components.audio.sound import RATE, BrokenSound, encode_flac, read_waveform
from tests.errors import refused


def voice(seconds: float = 1.0, level: float = 0.05, seed: int = 0) -> np.ndarray:
    """Something loud here and faint there."""
    count = int(RATE * seconds)
    swell = 0.05 + np.abs(np.sin(np.linspace(0, 9, count)))
    return (level * swell * np.random.default_rng(seed).standard_normal(count)).astype(np.float32)


def decibels(samples: np.ndarray) -> float:
    return float(10 * np.log10(np.mean(np.square(samples, dtype=np.float64))))


@pytest.fixture
def clips(tmp_path: Path) -> list[Path]:
    """Three clips of noise: short, long, and one without a sound, which nobody hears."""
    paths = [tmp_path / f"{name}.flac" for name in ("short", "long", "silent")]
    for path, samples in zip(
        paths, (voice(0.3, seed=1), voice(3, seed=2), np.zeros(RATE, np.float32)), strict=True
    ):
        path.write_bytes(encode_flac(samples))
    return paths


@pytest.mark.parametrize("is_generated", [True, False])
@pytest.mark.parametrize("ratio", [20.0, 5.0, 0.0, -5.0])
def test_the_ratio_is_the_one_that_is_set(
    ratio: float, is_generated: bool, clips: list[Path]
) -> None:
    """Measured in the file that is written."""
    for name in "abcdef":
        output = read_waveform(
            encode_flac(
                apply_condition(
                    voice(), Condition("snr_db", ratio), None if is_generated else clips, name
                )
            )
        )
        assert decibels(voice()) - decibels(output - voice()) == pytest.approx(ratio, abs=0.1)


def test_what_gets_too_loud_is_scaled_down() -> None:
    loud = voice(level=0.3)
    output = apply_condition(loud, Condition("snr_db", -5.0), None, "a")
    assert np.abs(output).max() == pytest.approx(1)
    noise = (
        apply_condition(loud / 100, Condition("snr_db", -5.0), None, "a") - loud / 100
    )  # the same noise, at a hundredth
    assert np.abs(output - (loud + 100 * noise) / np.abs(loud + 100 * noise).max()).max() < 1e-4


def test_a_recording_has_the_same_noise_at_every_ratio_and_others_another(
    clips: list[Path],
) -> None:
    def noise(ratio: float, name: str, paths: list[Path] | None, seed: int = 1) -> np.ndarray:
        added = apply_condition(voice(), Condition("snr_db", ratio, seed), paths, name) - voice()
        return added / np.abs(added).max()

    for source in (None, clips):
        assert np.abs(noise(10, "a", source) - noise(0, "a", source)).max() < 1e-4
        assert np.abs(noise(10, "a", source) - noise(10, "b", source)).max() > 0.1
        assert np.abs(noise(10, "a", source) - noise(10, "a", source, seed=2)).max() > 0.1


def test_generated_noise_is_white_or_pink() -> None:
    """Pink noise has as much power in every octave, white noise twice as much in the next."""
    for pink, octaves in ((False, 3.0), (True, 0.0)):
        power = np.abs(np.fft.rfft(generate_noise(10 * RATE, pink, np.random.default_rng(0)))) ** 2
        low, high = power[10 * 500 : 10 * 1000].sum(), power[10 * 2000 : 10 * 4000].sum()
        assert 10 * np.log10(high / low) / 2 == pytest.approx(octaves, abs=0.5)
    slopes = []
    for name in range(40):
        noise = apply_condition(voice(), Condition("snr_db", 0), None, str(name)) - voice()
        power = np.abs(np.fft.rfft(noise)) ** 2
        slopes.append(power[4000:].sum() > power[:4000].sum())
    assert 8 < sum(slopes) < 32, "both are met"


@settings(
    max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(
    count=st.integers(1, 5_000),
    value=st.floats(0.01, 0.99),
    seconds=st.floats(0.01, 0.5),
    name=st.text(max_size=3),
)
def test_lengths_are_exact(
    count: int, value: float, seconds: float, name: str, clips: list[Path]
) -> None:
    samples = np.full(count, 0.1, np.float32)
    for noise in (None, clips):
        output = apply_condition(samples, Condition("margin_seconds", seconds), noise, name)
        side = round(RATE * seconds)
        assert np.array_equal(output[side : side + count], samples)
        assert len(output) == count + 2 * side
        assert len(apply_condition(samples, Condition("snr_db", 30), noise, name)) == count
    if round(count * value):
        assert np.array_equal(
            apply_condition(samples, Condition("cut", value), None, name),
            samples[: round(count * value)],
        )


@pytest.mark.parametrize("is_generated", [True, False])
def test_noise_in_the_margins_has_its_level_on_both_sides(
    is_generated: bool, clips: list[Path]
) -> None:
    for level in (-40.0, -55.0):
        condition = Condition("margin_seconds", 1.5, margin_db=level)
        output = apply_condition(voice(), condition, None if is_generated else clips, "a")
        before, after = output[: RATE * 3 // 2], output[-RATE * 3 // 2 :]
        assert decibels(before) == pytest.approx(level, abs=0.1)
        assert decibels(after) == pytest.approx(level, abs=0.1)
        assert not np.array_equal(before, after)


def test_silence_has_no_ratio_and_an_empty_cut_is_none(clips: list[Path]) -> None:
    with pytest.raises(BrokenSound, match="no ratio"):
        apply_condition(np.zeros(RATE, np.float32), Condition("snr_db", 5), None, "a")
    with pytest.raises(BrokenSound, match="empty"):
        apply_condition(np.ones(10, np.float32), Condition("cut", 0.01), None, "a")


def test_noise_that_is_silent_throughout_stops(clips: list[Path]) -> None:
    with refused(str(clips[2]), "-80 dB"):
        apply_condition(voice(), Condition("snr_db", 5), clips[2:], "a")
    for name in "abcdef":  # beside others it is passed over
        assert (
            np.abs(apply_condition(voice(), Condition("snr_db", 5), clips, name) - voice()).max()
            > 1e-3
        )


@pytest.mark.parametrize(
    ("condition", "label"),
    [
        ("snr_db", "snr-minus-5"),
        ("snr_db", "snr-2_5"),
        ("tempo", "tempo-0_8"),
        ("cut", "cut-0_5"),
        ("margin_seconds", "around-5"),
    ],
)
def test_a_label_has_nothing_that_an_id_may_not_have(condition: str, label: str) -> None:
    value = {
        "snr-minus-5": -5.0,
        "snr-2_5": 2.5,
        "tempo-0_8": 0.8,
        "cut-0_5": 0.5,
        "around-5": 5.0,
    }[label]
    assert Condition(condition, value).label() == label
