"""Long recordings → segments that a model can take: split at pauses, with an overlap where there is
no pause.

In: a waveform (mono float32 at 16 kHz), at once or block by block. Out: segments of at most
``max_s`` seconds as sample positions, with their samples if it came in blocks. A split is at the
quietest position of the quietest 0.2 s in the last half of what one segment may contain. If nothing
there is 15 dB below the level of the segment, the segment ends at the quietest position of its last
second and the next one starts 1 to 2 s before that: the words of the overlap are recognised twice
and joined by ``components/text/joining.py``. Stretches of a second and more without any sound (peak
below -80 dB) are left out. A recording that fits into one segment is not split. Cost: linear, about
10,000 s of audio a second, silence twice as fast; memory: one block and one segment.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import numpy as np

from components.audio.sound import RATE, SILENCE

MAX_SECONDS, MIN_SECONDS, OVERLAP_SECONDS = 20.0, 0.5, 1.5
FRAME_SAMPLES = 160  # samples whose energy is measured together: 10 ms
# the following in frames
GAP = 100  # without any sound, which are left out
MARGIN = 20  # of them that stay on either side of the sound
PAUSE = 20  # a stop closure is shorter
DIP = 5  # where there is no pause
CHUNK = 3000  # read at once, whatever the size of the blocks
PAUSE_DEPTH = 10**-1.5  # of the energy in a pause to the mean of the segment: -15 dB


@dataclass(frozen=True)
class Segment:
    """Samples ``start`` to ``end`` of a waveform."""

    start: int
    end: int
    overlaps: bool = False  # its beginning is the end of the segment before it

    @property
    def seconds(self) -> float:
        """Duration in seconds."""
        return (self.end - self.start) / RATE


@dataclass(frozen=True)
class SegmentWaveform:
    """A segment and its samples, shape (end - start,)."""

    segment: Segment
    samples: np.ndarray


def split_into_segments(
    waveform: np.ndarray,
    max_s: float = MAX_SECONDS,
    min_s: float = MIN_SECONDS,
    overlap_s: float = OVERLAP_SECONDS,
) -> list[Segment]:
    """The segments of a waveform (mono float32 at 16 kHz), in order; adjacent, but for overlaps and
    for silence that is left out.

    ``max_s`` and ``min_s`` are the bounds of a segment in seconds (a shorter waveform is one
    segment, and the last one is as short as the sound after a long silence), ``overlap_s`` the mean
    seconds that two segments share where there is no pause. Raises ValueError if ``max_s`` is less
    than four times either of the other two.
    """
    return [piece.segment for piece in stream_segments([waveform], max_s, min_s, overlap_s)]


def stream_segments(
    blocks: Iterable[np.ndarray],
    max_s: float = MAX_SECONDS,
    min_s: float = MIN_SECONDS,
    overlap_s: float = OVERLAP_SECONDS,
) -> Iterator[SegmentWaveform]:
    """``split_into_segments`` for a waveform that comes in blocks of any size: the same segments,
    each as soon as its end is known.
    """
    if not (min_s > 0 and overlap_s > 0 and max_s >= 4 * max(min_s, overlap_s)):
        raise ValueError(
            f"segments of {min_s:g} to {max_s:g} s with an overlap of {overlap_s:g} s: the "
            "longest must be four times the other two"
        )
    longest, shortest, overlap = (
        max(1, round(seconds * RATE / FRAME_SAMPLES)) for seconds in (max_s, min_s, overlap_s)
    )  # frames
    lookahead = longest + max(shortest, GAP)  # frames that determine where a segment ends
    window = _Window(blocks)
    window.fill(lookahead)
    if window.has_ended and len(window) <= longest:
        if (window.peaks >= SILENCE).any():
            yield window.first(len(window), False)
        return
    overlaps = False
    while True:
        window.fill(lookahead)
        loud_frames = np.flatnonzero(window.peaks[:lookahead] >= SILENCE)
        if not len(loud_frames) or loud_frames[0] >= GAP:
            if not len(loud_frames) and window.has_ended and len(window) <= lookahead:
                return
            num_silent = loud_frames[0] if len(loud_frames) else min(lookahead, len(window))
            window.drop(int(num_silent) - MARGIN)
            overlaps = False
            continue
        end = _sound_end(loud_frames, min(lookahead, len(window)))
        if end is not None and end + MARGIN <= longest:
            stop = min(max(end + MARGIN, shortest), len(window))
            yield window.first(stop, overlaps)
            window.drop(stop)
            overlaps = False
        elif window.has_ended and len(window) <= longest:
            yield window.first(len(window), overlaps)
            return
        else:
            limit = min(longest, len(window) - shortest)
            stop, next_start = _split_frames(window.energies, longest, limit, overlap)
            yield window.first(stop, overlaps)
            window.drop(next_start)
            overlaps = next_start < stop


def _sound_end(loud_frames: np.ndarray, num_frames: int) -> int | None:
    """The frame at which the first gap after sound starts; None if there is none among the first
    ``num_frames`` frames.
    """
    gaps = np.flatnonzero(np.diff(loud_frames, append=num_frames) > GAP)
    return int(loud_frames[gaps[0]]) + 1 if len(gaps) else None


def _split_frames(energies: np.ndarray, longest: int, limit: int, overlap: int) -> tuple[int, int]:
    """(frame at which a segment ends, frame at which the next one starts)."""
    middle, energy = _quietest(energies, longest // 2, limit, PAUSE)
    if energy <= max(PAUSE_DEPTH * float(energies[:limit].mean()), SILENCE**2):
        # beside a click in the pause, not through it
        split, _ = _quietest(energies, middle - PAUSE // 2, middle + PAUSE // 2, DIP)
        return split, split
    stop, _ = _quietest(energies, limit - 2 * overlap // 3, limit, DIP)
    return stop, _quietest(energies, stop - 4 * overlap // 3, stop - 2 * overlap // 3, DIP)[0]


def _quietest(energies: np.ndarray, start: int, end: int, width: int) -> tuple[int, float]:
    """The middle of the quietest ``width`` frames between two frames, and their mean energy."""
    sums = np.concatenate([[0.0], np.cumsum(energies[start:end], dtype=np.float64)])
    width = min(width, end - start)
    means = (sums[width:] - sums[:-width]) / width
    offset = int(means.argmin())
    return start + offset + width // 2, max(0.0, float(means[offset]))


class _Window:
    """The part of a waveform that is in memory: from the start of the next segment on."""

    def __init__(self, blocks: Iterable[np.ndarray]) -> None:
        self._chunks = _chunks(blocks, CHUNK * FRAME_SAMPLES)
        self.samples: np.ndarray = np.zeros(0, np.float32)
        self.origin = 0  # sample of the waveform at which the window starts
        self.energies: np.ndarray = np.zeros(0, np.float32)  # mean square of each frame
        self.peaks: np.ndarray = np.zeros(0, np.float32)  # of each frame
        self.has_ended = False

    def __len__(self) -> int:
        return len(self.peaks)

    def fill(self, num_frames: int) -> None:
        """Reads until the window has ``num_frames`` frames, or the waveform ends."""
        while len(self) < num_frames and not self.has_ended:
            chunk = next(self._chunks, None)
            if chunk is None:
                self.has_ended = True
                return
            # (frames, FRAME_SAMPLES)
            framed = np.pad(chunk, (0, -len(chunk) % FRAME_SAMPLES)).reshape(-1, FRAME_SAMPLES)
            self.samples = np.concatenate([self.samples, chunk])
            self.energies = np.concatenate(
                [self.energies, np.einsum("ij,ij->i", framed, framed) / FRAME_SAMPLES]
            )
            self.peaks = np.concatenate(
                [self.peaks, np.maximum(framed.max(axis=1), -framed.min(axis=1))]
            )

    def first(self, num_frames: int, overlaps: bool) -> SegmentWaveform:
        """The first frames, as a segment of the waveform."""
        # a copy: a view would keep the complete window in memory
        samples = self.samples[: num_frames * FRAME_SAMPLES].copy()
        return SegmentWaveform(Segment(self.origin, self.origin + len(samples), overlaps), samples)

    def drop(self, num_frames: int) -> None:
        """Removes the first frames."""
        self.samples = self.samples[num_frames * FRAME_SAMPLES :]
        self.energies = self.energies[num_frames:]
        self.peaks = self.peaks[num_frames:]
        self.origin += num_frames * FRAME_SAMPLES


def _chunks(blocks: Iterable[np.ndarray], num_samples: int) -> Iterator[np.ndarray]:
    """The waveform in chunks of ``num_samples`` samples; the last one is the remainder."""
    parts: list[np.ndarray] = []
    count = 0
    for block in blocks:
        while len(block):
            part, block = block[: num_samples - count], block[num_samples - count :]
            parts.append(part)
            count += len(part)
            if count == num_samples:
                yield np.concatenate(parts)
                parts, count = [], 0
    if parts:
        yield np.concatenate(parts)
