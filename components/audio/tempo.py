"""Change of tempo with the pitch kept: waveform-similarity overlap-add (WSOLA; Verhelst and
Roelands, ICASSP 1993).

In: mono float32 and a factor. Out: mono float32, faster or slower by that factor. Half-overlapping
windows of the input are added up at another distance than the one at which they were read. Each
window is read within a few milliseconds of its nominal position, where it continues the window
before it best, so that the periods of a voice join. Nothing is random. Cost: about 8 ms a second of
audio.
"""

from __future__ import annotations

import numpy as np

from components.audio.condition import MAX_TEMPO, MIN_TEMPO
from components.audio.sound import RATE, SILENCE
from components.config.errors import InputError

WINDOW = 480  # samples, 30 ms: two periods of a low voice (70 Hz), shorter than most sounds
HOP = WINDOW // 2  # samples; at this distance a Hann window and its neighbour add up to one
# Samples to either side of the nominal position, 10 ms: together one period of a voice of 50 Hz.
SEARCH = RATE // 100


def change_tempo(samples: np.ndarray, tempo: float) -> np.ndarray:
    """The waveform at ``tempo`` times its speed, shape (round(samples / tempo),), float32.

    Pitch and level stay; the result is never louder than the loudest sample of the input, silence
    stays silence, and 1 returns the input. Raises InputError if ``tempo`` is not within 0.5 and 2.
    """
    if not MIN_TEMPO <= tempo <= MAX_TEMPO:
        raise InputError(
            f"a tempo of {tempo:g} is out of range.",
            subject="tempo",
            hint=f"Use one from {MIN_TEMPO:g} to {MAX_TEMPO:g}.",
        )
    if tempo == 1 or len(samples) == 0:
        return samples
    num_output = round(len(samples) / tempo)
    num_frames = -(-num_output // HOP) + 1  # frame k is centred on output sample k * HOP
    before, after = HOP + SEARCH, HOP + SEARCH + WINDOW + round(2 * HOP * tempo)
    padded = np.pad(samples.astype(np.float64), (before, after))
    # energy[i]: of all samples before sample i
    energy = np.concatenate(([0.0], np.cumsum(np.square(padded))))
    window = 0.5 - 0.5 * np.cos(2 * np.pi * np.arange(WINDOW) / WINDOW)
    output = np.zeros((num_frames + 1) * HOP)
    start = SEARCH  # in the padded input, of the frame that is added
    for frame in range(num_frames):
        if frame:
            start = _best_start(padded, energy, start + HOP, SEARCH + round(frame * HOP * tempo))
        output[frame * HOP : frame * HOP + WINDOW] += window * padded[start : start + WINDOW]
    return output[HOP : HOP + num_output].astype(np.float32)


def _best_start(padded: np.ndarray, energy: np.ndarray, following: int, nominal: int) -> int:
    """The start, within the search range around ``nominal``, of the window most similar to the one
    at ``following``, which is how the sound goes on in the input: the largest normalised
    correlation.
    """
    low, high = max(0, nominal - SEARCH), min(nominal + SEARCH, len(padded) - WINDOW)
    target = padded[following : following + WINDOW]
    if np.abs(target).max(initial=0.0) < SILENCE:  # nothing to continue
        return min(max(nominal, low), high)
    correlation = np.correlate(padded[low : high + WINDOW], target, "valid")
    power = energy[low + WINDOW : high + WINDOW + 1] - energy[low : high + 1]
    return low + int(np.argmax(correlation / np.sqrt(np.maximum(power, WINDOW * SILENCE**2))))
