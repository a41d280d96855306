"""How many words the joints of segments lose or double, judged by a trained encoder's CTC: ``python
-m bench.joints FOLDER [--model DIR] [--minutes 30]``.

Concatenates the recordings below FOLDER and transcribes them as one by the encoder's own CTC, once
as they are and once with their pauses cut out, so that segments have to overlap. Around each joint
of two segments the encoder then transcribes 20 seconds in one piece, three times, with the joint in
the middle and 5 seconds before and after it. Its words depend on their context, so only those count
that it finds in all three. One of these near the joint (``--near``) is lost if no word of the
transcript covers half of it, doubled if two do. The same is counted in the middle of the segments,
where nothing is joined. An encoder for real voices is trained with ``-S corpus=voices -S
encoder=ctc-voices``; any bridge will do. Cost: twice the transcription, and 120 seconds of audio a
segment.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from math import inf
from pathlib import Path

import numpy as np

from components.audio.segments import FRAME_SAMPLES, stream_segments
from components.audio.sound import RATE, read_waveform
from components.runtime.tables import format_table
from components.text.joining import Word
from components.transcribe import Transcriber

FRAMES_PER_SECOND = RATE // FRAME_SAMPLES
# Before and after a position that is transcribed in one piece: as long as a segment may be.
CONTEXT_S = 10.0
SHIFTS_S = (0.0, -5.0, 5.0)  # from a position to the middle of the piece that is transcribed
# From a position, within which words are judged: a word that an overlap garbles is no further away.
DISTANCES_S = (0.5, 1.0, 3.0)
PAUSE_LEVEL = 10**-1.5  # of the mean energy: 15 dB below it
PAUSE_FRAMES = 3  # of 10 ms that are left of a pause


@dataclass(frozen=True)
class JointCount:
    """Positions, reliable words near them, and how many of those the transcript lacks or has
    twice.
    """

    num_positions: int
    num_words: int
    num_missing: int
    num_doubled: int


def frame_energy(waveform: np.ndarray) -> np.ndarray:
    """Mean square of each 10 ms: (samples,) → (frames,)."""
    num_frames = len(waveform) // FRAME_SAMPLES
    frames = waveform[: num_frames * FRAME_SAMPLES].reshape(-1, FRAME_SAMPLES)
    energy: np.ndarray = (frames**2).mean(axis=1)
    return energy


def smooth_energy(energy: np.ndarray, seconds: float) -> np.ndarray:
    """Mean energy of so many seconds around each frame: (frames,) → (frames,)."""
    sums = np.concatenate([[0], np.cumsum(energy, dtype=np.float64)])
    index, half = np.arange(len(energy)), round(FRAMES_PER_SECOND / 2 * seconds)
    start, end = np.maximum(index - half, 0), np.minimum(index + half, len(energy))
    means: np.ndarray = (sums[end] - sums[start]) / (end - start)
    return means


def cut_pauses(waveform: np.ndarray) -> np.ndarray:
    """The waveform with at most 30 ms of each stretch that is 15 dB below the ten seconds around
    it.
    """
    energy = frame_energy(waveform)
    is_pause = energy < PAUSE_LEVEL * smooth_energy(energy, 10)
    index = np.arange(len(energy))
    pause_frames = index - np.maximum.accumulate(np.where(is_pause, 0, index + 1))
    frames = waveform[: len(energy) * FRAME_SAMPLES].reshape(-1, FRAME_SAMPLES)
    samples: np.ndarray = frames[~is_pause | (pause_frames < PAUSE_FRAMES)].reshape(-1)
    return samples


def read_recordings(folder: Path, minutes: float) -> np.ndarray:
    """So many minutes of the recordings below a folder, or all of them, as one: (samples,)."""
    waveforms: list[np.ndarray] = []
    paths = (path for suffix in ("flac", "wav") for path in folder.rglob(f"*.{suffix}"))
    for path in sorted(paths):
        waveforms.append(read_waveform(path))
        if sum(map(len, waveforms)) >= minutes * 60 * RATE:
            break
    recording: np.ndarray = np.concatenate(waveforms)
    return recording


def _span(word: Word) -> slice:
    """The frames of a word, at least one."""
    start = round(word.start * FRAMES_PER_SECOND)
    return slice(start, max(round(word.end * FRAMES_PER_SECOND), start + 1))


def count_coverage(words: Sequence[Word], seconds: float) -> np.ndarray:
    """How many words cover each frame of so many seconds: (frames,)."""
    coverage: np.ndarray = np.zeros(int(seconds * FRAMES_PER_SECOND) + 2, int)
    for word in words:
        coverage[_span(word)] += 1
    return coverage


def count_faults(words: Sequence[Word], coverage: np.ndarray) -> tuple[int, int]:
    """Of some words those that are covered by less than half, and those of which more than half is
    covered twice.
    """
    spans = [coverage[_span(word)] for word in words]
    num_missing = sum(bool((span == 0).mean() > 0.5) for span in spans)
    return num_missing, sum(bool((span > 1).mean() > 0.5) for span in spans)


def find_reliable_words(model: Transcriber, waveform: np.ndarray, position_s: float) -> list[Word]:
    """The words around a position that the encoder finds in every context, in seconds of the
    recording.
    """
    first, *shifted = (
        _transcribe_around(model, waveform, position_s + shift) for shift in SHIFTS_S
    )
    return [
        word
        for word in first
        if all(any(_is_same(word, other) for other in words) for words in shifted)
    ]


def _transcribe_around(model: Transcriber, waveform: np.ndarray, middle_s: float) -> list[Word]:
    start_s = max(0.0, middle_s - CONTEXT_S)
    words = model(waveform[int(start_s * RATE) : int((middle_s + CONTEXT_S) * RATE)]).words
    return [Word(word.text, word.start + start_s, word.end + start_s) for word in words]


def _is_same(first: Word, second: Word) -> bool:
    """Whether two words have one text and share more than half of the shorter one's time."""
    shared_s = min(first.end, second.end) - max(first.start, second.start)
    shorter_s = min(first.end - first.start, second.end - second.start)
    return first.text == second.text and shared_s > shorter_s / 2


