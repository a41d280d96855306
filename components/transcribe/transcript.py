"""The result for a recording: its text, the passages of it, and the words with their times if the
encoder gives them.

In: the hypothesis of each segment. Out: a ``Transcript``; the words of an overlap are in one
passage only. Times are seconds from the beginning of the recording.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from components.audio.segments import Segment
from components.audio.sound import RATE
from components.text.hypothesis import Hypothesis
from components.text.joining import Word, estimate_word_times, join_words

FAILED = 1  # exit code if some recordings gave no text
# Seconds by which the middles of one word may differ between two segments, if its times are
# measured, and if they are estimated from the length of the segment.
MEASURED, ESTIMATED = 0.5, 4.0


@dataclass(frozen=True)
class SegmentHypothesis:
    """The hypothesis of a segment, and its words in seconds from the beginning of the segment; None
    if their times are not measured.
    """

    segment: Segment
    hypothesis: Hypothesis
    words: list[Word] | None


@dataclass(frozen=True)
class Passage:
    """A part of a recording and its text; ``words`` is empty if their times are unknown."""

    start: float  # seconds
    end: float  # seconds
    text: str
    score: float  # log-probability; nan for the encoder's own text
    words: list[Word]


@dataclass(frozen=True)
class Transcript:
    """The text of one recording."""

    name: str
    seconds: float  # of the recording
    silent: float  # seconds that were left out since there is no sound in them
    segments: list[Passage]

    @property
    def text(self) -> str:
        """The whole text on one line."""
        return " ".join(passage.text for passage in self.segments if passage.text)

    @property
    def words(self) -> list[Word]:
        """The words of all passages; empty if their times are unknown."""
        return [word for passage in self.segments for word in passage.words]

    def plain(self) -> dict[str, Any]:
        """The transcript as JSON has it; a score that is not finite is null."""
        return {
            "name": self.name,
            "seconds": round(self.seconds, 3),
            "silent_seconds": round(self.silent, 3),
            "text": self.text,
            "segments": [_plain_passage(passage) for passage in self.segments],
        }


def _plain_passage(passage: Passage) -> dict[str, Any]:
    return {
        "start": round(passage.start, 3),
        "end": round(passage.end, 3),
        "text": passage.text,
        "score": _finite(passage.score),
        "words": [
            {
                "text": word.text,
                "start": round(word.start, 3),
                "end": round(word.end, 3),
                "score": _finite(word.score),
            }
            for word in passage.words
        ],
    }


def _finite(score: float | None) -> float | None:
    return round(score, 4) if score is not None and abs(score) < float("inf") else None


@dataclass(frozen=True)
class Failure:
    """A recording that gave no text, and the reason."""

    name: str
    reason: str


def join_segments(
    name: str, num_samples: int, hypotheses: Sequence[SegmentHypothesis]
) -> Transcript:
    """The hypotheses of the segments of a recording as one transcript; ``num_samples`` is the
    length of the recording at 16 kHz.
    """
    timed_words = [_timed_words(hypothesis) for hypothesis in hypotheses]
    bounds = [
        (hypothesis.segment.start / RATE, hypothesis.segment.end / RATE)
        for hypothesis in hypotheses
    ]
    # for each segment the seconds that it shares with the one before it
    shared: list[tuple[float, float] | None] = [None]
    shared += [
        (start, end) if hypothesis.segment.overlaps else None
        for (_, end), (start, _), hypothesis in zip(bounds, bounds[1:], hypotheses[1:])
    ]
    is_measured = all(hypothesis.words is not None for hypothesis in hypotheses)
    words = join_words(
        timed_words, shared[: len(hypotheses)], MEASURED if is_measured else ESTIMATED
    )
    words = _put_in_order(words)
    starts, ends = _bounds_of_passages(bounds, shared, words)
    passages = [
        Passage(
            starts[index],
            ends[index],
            " ".join(word.text for word in own_words),
            hypothesis.hypothesis.score,
            own_words if hypothesis.words is not None else [],
        )
        for index, (hypothesis, own_words) in enumerate(zip(hypotheses, words, strict=True))
    ]
    covered_s = sum(end - start for start, end in bounds) - sum(
        span[1] - span[0] for span in shared if span
    )
    duration_s = num_samples / RATE
    return Transcript(name, duration_s, max(0.0, duration_s - covered_s), passages)


def _put_in_order(words: Sequence[Sequence[Word]]) -> list[list[Word]]:
    """The words of the passages with times that never go backwards: of an overlap each word has
    been timed twice, and the words that are kept come from both.
    """
    in_order: list[list[Word]] = []
    time = 0.0
    for own_words in words:
        in_order.append([])
        for word in own_words:
            start = max(time, word.start)
            time = max(start, word.end)
            in_order[-1].append(replace(word, start=start, end=time))
    return in_order


def _bounds_of_passages(
    bounds: Sequence[tuple[float, float]],
    shared: Sequence[tuple[float, float] | None],
    words: Sequence[Sequence[Word]],
) -> tuple[list[float], list[float]]:
    """Starts and ends of the passages: those of the segments, within an overlap its middle, moved
    as far as the words need; each begins where the one before it ends, or later.
    """
    starts, ends = [start for start, _ in bounds], [end for _, end in bounds]
    for index, own_words in enumerate(words):
        span = shared[index]
        if span:
            starts[index] = ends[index - 1] = (span[0] + span[1]) / 2
        if own_words and index:
            starts[index] = min(starts[index], own_words[0].start)
    for index, own_words in enumerate(words):
        if index:
            last = words[index - 1][-1].end if words[index - 1] else starts[index - 1]
            ends[index - 1] = max(last, min(ends[index - 1], starts[index]))
            starts[index] = max(starts[index], ends[index - 1])
        if own_words:
            ends[index] = max(ends[index], own_words[-1].end)
    return starts, ends


def _timed_words(hypothesis: SegmentHypothesis) -> list[Word]:
    """The words of a segment in seconds from the beginning of the recording; their times are
    estimated if they are not measured.
    """
    start, end = hypothesis.segment.start / RATE, hypothesis.segment.end / RATE
    if hypothesis.words is None:
        return estimate_word_times(hypothesis.hypothesis.text, start, end)
    return [
        Word(word.text, start + word.start, start + word.end, word.score)
        for word in hypothesis.words
    ]
