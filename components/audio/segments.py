"""Long recordings → segments that a model can hear: cut at pauses, with an overlap where there is
none.

In: a waveform (mono float32 at 16 kHz), whole or block by block. Out: segments of at most ``most``
seconds, as places in the waveform, with their samples where it came in blocks. A cut lies at the
quietest place of the quietest 0.2 s in the last half of what one segment may hold. Where nothing
there is 15 dB below the segment's own level, the segment ends at the quietest place of its last
second and the next one begins 1 to 2 s before that: the words of the overlap are heard twice and
joined by components/text/joining.py. Stretches of a second and more without any sound (peak under
-80 dB) are left out. A recording that one segment can hold stays whole. Cost: linear, about 10,000
s of audio a second, silence twice as fast; memory: one block and one segment.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import numpy as np

from components.audio.sound import RATE, SILENCE

MAX_SECONDS, MIN_SECONDS, OVERLAP_SECONDS = 20.0, 0.5, 1.5  # seconds
FRAME_SAMPLES = 160  # samples whose energy is taken together: 10 ms
GAP = 100  # frames without any sound that are left out
MARGIN = 20  # frames of them that stay beside the sound
PAUSE = 20  # frames: a stop closure is shorter
DIP = 5  # frames, where there is no pause
DEPTH = 10**-1.5  # of a pause below the mean energy of the segment: 15 dB
CHUNK = 3000  # frames taken in at once, whatever blocks the waveform comes in


@dataclass(frozen=True)
class Segment:
    """Samples ``start`` to ``end`` of a waveform; ``overlaps``: its beginning is the end of the
    segment before it.
    """

    start: int
    end: int
    overlaps: bool = False

    @property
    def seconds(self) -> float:
        return (self.end - self.start) / RATE


@dataclass(frozen=True)
class SegmentWaveform:
    """A segment and its samples, shape (end - start,)."""

    segment: Segment
    samples: np.ndarray


def split_into_segments(
    waveform: np.ndarray,
    most: float = MAX_SECONDS,
    least: float = MIN_SECONDS,
    overlap: float = OVERLAP_SECONDS,
) -> list[Segment]:
    """The segments of a waveform (mono float32 at 16 kHz), in order; all but the overlaps lie one
    behind the other.

    ``most`` and ``least`` are the seconds of a segment (a shorter waveform is one by itself, and
    the last one is as short as the sound behind a long silence), ``overlap`` the mean seconds that
    two share where there is no pause. Raises ValueError where ``most`` is less than four times
    either of the other two.
    """
    return [piece.segment for piece in stream_segments([waveform], most, least, overlap)]


def stream_segments(
    blocks: Iterable[np.ndarray],
    most: float = MAX_SECONDS,
    least: float = MIN_SECONDS,
    overlap: float = OVERLAP_SECONDS,
) -> Iterator[SegmentWaveform]:
    """``cut`` for a waveform that comes in blocks of any size: the same segments, each as soon as
    it is known.
    """
    if not (least > 0 and overlap > 0 and most >= 4 * max(least, overlap)):
        raise ValueError(
            f"segments of {least:g} to {most:g} s with an overlap of {overlap:g} s: the most "
            "must be four times the others"
        )
    longest, shortest, shared = (
        max(1, round(seconds * RATE / FRAME_SAMPLES)) for seconds in (most, least, overlap)
    )
    known = longest + max(shortest, GAP)  # frames that tell where a segment ends
    window = _Window(blocks)
    window.fill(known)
    if window.ended and len(window) <= longest:
        if (window.peaks >= SILENCE).any():
            yield window.piece(len(window), False)
        return
    overlaps = False
    while True:
        window.fill(known)
        loud = np.flatnonzero(window.peaks[:known] >= SILENCE)
        if not len(loud) or loud[0] >= GAP:
            if not len(loud) and window.ended and len(window) <= known:
                return
            window.drop(int(loud[0] if len(loud) else min(known, len(window))) - MARGIN)
            overlaps = False
            continue
        end = _sound_end(loud, min(known, len(window)))
        if end is not None and end + MARGIN <= longest:
            stop = min(max(end + MARGIN, shortest), len(window))
            yield window.piece(stop, overlaps)
            window.drop(stop)
            overlaps = False
        elif window.ended and len(window) <= longest:
            yield window.piece(len(window), overlaps)
            return
        else:
            stop, again = _place(
                window.energies, longest, min(longest, len(window) - shortest), shared
            )
            yield window.piece(stop, overlaps)
            window.drop(again)
            overlaps = again < stop


def _sound_end(loud: np.ndarray, known: int) -> int | None:
    """The frame at which the first gap behind sound begins; None where there is none among the
    ``known`` frames.
    """
    gaps = np.flatnonzero(np.diff(loud, append=known) > GAP)
    return int(loud[gaps[0]]) + 1 if len(gaps) else None


def _place(energies: np.ndarray, longest: int, limit: int, shared: int) -> tuple[int, int]:
    """(frame at which a segment ends, frame at which the next one begins)."""
    first, least = _quietest(energies, longest // 2, limit, PAUSE)
    if least <= max(DEPTH * float(energies[:limit].mean()), SILENCE**2):
        place, _ = _quietest(
            energies, first - PAUSE // 2, first + PAUSE // 2, DIP
        )  # beside a click in it, not through it
        return place, place
    stop, _ = _quietest(energies, limit - 2 * shared // 3, limit, DIP)
    return stop, _quietest(energies, stop - 4 * shared // 3, stop - 2 * shared // 3, DIP)[0]


def _quietest(energies: np.ndarray, start: int, end: int, width: int) -> tuple[int, float]:
    """The middle of the quietest ``width`` frames between two frames, and their mean energy."""
    sums = np.concatenate([[0.0], np.cumsum(energies[start:end], dtype=np.float64)])
    width = min(width, end - start)
    means = (sums[width:] - sums[:-width]) / width
    place = int(means.argmin())
    return start + place + width // 2, max(0.0, float(means[place]))


class _Window:
    """What of a waveform is held: from the beginning of the next segment on."""

    def __init__(self, blocks: Iterable[np.ndarray]) -> None:
        self._chunks = _chunks(blocks, CHUNK * FRAME_SAMPLES)
        self.samples: np.ndarray = np.zeros(0, np.float32)
        self.origin = 0  # sample at which it begins
        self.energies: np.ndarray = np.zeros(0, np.float32)  # mean square of each frame
        self.peaks: np.ndarray = np.zeros(0, np.float32)
        self.ended = False

    def __len__(self) -> int:
        return len(self.peaks)

    def fill(self, frames: int) -> None:
        """Takes in more until it holds so many frames, or all there are."""
        while len(self) < frames and not self.ended:
            chunk = next(self._chunks, None)
            if chunk is None:
                self.ended = True
                return
            framed = np.pad(chunk, (0, -len(chunk) % FRAME_SAMPLES)).reshape(-1, FRAME_SAMPLES)
            self.samples = np.concatenate([self.samples, chunk])
            self.energies = np.concatenate(
                [self.energies, np.einsum("ij,ij->i", framed, framed) / FRAME_SAMPLES]
            )
            self.peaks = np.concatenate(
                [self.peaks, np.maximum(framed.max(axis=1), -framed.min(axis=1))]
            )

    def piece(self, frames: int, overlaps: bool) -> SegmentWaveform:
        """The first frames, as a segment of the waveform."""
        samples = self.samples[
            : frames * FRAME_SAMPLES
        ].copy()  # a view would hold the whole window
        return SegmentWaveform(Segment(self.origin, self.origin + len(samples), overlaps), samples)

    def drop(self, frames: int) -> None:
        """Lets go of the first frames."""
        self.samples, self.energies, self.peaks = (
            self.samples[frames * FRAME_SAMPLES :],
            self.energies[frames:],
            self.peaks[frames:],
        )
        self.origin += frames * FRAME_SAMPLES


def _chunks(blocks: Iterable[np.ndarray], size: int) -> Iterator[np.ndarray]:
    """The waveform in chunks of ``size`` samples; the last one is what is left."""
    held: list[np.ndarray] = []
    count = 0
    for block in blocks:
        while len(block):
            part, block = block[: size - count], block[size - count :]
            held.append(part)
            count += len(part)
            if count == size:
                yield np.concatenate(held)
                held, count = [], 0
    if held:
        yield np.concatenate(held)
