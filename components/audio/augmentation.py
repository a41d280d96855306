"""Augmentation of waveforms: speed, room, noise, band and level, in this order, drawn from (seed,
utterance, view) alone.

In: mono float32 at 16 kHz, settings, recordings of noise and of rooms. Out: mono float32 at 16 kHz
whose length follows from the settings and the draw. Each effect has its own random generator, so
that switching one on leaves the draws of the others. Nothing is clipped: if the peak is over full
scale, the waveform is scaled down, noise and speech alike. Cost: about 1 ms a second of audio with
speed, room and noise on.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

import numpy as np

from components.audio.sound import RATE, is_silent, resample
from components.config.augment import Augment
from components.runtime.hashing import seed_of

if TYPE_CHECKING:
    import torch


class ClipReader(Protocol):
    """A clip of noise or the impulse response of a room, read when it is used."""

    @property
    def samples(self) -> int:
        """Its length at 16 kHz."""

    def read(self, start: int, count: int) -> np.ndarray:
        """``count`` samples from sample ``start`` on, mono float32."""


@dataclass(frozen=True)
class Augmentation:
    """The augmentation that ``settings`` describe.

    ``view`` is a stored view or an epoch: the same three (seed, utterance, view) give the same
    samples, in any order and beside any other utterance. ``noise`` and ``rooms`` may be left out if
    only lengths are used.
    """

    settings: Augment
    noise: Sequence[ClipReader] = ()
    rooms: Sequence[ClipReader] = ()

    def length(self, samples: int, utterance: str, view: int) -> int:
        """Number of samples that an utterance of ``samples`` has at a view; nothing is read."""
        return perturbed_length(samples, self._speed(utterance, view))

    def __call__(self, samples: np.ndarray, utterance: str, view: int) -> np.ndarray:
        """The waveform at a view, shape (``length``,); finite, within full scale; silence stays
        silence.
        """
        settings = self.settings
        waveform = perturb_speed(samples, self._speed(utterance, view))
        if random := self._draw("room", settings.rooms.probability, utterance, view):
            response = read_all(self.rooms[int(random.integers(len(self.rooms)))])
            waveform = add_reverberation(waveform, response)
        if random := self._draw("noise", settings.noise.probability, utterance, view):
            clip = self.noise[int(random.integers(len(self.noise)))]
            snr_db = random.uniform(*settings.noise.snr_db)
            waveform = add_noise(waveform, draw_excerpt(clip, len(waveform), random), snr_db)
        if random := self._draw("band", settings.band.probability, utterance, view):
            waveform = limit_band(waveform, random.uniform(*settings.band.hertz))
        level_db = self._generator("level", utterance, view).uniform(*settings.level_db)
        return limit_to_full_scale(waveform * np.float32(10 ** (level_db / 20)))

    def _speed(self, utterance: str, view: int) -> float:
        factors = self.settings.speed
        # No generator for this one: lengths of a complete corpus are drawn for each epoch.
        return (
            factors[0]
            if len(factors) == 1
            else factors[self._seed("speed", utterance, view) % len(factors)]
        )

    def _draw(
        self, effect: str, probability: float, utterance: str, view: int
    ) -> np.random.Generator | None:
        """The generator of an effect if the effect applies to the utterance, otherwise None."""
        random = self._generator(effect, utterance, view)
        return random if random.random() < probability else None

    def _generator(self, effect: str, utterance: str, view: int) -> np.random.Generator:
        return np.random.default_rng(self._seed(effect, utterance, view))

    def _seed(self, effect: str, utterance: str, view: int) -> int:
        return seed_of("augment", effect, self.settings.seed, utterance, view)


def perturbed_length(samples: int, speed: float) -> int:
    """Number of samples that ``samples`` become at ``speed``; at least one."""
    return max(1, round(samples * RATE / round(RATE * speed)))


def perturb_speed(samples: np.ndarray, speed: float) -> np.ndarray:
    """The waveform at ``speed`` times its tempo and pitch, shape (``perturbed_length``,): resampled
    (Ko et al., Interspeech 2015).
    """
    resampled = resample(samples, round(RATE * speed))
    num_samples = perturbed_length(len(samples), speed)
    # The length of the resampler's output may differ by one.
    padding = max(0, num_samples - len(resampled))
    perturbed: np.ndarray = np.pad(resampled[:num_samples], (0, padding))
    return perturbed


def add_reverberation(samples: np.ndarray, response: np.ndarray) -> np.ndarray:
    """The waveform in the room of an impulse response, of the same length and energy.

    The direct path, which is the largest value of the response, stays at its position: transcripts
    and lengths keep their times.
    """
    if is_silent(samples):
        return samples
    from torchaudio.functional import fftconvolve

    direct = int(np.abs(response).argmax())
    # to a power of two, at which the Fourier transform is several times as fast
    fft_size = 1 << (len(samples) + len(response) - 2).bit_length()
    padded = np.pad(response, (0, fft_size + 1 - len(samples) - len(response)))
    convolved = fftconvolve(_as_tensor(samples), _as_tensor(padded)).numpy()
    reverberant = convolved[direct : direct + len(samples)]
    gain = _gain(_power(samples), _power(reverberant))
    scaled: np.ndarray = (reverberant * gain).astype(np.float32)
    return scaled


def add_noise(samples: np.ndarray, noise: np.ndarray, snr_db: float) -> np.ndarray:
    """The sum of waveform and noise (of one length) with a power ratio of ``snr_db``.

    If either is silent there is no such ratio, and the waveform is returned as it is.
    """
    if is_silent(samples) or is_silent(noise):
        return samples
    import torch
    from torchaudio.functional import add_noise as mix

    mixed = mix(_as_tensor(samples), _as_tensor(noise), torch.tensor(snr_db, dtype=torch.float64))
    noisy: np.ndarray = mixed.numpy().astype(np.float32)
    return noisy


def limit_band(samples: np.ndarray, hertz: float) -> np.ndarray:
    """The waveform without the frequencies above ``hertz``, of the same length: resampled to twice
    the limit and back.
    """
    rate = 2 * round(hertz)
    limited = resample(resample(samples, RATE, rate), rate, RATE)[: len(samples)]
    padded: np.ndarray = np.pad(limited, (0, len(samples) - len(limited)))
    return padded


def draw_excerpt(clip: ClipReader, count: int, random: np.random.Generator) -> np.ndarray:
    """``count`` samples of a clip from a random position on; a shorter clip is repeated."""
    if clip.samples >= count:
        return clip.read(int(random.integers(clip.samples - count + 1)), count)
    positions: np.ndarray = np.arange(count) + int(random.integers(clip.samples))
    repeated: np.ndarray = np.take(read_all(clip), positions, mode="wrap")
    return repeated


def read_all(clip: ClipReader) -> np.ndarray:
    """All samples of a clip."""
    return clip.read(0, clip.samples)


def limit_to_full_scale(samples: np.ndarray) -> np.ndarray:
    """The waveform, scaled down if its peak is over full scale."""
    peak = np.abs(samples).max(initial=0.0)
    return samples if peak <= 1 else samples / peak


def _as_tensor(samples: np.ndarray) -> torch.Tensor:
    """In double precision: the power of a long clip has more digits than float32."""
    import torch

    return torch.from_numpy(np.asarray(samples, np.float64))


def _power(samples: np.ndarray) -> float:
    return float(np.square(samples, dtype=np.float64).mean())


def _gain(target_power: float, power: float) -> float:
    """The factor that brings a signal of ``power`` to ``target_power``; 1 for a signal without
    power.
    """
    return float(np.sqrt(target_power / power)) if power > 0 else 1.0
