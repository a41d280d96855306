"""Tempo with the pitch kept: waveform-similarity overlap-add (WSOLA; Verhelst and Roelands, ICASSP
1993).

In: mono float32 and a factor. Out: mono float32, faster or slower by it. Windows of the input, half
overlapping, are laid down at another distance than they were taken at; each is taken, within a few
milliseconds of its place, where it goes on best from the one before it, so that the periods of a
voice meet. Nothing is drawn at random. Cost: about 8 ms a second of audio.
"""

from __future__ import annotations

import numpy as np

from components.audio.sound import RATE, SILENCE
from components.config.errors import InputError

LEAST, MOST = 0.5, 2.0  # beyond an octave of tempo whole sounds are skipped or said twice
WINDOW = 480  # samples, 30 ms: two periods of a low voice (70 Hz), and less than most sounds last
HOP = WINDOW // 2  # at this distance a Hann window and its neighbour add up to one
SEARCH = (
    RATE // 100
)  # samples to either side of its place, 10 ms: one period of a voice of 50 Hz in all


def change_tempo(samples: np.ndarray, tempo: float) -> np.ndarray:
    """The waveform at ``tempo`` times its speed, shape (round(samples / tempo),), pitch and level
    kept; never louder than its loudest sample, silence stays silence, 1 gives what came in. Raises
    InputError where the tempo is not within 0.5 and 2.
    """
    if not LEAST <= tempo <= MOST:
        raise InputError(
            f"a tempo of {tempo:g} is out of range.",
            subject="tempo",
            hint=f"Take one from {LEAST:g} to {MOST:g}.",
        )
    if tempo == 1 or len(samples) == 0:
        return samples
    wanted = round(len(samples) / tempo)
    frames = -(-wanted // HOP) + 1  # frame k is centred on output sample k * HOP
    before, after = HOP + SEARCH, HOP + SEARCH + WINDOW + round(2 * HOP * tempo)
    padded = np.pad(samples.astype(np.float64), (before, after))
    energy = np.concatenate(([0.0], np.cumsum(np.square(padded))))  # of all before each sample
    window = 0.5 - 0.5 * np.cos(2 * np.pi * np.arange(WINDOW) / WINDOW)
    laid = np.zeros((frames + 1) * HOP)
    start = SEARCH  # in the padded input, of the frame that is laid down
    for frame in range(frames):
        if frame:
            start = _best(padded, energy, start + HOP, SEARCH + round(frame * HOP * tempo))
        laid[frame * HOP : frame * HOP + WINDOW] += window * padded[start : start + WINDOW]
    return laid[HOP : HOP + wanted].astype(np.float32)


def _best(padded: np.ndarray, energy: np.ndarray, following: int, place: int) -> int:
    """The start, within the search around ``place``, of the window most like the one at
    ``following``, which is how the sound went on in the input: the largest normalised correlation.
    """
    low, high = max(0, place - SEARCH), min(place + SEARCH, len(padded) - WINDOW)
    wanted = padded[following : following + WINDOW]
    if np.abs(wanted).max(initial=0.0) < SILENCE:  # nothing to go on from
        return min(max(place, low), high)
    alike = np.correlate(padded[low : high + WINDOW], wanted, "valid")
    power = energy[low + WINDOW : high + WINDOW + 1] - energy[low : high + 1]
    return low + int(np.argmax(alike / np.sqrt(np.maximum(power, WINDOW * SILENCE**2))))
