"""Kinds of inserted words: what an LLM writes that nobody said.

In: the raw reference and hypothesis of an utterance and their alignment in the text form ``FORM``.
Out: a kind for each inserted word, so that the kinds of a set add up to its insertions in that
form, whichever form is reported: a normaliser would take fillers, brackets and tags away, and with
them what an LLM is to be blamed for.

- ``loop``: a sequence of words repeated directly, more often than the reference repeats it; -
``echo``: three words in a row of the prompt (all of a shorter phrase), or a chat token; -
``refusal``: "I'm sorry", "as an AI" and the like, and the rest of such a sentence where no word of
the reference follows; - ``run-on``: after the last word of the hypothesis that equals its reference
word; - ``other``: the rest.

What the reference says itself is no echo and no refusal. Where two kinds hold, the first of this
list is taken. Cost: 30,000 utterances with insertions a second.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from components.text.wer import Alignment

LOOP, ECHO, REFUSAL, RUN_ON, OTHER, TEXT = "loop", "echo", "refusal", "run-on", "other", "text"
FORM = "casefold"  # changes no word but for its case
KINDS = (LOOP, ECHO, REFUSAL, RUN_ON, OTHER)
CLIP_KINDS = (LOOP, ECHO, REFUSAL, TEXT)  # of non-speech, where a clip is counted once
# its words count as refusal where nothing of the reference is heard any more
REST = "rest of a refusal"
RUN = 3  # words of the prompt in a row that are no chance
# Tags of chat templates, as their tokenizers write them: <|im_start|>, [INST], </s>,
# <start_of_turn>.
TOKEN = re.compile(r"<\|[^<>|]+\|>|\[/?inst\]|</?s>|</?think>|<(?:start|end|begin)_of_\w+>")
MARKS = re.compile(r"^\W+|\W+$")  # punctuation around a word; an apostrophe within it stays
PROMPTS = (
    "transcribe speech to text",
    "transcribe the speech",
    "transcribe the audio",
    "user:",
    "assistant:",
    "system:",
    "human:",
    "instruct:",
    "output:",
)
ANSWERS = (
    "here is the transcription",
    "the transcription is",
)  # whole: their beginnings are said by people too
REFUSALS = (
    "i'm sorry",
    "i am sorry",
    "i apologize",
    "as an ai",
    "as a language model",
    "as an assistant",
    "i cannot",
    "i can't",
    "i can not",
    "i'm unable",
    "i am unable",
    "i'm not able",
    "i am not able",
    "i don't have access",
)


@dataclass(frozen=True)
class EchoPhrases:
    """The phrases that are looked for, in words as ``_words`` splits them."""

    prompts: tuple[tuple[str, ...], ...]
    refusals: tuple[tuple[str, ...], ...]


def evidence(*templates: str) -> EchoPhrases:
    """The phrases of this module, and those of an LLM's prompt templates (``{speech}`` and special
    tokens part them).
    """
    pieces = [
        piece
        for template in templates
        for piece in re.split(TOKEN, template.casefold().replace("{speech}", "<s>"))
        if piece
    ]
    phrases = [tuple(words) for text in (*PROMPTS, *pieces) if _telling(words := _words(text))]
    runs = [
        phrase[at : at + RUN] for phrase in phrases for at in range(max(1, len(phrase) - RUN + 1))
    ]
    answers = [tuple(text.split()) for text in ANSWERS]
    return EchoPhrases(
        tuple(dict.fromkeys([*runs, *answers])), tuple(tuple(text.split()) for text in REFUSALS)
    )


def _telling(words: Sequence[str]) -> bool:
    """Whether a phrase of the prompt says anything: a single word does with its colon only."""
    return len(words) > 1 or any(word.endswith(":") for word in words)


def _words(text: str) -> list[str]:
    return text.casefold().replace("’", "'").split()


def kinds_of_words(
    reference: str, hypothesis: str, alignment: Alignment, known: EchoPhrases
) -> list[str]:
    """The kind of each inserted word of ``alignment``, which is that of the texts in ``FORM``."""
    if not alignment.inserted:
        return []
    marks = _marks(reference, hypothesis, known)
    spoken = alignment.matched or len(
        marks
    )  # where nothing of the reference was heard, nothing runs on
    for place, mark in enumerate(marks):
        if mark == REST:
            marks[place] = (
                REFUSAL if place >= alignment.matched and marks[place - 1] == REFUSAL else ""
            )
    return [marks[at] or (RUN_ON if at >= spoken else OTHER) for at in alignment.inserted]


def kind_of_clip(reference: str, text: str, known: EchoPhrases) -> str:
    """The kind of a text on non-speech; empty where there is none. The first kind of ``CLIP_KINDS``
    that any word has.
    """
    found = set(_marks(reference, text, known))
    return next((kind for kind in CLIP_KINDS if kind in found), TEXT) if found else ""


def main_kind(kinds: Sequence[str]) -> str:
    """The most frequent of the kinds of an utterance's inserted words, of equals the first of
    ``KINDS``; empty for none.
    """
    counts = Counter(kinds)
    return max(KINDS, key=lambda kind: counts[kind]) if kinds else ""


def _marks(reference: str, hypothesis: str, known: EchoPhrases) -> list[str]:
    """Loop, echo, refusal, the rest of one, or nothing, for each word of the raw hypothesis."""
    said, raw = _words(reference), _words(hypothesis)
    bare_said, bare = [_bare(word) for word in said], [_bare(word) for word in raw]
    marks = [""] * len(raw)
    refusals = _starts(raw, bare, known.refusals, said, bare_said)
    for _, end in refusals:
        last = next(
            (place for place in range(end - 1, len(raw)) if raw[place].endswith((".", "!", "?"))),
            len(raw) - 1,
        )
        marks[end : last + 1] = [REST] * (last + 1 - end)
    for start, end in refusals:
        marks[start:end] = [REFUSAL] * (end - start)
    for start, end in _starts(raw, bare, known.prompts, said, bare_said):
        marks[start:end] = [ECHO] * (end - start)
    for place, word in enumerate(raw):
        if TOKEN.search(word):
            marks[place] = ECHO
    for start, end in loops(bare, bare_said):
        marks[start:end] = [LOOP] * (end - start)
    return marks


def _bare(word: str) -> str:
    return MARKS.sub("", word) or word


def _starts(
    raw: Sequence[str],
    bare: Sequence[str],
    phrases: Sequence[tuple[str, ...]],
    said: Sequence[str],
    bare_said: Sequence[str],
) -> list[tuple[int, int]]:
    """Where in the hypothesis phrases stand that the reference does not say: (first word, after the
    last).
    """
    there = set(raw) | set(bare)
    return [
        (at, at + len(phrase))
        for phrase in phrases
        if phrase[0] in there or _bare(phrase[0]) in there
        for at in _found(phrase, raw, bare)
        if not any(True for _ in _found(phrase, said, bare_said))
    ]


def _found(phrase: tuple[str, ...], raw: Sequence[str], bare: Sequence[str]) -> Iterator[int]:
    """Positions of a phrase; a single word must have its punctuation, others may have any around
    their words.
    """
    wanted = phrase if len(phrase) == 1 else tuple(_bare(word) for word in phrase)
    words = raw if len(phrase) == 1 else bare
    return (
        at
        for at in range(len(words) - len(wanted) + 1)
        if tuple(words[at : at + len(wanted)]) == wanted
    )


def loops(words: Sequence[str], reference: Sequence[str]) -> list[tuple[int, int]]:
    """Stretches of ``words`` in which a sequence of any length is repeated directly, more often
    than in the reference.

    A stretch of n words in which each equals the one p before it repeats a sequence of p words n //
    p times.
    """
    numbers = {word: number for number, word in enumerate(dict.fromkeys(words))}
    if len(numbers) == len(words):
        return []
    coded, said = (
        np.array([numbers[word] for word in words]),
        np.array([numbers.get(word, -1) for word in reference]),
    )
    found: list[tuple[int, int]] = []
    for period in range(1, len(words) // 2 + 1):
        for start, end in _stretches(coded, period):
            # What repeats a word repeats two of it as well.
            inside = any(first <= start and end <= last for first, last in found)
            if not inside and (end - start) // period > _repeats(
                said, coded[start : start + period]
            ):
                found.append((start, end))
    return found


def _stretches(coded: np.ndarray, period: int) -> list[tuple[int, int]]:
    same = np.concatenate([[False], coded[period:] == coded[:-period], [False]])
    edges = np.flatnonzero(same[1:] != same[:-1])
    return [
        (int(start), int(end) + period)
        for start, end in zip(edges[::2], edges[1::2])
        if end - start >= period
    ]


def _repeats(words: np.ndarray, gram: np.ndarray) -> int:
    """How often ``words`` have a sequence in direct succession, wherever in it they begin; 1 at
    least.
    """
    period = len(gram)
    twice = _stretches(words, period) if len(words) >= 2 * period else []
    if not twice:
        return 1
    turns = {tuple(np.roll(gram, turn)) for turn in range(period)}
    return max(
        (
            (end - start) // period
            for start, end in twice
            if tuple(words[start : start + period]) in turns
        ),
        default=1,
    )
