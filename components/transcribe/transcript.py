"""What comes out of a recording: its text, the passages of it, and the words with their times where
the encoder tells them.

In: what was heard of each segment. Out: a ``Transcript``; the words of an overlap stand in one
passage alone. Times are seconds from the beginning of the recording.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from components.audio.segments import Segment
from components.audio.sound import RATE
from components.text.joining import Word, estimate_word_times, join_words

FAILED = 1  # exit code where some recordings gave no text
# seconds by which the middles of one word may differ, heard in two segments, where its times are
# measured
MEASURED = 0.5
ESTIMATED = 4.0  # the same where words are spread over a segment


@dataclass(frozen=True)
class SegmentHypothesis:
    """The raw text of a segment, its log-probability (nan for the encoder's own text), and its
    words, in seconds from the beginning of the segment, where their times are measured.
    """

    segment: Segment
    text: str
    score: float
    words: list[Word] | None


@dataclass(frozen=True)
class Passage:
    """A stretch of a recording and its text; ``words`` is empty where the encoder tells
    no times.
    """

    start: float
    end: float
    text: str
    score: float
    words: list[Word]


@dataclass(frozen=True)
class Transcript:
    """The text of one recording of so many ``seconds``, of which ``silent`` were left out since
    they hold no sound.
    """

    name: str
    seconds: float
    silent: float
    segments: list[Passage]

    @property
    def text(self) -> str:
        return " ".join(each.text for each in self.segments if each.text)

    @property
    def words(self) -> list[Word]:
        return [word for each in self.segments for word in each.words]

    def plain(self) -> dict[str, Any]:
        """As JSON takes it; a score that is no number is null."""
        return {
            "name": self.name,
            "seconds": round(self.seconds, 3),
            "silent_seconds": round(self.silent, 3),
            "text": self.text,
            "segments": [
                {
                    "start": round(each.start, 3),
                    "end": round(each.end, 3),
                    "text": each.text,
                    "score": _finite(each.score),
                    "words": [
                        {
                            "text": word.text,
                            "start": round(word.start, 3),
                            "end": round(word.end, 3),
                            "score": _finite(word.score),
                        }
                        for word in each.words
                    ],
                }
                for each in self.segments
            ],
        }


def _finite(score: float | None) -> float | None:
    return round(score, 4) if score is not None and abs(score) < float("inf") else None


@dataclass(frozen=True)
class Failure:
    """A recording that gave no text, and why."""

    name: str
    reason: str


def transcript_of(name: str, samples: int, heard: Sequence[SegmentHypothesis]) -> Transcript:
    """What was heard of a recording of so many samples (16 kHz), segment by segment, as
    one text.
    """
    timed = [_placed(each) for each in heard]
    bounds = [(each.segment.start / RATE, each.segment.end / RATE) for each in heard]
    shared: list[tuple[float, float] | None] = [None]
    shared += [
        (other[0], one[1]) if each.segment.overlaps else None
        for one, other, each in zip(bounds, bounds[1:], heard[1:])
    ]
    tolerance = MEASURED if all(each.words is not None for each in heard) else ESTIMATED
    words = join_words(timed, shared[: len(heard)], tolerance)
    middles = [(span[0] + span[1]) / 2 if span else None for span in shared]
    passages = []
    for place, (each, mine) in enumerate(zip(heard, words, strict=True)):
        start, end = bounds[place]
        after = middles[place + 1] if place + 1 < len(heard) else None
        passages.append(
            Passage(
                middles[place] or start,
                after or end,
                " ".join(word.text for word in mine),
                each.score,
                mine if each.words is not None else [],
            )
        )
    covered = sum(end - start for start, end in bounds) - sum(
        span[1] - span[0] for span in shared if span
    )
    return Transcript(name, samples / RATE, max(0.0, samples / RATE - covered), passages)


def _placed(heard: SegmentHypothesis) -> list[Word]:
    """The words of a segment in seconds from the beginning of the recording, spread over it where
    their times are not known.
    """
    start, end = heard.segment.start / RATE, heard.segment.end / RATE
    if heard.words is None:
        return estimate_word_times(heard.text, start, end)
    return [
        Word(word.text, start + word.start, start + word.end, word.score) for word in heard.words
    ]
