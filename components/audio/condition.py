"""Conditions under which a recording is heard: one change of a waveform, the same each time.

In: mono float32 at 16 kHz, the change, and clips of noise or none (white or pink noise is made).
Out: mono float32 at 16 kHz within full scale, of a length that the change gives exactly. Noise
hangs on the seed and on the recording's name alone, so that it is the same clip at every ratio.
Cost: 2 ms a second of audio with noise, 8 ms with another tempo.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from components.audio.augmentation import add_noise, draw_excerpt, limit_to_full_scale
from components.audio.sound import RATE, BrokenSound, is_silent, read_waveform
from components.audio.tempo import LEAST, MOST, change_tempo
from components.config.errors import InputError
from components.runtime.hashing import seed_of
from components.runtime.s3 import RemotePath, local_path_or_bytes

CHANGES = {
    "snr_db": "snr",
    "tempo": "tempo",
    "cut": "cut",
    "around_seconds": "around",
}  # change → its name in labels
RANGES: dict[str, tuple[float, float]] = {
    "snr_db": (-100, 100),
    "tempo": (LEAST, MOST),
    "cut": (0.01, 0.99),
    "around_seconds": (0.01, 600),
    "around_db": (-100, 0),
}
LOWEST = 20  # Hz, below which pink noise gets no louder: nobody hears it
NO_RATIO = "no ratio: silence stands in none to noise"


@dataclass(frozen=True)
class Condition:
    """One change: ``snr_db`` (power of the recording over that of the noise, both over its whole
    length), ``tempo`` (factor), ``cut`` (share kept, from the beginning on) or ``around_seconds``
    (of noise before it, and as many after it).
    """

    name: str  # of CHANGES
    value: float
    seed: int = 1
    around_db: float = -40.0  # root mean square of the noise around it, dB of full scale

    @property
    def noisy(self) -> bool:
        """Whether there is noise in it."""
        return self.name in ("snr_db", "around_seconds")

    def label(self) -> str:
        """As it stands in ids: letters, digits, hyphens and underscores, ``tempo-0_8``."""
        return f"{CHANGES[self.name]}-{f'{self.value:g}'.replace('-', 'minus-').replace('.', '_')}"

    def lengthened(self, seconds: float, recordings: int) -> float:
        """Seconds that come out where so many recordings of so many seconds in all go in."""
        if self.name == "tempo":
            return seconds / self.value
        if self.name == "cut":
            return seconds * self.value
        return seconds + 2 * self.value * recordings if self.name == "around_seconds" else seconds


def apply_condition(
    samples: np.ndarray, condition: Condition, noise: Sequence[Path | RemotePath] | None, name: str
) -> np.ndarray:
    """A recording under a condition; ``name`` is what its noise is drawn by.

    Shape: (samples,) with ``snr_db``, (round(samples / tempo),), (round(samples * cut),), (samples
    + 2 * round(16,000 * seconds),). Raises BrokenSound with the reason where silence is to stand in
    a ratio to noise, or nothing is left.
    """
    value = condition.value
    if condition.name in ("tempo", "cut"):
        left = (
            change_tempo(samples, value)
            if condition.name == "tempo"
            else samples[: round(len(samples) * value)]
        )
        if not len(left):
            raise BrokenSound("empty: no sample is left of it")
        return left
    random = np.random.default_rng(seed_of("condition", condition.seed, name))
    if condition.name == "snr_db":
        if is_silent(samples):
            raise BrokenSound(NO_RATIO)
        return limit_to_full_scale(
            add_noise(samples, _drawn(noise, len(samples), 1, random)[0], value)
        )
    before, after = _drawn(noise, round(value * RATE), 2, random)
    return limit_to_full_scale(
        np.concatenate(
            [_at_level(before, condition.around_db), samples, _at_level(after, condition.around_db)]
        )
    )


def clip_at(path: Path | RemotePath) -> np.ndarray:
    """A file that was found whole before, mono float32 at 16 kHz; raises InputError where it no
    longer is.
    """
    try:
        return read_waveform(local_path_or_bytes(path))
    except BrokenSound as reason:
        raise InputError(
            f"{path}: {reason}.", subject=str(path), hint="It was whole a moment ago: run again."
        ) from None


def _drawn(
    clips: Sequence[Path | RemotePath] | None, count: int, parts: int, random: np.random.Generator
) -> list[np.ndarray]:
    """``parts`` stretches of ``count`` samples of one noise, none of them silent: made, or of a
    clip that is drawn.
    """
    if clips is None:
        pink = random.random() < 0.5
        return [generate_noise(count, pink, random) for _ in range(parts)]
    for index in random.permutation(len(clips)):
        clip = _Clip(clip_at(clips[index]))
        found = [draw_excerpt(clip, count, random) for _ in range(parts)]
        if not any(is_silent(part) for part in found):
            return found
    raise InputError(
        "no clip of the noise is louder than -80 dB of full scale.",
        subject=str(clips[0]),
        hint="Take other clips.",
    )


def generate_noise(count: int, pink: bool, random: np.random.Generator) -> np.ndarray:
    """White noise, or pink (power falls with frequency), shape (count,), 20 dB under full scale."""
    spectrum = np.fft.rfft(random.standard_normal(count))
    if pink:
        spectrum /= np.sqrt(np.maximum(np.fft.rfftfreq(count, 1 / RATE), LOWEST))
    return _at_level(np.fft.irfft(spectrum, count), -20)


def _at_level(samples: np.ndarray, level_db: float) -> np.ndarray:
    """A waveform that is not silent, at this root mean square, dB of full scale."""
    return (
        samples * (10 ** (level_db / 20) / np.sqrt(np.square(samples, dtype=np.float64).mean()))
    ).astype(np.float32)


@dataclass(frozen=True)
class _Clip:
    """A clip of noise in memory, as ``stretch`` takes it."""

    sound: np.ndarray

    @property
    def samples(self) -> int:
        return len(self.sound)

    def read(self, start: int, count: int) -> np.ndarray:
        return self.sound[start : start + count]
