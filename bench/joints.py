"""How many words joints lose or double, judged by a trained encoder's CTC: ``python -m bench.joints
FOLDER [--model DIR] [--minutes 30]``.

Puts the recordings below FOLDER one behind the other and transcribes the whole by the encoder's own
CTC, once as it is and once with its pauses cut out, so that segments have to overlap. Around each
joint of two segments the encoder then hears 20 seconds in one go, three times, with the joint in
the middle and 5 seconds before and after it: what it hears changes with what stands around, so only
the words count that it hears in all three. One of these near the joint (``--near``) is lost where
no word of the transcript covers half of it, doubled where two do. The same is counted in the middle
of the segments, where nothing is joined. An encoder that knows real voices is trained with ``-S
corpus=voices -S encoder=ctc-voices``; any bridge will do. Cost: twice the transcription, and 120
seconds of audio a segment.
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

CONTEXT_S = (
    10.0  # seconds before and after a place that are heard in one go: as long as a segment may be
)
SHIFTS_S = (0.0, -5.0, 5.0)  # seconds from a place to the middle of what is heard around it
DISTANCES_S = (
    0.5,
    1.0,
    3.0,
)  # seconds from a place within which words are judged: one that an overlap garbles is no further away


@dataclass(frozen=True)
class JointCount:
    """Places, words near them, and how many of those the transcript lacks or has twice."""

    num_places: int
    num_words: int
    num_missing: int
    num_doubled: int


def frame_energy(waveform: np.ndarray) -> np.ndarray:
    """Mean square of each 10 ms."""
    return (
        waveform[: len(waveform) // FRAME_SAMPLES * FRAME_SAMPLES].reshape(-1, FRAME_SAMPLES) ** 2
    ).mean(axis=1)


def smooth_energy(energy: np.ndarray, seconds: float) -> np.ndarray:
    """Mean energy of so many seconds around each 10 ms."""
    sums = np.concatenate([[0], np.cumsum(energy, dtype=np.float64)])
    places, half = np.arange(len(energy)), round(50 * seconds)
    start, end = np.maximum(places - half, 0), np.minimum(places + half, len(energy))
    return (sums[end] - sums[start]) / (end - start)


def cut_pauses(waveform: np.ndarray) -> np.ndarray:
    """The waveform with at most 30 ms left of each stretch that is 15 dB below the ten seconds
    around it.
    """
    energy = frame_energy(waveform)
    quiet = energy < 10**-1.5 * smooth_energy(energy, 10)
    places = np.arange(len(energy))
    kept = places - np.maximum.accumulate(np.where(quiet, 0, places + 1)) < 3
    return (
        waveform[: len(energy) * FRAME_SAMPLES]
        .reshape(-1, FRAME_SAMPLES)[~quiet | kept]
        .reshape(-1)
    )


def read_recordings(folder: Path, minutes: float) -> np.ndarray:
    """So many minutes of the recordings below a folder, or all of them."""
    parts: list[np.ndarray] = []
    for file in sorted(path for ending in ("flac", "wav") for path in folder.rglob(f"*.{ending}")):
        parts.append(read_waveform(file))
        if sum(map(len, parts)) >= minutes * 60 * RATE:
            break
    return np.concatenate(parts)


def count_coverage(words: Sequence[Word], seconds: float) -> np.ndarray:
    """How many words lie over each 10 ms."""
    found: np.ndarray = np.zeros(int(seconds * 100) + 2, int)
    for word in words:
        found[
            round(word.start * 100) : max(round(word.end * 100), round(word.start * 100) + 1)
        ] += 1
    return found


def count_faults(words: Sequence[Word], over: np.ndarray) -> tuple[int, int]:
    """Of some words those that less than half of is covered, and those that more than half of is
    covered twice.
    """
    spans = [
        over[round(word.start * 100) : max(round(word.end * 100), round(word.start * 100) + 1)]
        for word in words
    ]
    return sum(bool((span == 0).mean() > 0.5) for span in spans), sum(
        bool((span > 1).mean() > 0.5) for span in spans
    )


def find_reliable_words(model: Transcriber, waveform: np.ndarray, place: float) -> list[Word]:
    """The words around a place that the encoder hears whatever stands around them, in seconds of
    the whole.
    """
    first, *others = (_transcribe_around(model, waveform, place + shift) for shift in SHIFTS_S)
    return [
        word
        for word in first
        if all(any(_is_same(word, each) for each in other) for other in others)
    ]


def _transcribe_around(model: Transcriber, waveform: np.ndarray, middle: float) -> list[Word]:
    start = max(0.0, middle - CONTEXT_S)
    words = model(waveform[int(start * RATE) : int((middle + CONTEXT_S) * RATE)]).words
    return [Word(word.text, word.start + start, word.end + start) for word in words]


def _is_same(one: Word, other: Word) -> bool:
    shared = min(one.end, other.end) - max(one.start, other.start)
    return one.text == other.text and shared > min(one.end - one.start, other.end - other.start) / 2


def count_joints(
    model: Transcriber, waveform: np.ndarray, distances: Sequence[float]
) -> Iterator[tuple[str, float, JointCount]]:
    """What is lost and doubled within each of the ``distances`` of the joints of a recording, and
    of the middles of its segments.
    """
    segments = [piece.segment for piece in stream_segments([waveform])]
    joints = [((one.end + other.start) / 2 / RATE, inf) for one, other in pairwise(segments)]
    middles = [((each.start + each.end) / 2 / RATE, each.seconds / 2) for each in segments]
    over = count_coverage(model(waveform).words, len(waveform) / RATE)
    for name, places in {"joints": joints, "middles of segments": middles}.items():
        heard = [
            (place, room, find_reliable_words(model, waveform, place)) for place, room in places
        ]
        for distance in distances:
            near = [
                [word for word in words if abs((word.start + word.end) / 2 - place) <= distance]
                for place, room, words in heard
                if room > distance
            ]
            sums = np.sum([count_faults(words, over) for words in near] or [(0, 0)], axis=0)
            yield (
                name,
                distance,
                JointCount(len(near), sum(map(len, near)), int(sums[0]), int(sums[1])),
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
        help="seconds from a place",
    )
    options = parser.parse_args(arguments)
    model, long = (
        Transcriber.load(options.model, constraints="ctc"),
        read_recordings(options.folder, options.minutes),
    )
    rows = []
    for name, waveform in {"as it is": long, "pauses cut out": cut_pauses(long)}.items():
        for where, distance, count in count_joints(model, waveform, options.near):
            rows.append(
                {
                    "recording": name,
                    "minutes": f"{len(waveform) / RATE / 60:.1f}",
                    "at": where,
                    "places": str(count.num_places),
                    "within s": f"{distance:g}",
                    "words": str(count.num_words),
                    "lost": str(count.num_missing),
                    "doubled": str(count.num_doubled),
                }
            )
    print(format_table(rows))


if __name__ == "__main__":
    main()
