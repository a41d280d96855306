"""A waveform under a condition (``components.audio.condition``): the same samples each time.

In: mono float32 at 16 kHz, the condition, and clips of noise or none (white or pink noise is
generated). Out: mono float32 at 16 kHz within full scale, of a length that the condition determines
exactly. Noise depends on the seed and on the name of the recording alone, so that it is the same
clip at every ratio. Cost: 2 ms a second of audio with noise, 8 ms with another tempo.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from components.audio.augmentation import add_noise, draw_excerpt, limit_to_full_scale
from components.audio.condition import Condition
from components.audio.sound import RATE, BrokenSound, is_silent, read_waveform
from components.audio.tempo import change_tempo
from components.config.errors import InputError
from components.runtime.hashing import seed_of
from components.runtime.s3 import StoredFile, local_path_or_bytes

PINK_CORNER_HZ = 20  # pink noise gets no louder below it: nobody hears that
NO_RATIO = "no ratio: silence has no ratio to noise"


def apply_condition(
    samples: np.ndarray,
    condition: Condition,
    noise_paths: Sequence[StoredFile] | None,
    recording: str,
) -> np.ndarray:
    """A recording under a condition, float32 at 16 kHz.

    ``noise_paths`` are the clips to draw noise from (None: it is generated); ``recording`` is the
    name that seeds the draw. Shape: (samples,) with ``snr_db``, (round(samples / tempo),),
    (round(samples * cut),), (samples + 2 * round(16,000 * margin_seconds),). Raises BrokenSound
    with the reason if a silent recording is to have a ratio to noise, or if no sample remains.
    """
    value = condition.value
    if condition.name in ("tempo", "cut"):
        altered = (
            change_tempo(samples, value)
            if condition.name == "tempo"
            else samples[: round(len(samples) * value)]
        )
        if not len(altered):
            raise BrokenSound("empty: no sample is left of it")
        return altered
    random = np.random.default_rng(seed_of("condition", condition.seed, recording))
    if condition.name == "snr_db":
        if is_silent(samples):
            raise BrokenSound(NO_RATIO)
        return limit_to_full_scale(
            add_noise(samples, _draw_noise(noise_paths, len(samples), 1, random)[0], value)
        )
    before, after = _draw_noise(noise_paths, round(value * RATE), 2, random)
    level_db = condition.margin_db
    return limit_to_full_scale(
        np.concatenate(
            [_scale_to_level(before, level_db), samples, _scale_to_level(after, level_db)]
        )
    )


def read_clip(path: StoredFile) -> np.ndarray:
    """A file that was intact when it was listed, mono float32 at 16 kHz.

    Raises InputError if it no longer is.
    """
    try:
        return read_waveform(local_path_or_bytes(path))
    except BrokenSound as error:
        raise InputError(
            f"{path}: {error}.",
            subject=str(path),
            hint="It was intact when it was listed: run again.",
        ) from None


def _draw_noise(
    paths: Sequence[StoredFile] | None,
    num_samples: int,
    num_parts: int,
    random: np.random.Generator,
) -> list[np.ndarray]:
    """``num_parts`` excerpts of one noise, each of shape (num_samples,) and none of them silent:
    generated, or of a clip that is drawn.
    """
    if paths is None:
        is_pink = random.random() < 0.5
        return [generate_noise(num_samples, is_pink, random) for _ in range(num_parts)]
    for clip_index in random.permutation(len(paths)):
        clip = _LoadedClip(read_clip(paths[clip_index]))
        excerpts = [draw_excerpt(clip, num_samples, random) for _ in range(num_parts)]
        if not any(is_silent(excerpt) for excerpt in excerpts):
            return excerpts
    raise InputError(
        "no clip of the noise is louder than -80 dB of full scale.",
        subject=str(paths[0]),
        hint="Use other clips.",
    )


def generate_noise(num_samples: int, is_pink: bool, random: np.random.Generator) -> np.ndarray:
    """White noise, or pink (power falls with frequency), shape (num_samples,), float32, 20 dB below
    full scale.
    """
    spectrum = np.fft.rfft(random.standard_normal(num_samples))
    if is_pink:
        frequencies_hz = np.fft.rfftfreq(num_samples, 1 / RATE)
        spectrum /= np.sqrt(np.maximum(frequencies_hz, PINK_CORNER_HZ))
    return _scale_to_level(np.fft.irfft(spectrum, num_samples), -20)


def _scale_to_level(samples: np.ndarray, level_db: float) -> np.ndarray:
    """A waveform that is not silent, at this root mean square (dB of full scale), float32."""
    gain = 10 ** (level_db / 20) / np.sqrt(np.square(samples, dtype=np.float64).mean())
    scaled: np.ndarray = (samples * gain).astype(np.float32)
    return scaled


@dataclass(frozen=True)
class _LoadedClip:
    """A clip of noise in memory (components.audio.augmentation.ClipReader)."""

    waveform: np.ndarray

    @property
    def samples(self) -> int:
        return len(self.waveform)

    def read(self, start: int, count: int) -> np.ndarray:
        return self.waveform[start : start + count]
