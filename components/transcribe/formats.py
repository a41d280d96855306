"""Transcripts as text: ``txt``, ``json`` (one line for each recording), ``srt``, ``vtt``, ``tsv``.

In: a transcript. Out: the text of a file of that format. Captions (srt, vtt) have at most 84
characters and 7 seconds and end at pauses if word times are known; else a caption is a segment. SRT
as SubRip writes it; WebVTT by the W3C's recommendation of 2019.
"""

from __future__ import annotations

import html
import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TextIO

from components.text.joining import Word
from components.transcribe.transcript import Passage, Transcript

MAX_CHARACTERS = 84  # of a caption: two lines of 42
MAX_SECONDS = 7.0  # of a caption
PAUSE_SECONDS = 0.8  # a longer pause ends a caption
TSV_HEAD = "name\tstart\tend\ttext\n"


@dataclass(frozen=True)
class Caption:
    """A text and the seconds between which it is displayed."""

    start: float
    end: float
    text: str


def captions(transcript: Transcript) -> list[Caption]:
    """The captions of a transcript, none of them empty."""
    return [caption for passage in transcript.segments for caption in _captions_of(passage)]


def _captions_of(passage: Passage) -> Iterator[Caption]:
    if not passage.words:
        if passage.text:
            yield Caption(passage.start, passage.end, passage.text)
        return
    line: list[Word] = []
    for word in passage.words:
        num_characters = sum(len(previous.text) + 1 for previous in line) + len(word.text)
        if line and (
            num_characters > MAX_CHARACTERS
            or word.end - line[0].start > MAX_SECONDS
            or word.start - line[-1].end > PAUSE_SECONDS
        ):
            yield _caption(line)
            line = []
        line.append(word)
    yield _caption(line)


def _caption(words: list[Word]) -> Caption:
    return Caption(words[0].start, words[-1].end, " ".join(word.text for word in words))


def as_txt(transcript: Transcript) -> str:
    """The text on one line."""
    return transcript.text + "\n"


def as_json(transcript: Transcript) -> str:
    """Text, passages and words as JSON on one line."""
    return json.dumps(transcript.plain(), ensure_ascii=False, allow_nan=False) + "\n"


def as_srt(transcript: Transcript) -> str:
    """SubRip captions."""
    return "".join(
        f"{number}\n{_clock(caption.start, ',')} --> {_clock(caption.end, ',')}\n{caption.text}\n\n"
        for number, caption in enumerate(captions(transcript), 1)
    )


def as_vtt(transcript: Transcript) -> str:
    """WebVTT captions; the text is escaped, so that it has no markup."""
    return "WEBVTT\n\n" + "".join(
        f"{_clock(caption.start, '.')} --> {_clock(caption.end, '.')}\n"
        f"{html.escape(caption.text, quote=False)}\n\n"
        for caption in captions(transcript)
    )


def as_tsv(transcript: Transcript) -> str:
    """One line for each segment, without the head: name, start and end in seconds, text."""
    name = " ".join(transcript.name.split())  # a tab in a file's name would be a column
    return "".join(
        f"{name}\t{passage.start:.3f}\t{passage.end:.3f}\t{passage.text}\n"
        for passage in transcript.segments
    )


FORMATS: dict[str, Callable[[Transcript], str]] = {
    "txt": as_txt,
    "json": as_json,
    "srt": as_srt,
    "vtt": as_vtt,
    "tsv": as_tsv,
}
HEADS = {"tsv": TSV_HEAD}
ONE_PER_FILE = ("srt", "vtt")  # formats of which a file has one transcript only


def escape_for(stream: TextIO, text: str) -> str:
    """The text as ``stream`` can write it: a letter that its encoding lacks becomes its number."""
    encoding = getattr(stream, "encoding", None) or "utf-8"
    return text.encode(encoding, "backslashreplace").decode(encoding)


def _clock(seconds: float, point: str) -> str:
    """Seconds as hours, minutes, seconds and milliseconds; ``point`` is the decimal sign."""
    milliseconds = round(seconds * 1000)
    hours, milliseconds = divmod(milliseconds, 3_600_000)
    minutes, milliseconds = divmod(milliseconds, 60_000)
    return f"{hours:02d}:{minutes:02d}:{milliseconds // 1000:02d}{point}{milliseconds % 1000:03d}"
