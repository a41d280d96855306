"""Augmentation of waveforms: speed, room, noise, band and level, in this order, drawn from (seed,
utterance, view) alone.

In: mono float32 at 16 kHz, settings, recordings of noise and of rooms. Out: mono float32 at 16 kHz
whose length is known from the settings and the draw. Each effect draws for itself, so that
switching one on leaves the draws of the others. Nothing is clipped: what passes full scale is
turned down as a whole, noise and speech alike. Cost: about 1 ms a second of audio where speed, room
and noise are all on.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from components.audio.sound import RATE, is_silent, resample
from components.config.augment import Augment
from components.runtime.hashing import seed_of


class ClipReader(Protocol):
    """A clip of noise or the impulse response of a room, read where it is wanted."""

    @property
    def samples(self) -> int:
        """Its length at 16 kHz."""

    def read(self, start: int, count: int) -> np.ndarray:
        """``count`` samples from ``start`` on, mono float32."""


@dataclass(frozen=True)
class Augmentation:
    """What ``settings`` make of an utterance. ``view`` is a stored view or an epoch: the same three
    (seed, utterance, view) give the same samples, whatever comes before or beside it. ``noise`` and
    ``rooms`` may be left out where only lengths are asked.
    """

    settings: Augment
    noise: Sequence[ClipReader] = ()
    rooms: Sequence[ClipReader] = ()

    def length(self, samples: int, utterance: str, view: int) -> int:
        """Samples that an utterance of so many has at a view; nothing is read."""
        return perturbed_length(samples, self._speed(utterance, view))

    def __call__(self, samples: np.ndarray, utterance: str, view: int) -> np.ndarray:
        """The waveform at a view, shape (``length``,); finite, within full scale, silence stays
        silence.
        """
        settings = self.settings
        changed = perturb_speed(samples, self._speed(utterance, view))
        if chosen := self._drawn("room", settings.rooms.probability, utterance, view):
            changed = add_reverberation(
                changed, read_all(self.rooms[int(chosen.integers(len(self.rooms)))])
            )
        if chosen := self._drawn("noise", settings.noise.probability, utterance, view):
            clip = self.noise[int(chosen.integers(len(self.noise)))]
            snr_db = chosen.uniform(*settings.noise.snr_db)
            changed = add_noise(changed, draw_excerpt(clip, len(changed), chosen), snr_db)
        if chosen := self._drawn("band", settings.band.probability, utterance, view):
            changed = limit_band(changed, chosen.uniform(*settings.band.hertz))
        level = self._random("level", utterance, view).uniform(*settings.level_db)
        return limit_to_full_scale(changed * np.float32(10 ** (level / 20)))

    def _speed(self, utterance: str, view: int) -> float:
        factors = self.settings.speed
        # No generator for this one: lengths of a whole corpus are drawn for each epoch.
        return (
            factors[0]
            if len(factors) == 1
            else factors[self._seed("speed", utterance, view) % len(factors)]
        )

    def _drawn(
        self, effect: str, probability: float, utterance: str, view: int
    ) -> np.random.Generator | None:
        """The random numbers of an effect, where it falls on the utterance."""
        random = self._random(effect, utterance, view)
        return random if random.random() < probability else None

    def _random(self, effect: str, utterance: str, view: int) -> np.random.Generator:
        return np.random.default_rng(self._seed(effect, utterance, view))

    def _seed(self, effect: str, utterance: str, view: int) -> int:
        return seed_of("augment", effect, self.settings.seed, utterance, view)


def perturbed_length(samples: int, speed: float) -> int:
    """Samples left of so many at ``speed``; at least one."""
    return max(1, round(samples * RATE / round(RATE * speed)))


def perturb_speed(samples: np.ndarray, speed: float) -> np.ndarray:
    """The waveform at ``speed`` times its tempo and pitch, shape (``sped``,): resampled (Ko et al.,
    Interspeech 2015).
    """
    changed = resample(samples, round(RATE * speed))
    wanted = perturbed_length(len(samples), speed)
    return np.pad(
        changed[:wanted], (0, max(0, wanted - len(changed)))
    )  # the resampler's own length may differ by one


def add_reverberation(samples: np.ndarray, response: np.ndarray) -> np.ndarray:
    """The waveform as heard in the room of an impulse response, of the same length and energy.

    The direct path, taken to be the response's largest value, stays where it was: transcripts and
    lengths keep their times.
    """
    size = 1 << (len(samples) + len(response) - 2).bit_length()
    direct = int(np.abs(response).argmax())
    spectrum = np.fft.rfft(samples.astype(np.float64), size) * np.fft.rfft(
        response.astype(np.float64), size
    )
    heard = np.fft.irfft(spectrum, size)[direct : direct + len(samples)]
    return (
        (heard * _gain(_power(samples), _power(heard))).astype(np.float32)
        if not is_silent(samples)
        else samples
    )


def add_noise(samples: np.ndarray, noise: np.ndarray, snr_db: float) -> np.ndarray:
    """Waveform and noise, of one length, added so that their powers stand at ``snr_db``. Where
    either is silent there is no such ratio: the waveform stays as it is.
    """
    if is_silent(samples) or is_silent(noise):
        return samples
    return samples + noise * np.float32(
        _gain(_power(samples), _power(noise)) * 10 ** (-snr_db / 20)
    )


def limit_band(samples: np.ndarray, hertz: float) -> np.ndarray:
    """The waveform without what lies above ``hertz``, of the same length: resampled to twice the
    limit and back.
    """
    rate = 2 * round(hertz)
    changed = resample(resample(samples, RATE, rate), rate, RATE)[: len(samples)]
    return np.pad(changed, (0, len(samples) - len(changed)))


def draw_excerpt(clip: ClipReader, count: int, random: np.random.Generator) -> np.ndarray:
    """``count`` samples of a clip from a drawn place on; a shorter clip begins again
    where it ends.
    """
    if clip.samples >= count:
        return clip.read(int(random.integers(clip.samples - count + 1)), count)
    return np.take(
        read_all(clip), np.arange(count) + int(random.integers(clip.samples)), mode="wrap"
    )


def read_all(clip: ClipReader) -> np.ndarray:
    """All of a recording."""
    return clip.read(0, clip.samples)


def limit_to_full_scale(samples: np.ndarray) -> np.ndarray:
    """The waveform, turned down as a whole where its peak is over full scale."""
    peak = np.abs(samples).max(initial=0.0)
    return samples if peak <= 1 else samples / peak


def _power(samples: np.ndarray) -> float:
    return float(np.square(samples, dtype=np.float64).mean())


def _gain(wanted: float, power: float) -> float:
    """What brings a signal of ``power`` to the power that is wanted; a signal of none stays."""
    return float(np.sqrt(wanted / power)) if power > 0 else 1.0