def count_joints(
    model: Transcriber, waveform: np.ndarray, distances_s: Sequence[float]
) -> Iterator[tuple[str, float, JointCount]]:
    """Words lost and doubled within each of the distances of the joints of a recording, and of the
    middles of its segments.
    """
    segments = [piece.segment for piece in stream_segments([waveform])]
    joints = [((one.end + other.start) / 2 / RATE, inf) for one, other in pairwise(segments)]
    middles = [
        ((segment.start + segment.end) / 2 / RATE, segment.seconds / 2) for segment in segments
    ]
    coverage = count_coverage(model(waveform).words, len(waveform) / RATE)
    for name, positions in {"joints": joints, "middles of segments": middles}.items():
        reliable = [
            (position_s, room_s, find_reliable_words(model, waveform, position_s))
            for position_s, room_s in positions
        ]
        for distance_s in distances_s:
            near = [
                [
                    word
                    for word in words
                    if abs((word.start + word.end) / 2 - position_s) <= distance_s
                ]
                for position_s, room_s, words in reliable
                if room_s > distance_s
            ]
            faults = np.sum([count_faults(words, coverage) for words in near] or [(0, 0)], axis=0)
            num_words = sum(map(len, near))
            yield (
                name,
                distance_s,
                JointCount(len(near), num_words, int(faults[0]), int(faults[1])),
            )


def main(arguments: Sequence[str] | None = None) -> None:
    """Measures from the command line."""
    parser = argparse.ArgumentParser(
        prog="python -m bench.joints", description="What joints of segments lose or double."
    )
    parser.add_argument("folder", type=Path, help="recordings of speech, FLAC or WAV")
    parser.add_argument(
        "--model", type=Path, help="an exported model (default: that of the workspace)"
    )
    parser.add_argument("--minutes", type=float, default=30, help="of audio (default: 30)")
    parser.add_argument(
        "--near",
        type=float,
        nargs="+",
        default=DISTANCES_S,
        metavar="S",
        help="seconds from a position",
    )
    options = parser.parse_args(arguments)
    model = Transcriber.load(options.model, constraints="ctc")
    recording = read_recordings(options.folder, options.minutes)
    rows = []
    for name, waveform in {"as it is": recording, "pauses cut out": cut_pauses(recording)}.items():
        for position, distance_s, count in count_joints(model, waveform, options.near):
            rows.append(
                {
                    "recording": name,
                    "minutes": f"{len(waveform) / RATE / 60:.1f}",
                    "at": position,
                    "places": str(count.num_positions),
                    "within s": f"{distance_s:g}",
                    "words": str(count.num_words),
                    "lost": str(count.num_missing),
                    "doubled": str(count.num_doubled),
                }
            )
    print(format_table(rows))


if __name__ == "__main__":
    main()
