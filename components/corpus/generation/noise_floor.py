"""The floor of a recording: speech as a synthesiser gives it is digital silence before, after and
between its words, which no microphone ever records.
"""

from __future__ import annotations

import numpy as np

from components.audio.sound import RATE

SPEECH_LEVEL = 0.9  # of a synthesiser's own level
PEAK = 0.5  # of full scale: the level of a neural synthesiser differs from voice to voice


def scale_to_peak(speech: np.ndarray) -> np.ndarray:
    """Speech with the peak ``PEAK``; one that is nearly silent is made at most ten times louder."""
    scaled: np.ndarray = speech * np.float32(PEAK / max(float(np.abs(speech).max()), PEAK / 10))
    return scaled


def add_floor(
    speech: np.ndarray, before_s: float, after_s: float, floor_db: float, seed: int
) -> np.ndarray:
    """Speech, float32 at 16 kHz, over white noise of ``floor_db`` of full scale that begins
    ``before_s`` earlier and ends ``after_s`` later.
    """
    padded: np.ndarray = np.pad(speech, (int(before_s * RATE), int(after_s * RATE)))
    noise = np.random.default_rng(seed).standard_normal(len(padded), dtype=np.float32)
    recording: np.ndarray = padded * np.float32(SPEECH_LEVEL) + noise * np.float32(
        10 ** (floor_db / 20)
    )
    return recording
