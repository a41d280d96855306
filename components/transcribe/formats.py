"""Transcripts as text: ``txt``, ``json`` (a line a recording), ``srt``, ``vtt``, ``tsv``.

In: a transcript. Out: the text of a file of that format. Captions (srt, vtt) hold at most 84
letters and 7 seconds and end at pauses where word times are known; else a caption is a segment. SRT
as SubRip writes it; WebVTT by the W3C's recommendation of 2019.
"""

from __future__ import annotations

import html
import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from components.text.joining import Word
from components.transcribe.transcript import Passage, Transcript

LETTERS, SECONDS, PAUSE = (
    84,
    7.0,
    0.8,
)  # of a caption: two lines of 42, how long it may stand, and the silence that ends it
TSV_HEAD = "name\tstart\tend\ttext\n"


@dataclass(frozen=True)
class Caption:
    """A text and when it is shown, in seconds."""

    start: float
    end: float
    text: str


def captions(transcript: Transcript) -> list[Caption]:
    """The captions of a transcript, none of them empty."""
    return [caption for passage in transcript.segments for caption in _of_passage(passage)]


def _of_passage(passage: Passage) -> Iterator[Caption]:
    if not passage.words:
        if passage.text:
            yield Caption(passage.start, passage.end, passage.text)
        return
    held: list[Word] = []
    for word in passage.words:
        letters = sum(len(each.text) + 1 for each in held) + len(word.text)
        if held and (
            letters > LETTERS
            or word.end - held[0].start > SECONDS
            or word.start - held[-1].end > PAUSE
        ):
            yield _caption(held)
            held = []
        held.append(word)
    yield _caption(held)


def _caption(words: list[Word]) -> Caption:
    return Caption(words[0].start, words[-1].end, " ".join(word.text for word in words))


def as_txt(transcript: Transcript) -> str:
    """The text on one line."""
    return transcript.text + "\n"


def as_json(transcript: Transcript) -> str:
    """All that is known, on one line."""
    return json.dumps(transcript.plain(), ensure_ascii=False, allow_nan=False) + "\n"


def as_srt(transcript: Transcript) -> str:
    """SubRip captions."""
    found = enumerate(captions(transcript), 1)
    return "".join(
        f"{number}\n{_clock(each.start, ',')} --> {_clock(each.end, ',')}\n{each.text}\n\n"
        for number, each in found
    )


def as_vtt(transcript: Transcript) -> str:
    """WebVTT captions; what would be markup is written as text."""
    found = captions(transcript)
    return "WEBVTT\n\n" + "".join(
        (
            f"{_clock(each.start, '.')} --> "
            f"{_clock(each.end, '.')}\n{html.escape(each.text, quote=False)}\n\n"
        )
        for each in found
    )


def as_tsv(transcript: Transcript) -> str:
    """A line a segment, without the head: name, start and end in seconds, text."""
    name = " ".join(transcript.name.split())  # a tab in a file's name would be a column
    return "".join(
        f"{name}\t{each.start:.3f}\t{each.end:.3f}\t{each.text}\n" for each in transcript.segments
    )


FORMATS: dict[str, Callable[[Transcript], str]] = {
    "txt": as_txt,
    "json": as_json,
    "srt": as_srt,
    "vtt": as_vtt,
    "tsv": as_tsv,
}
HEADS = {"tsv": TSV_HEAD}
ONE_A_FILE = ("srt", "vtt")  # formats of which two can't stand one behind the other


def _clock(seconds: float, point: str) -> str:
    milliseconds = round(seconds * 1000)
    hours, rest = divmod(milliseconds, 3_600_000)
    minutes, rest = divmod(rest, 60_000)
    return f"{hours:02d}:{minutes:02d}:{rest // 1000:02d}{point}{rest % 1000:03d}"
