"""Kinds of inserted words: what an LLM writes although nobody said it.

In: the raw reference and hypothesis of an utterance, and their alignment in the text form ``FORM``.
Out: a kind for each inserted word. The kinds of a set add up to its insertions in ``FORM``,
whichever form is reported. ``FORM`` is used because a normaliser removes fillers, brackets and
tags, and these are errors of an LLM too.

- ``loop``: a sequence of words that is repeated directly, more often than the reference repeats it.
- ``echo``: three consecutive words of the prompt (all words of a shorter phrase), or a chat token.
- ``refusal``: "I'm sorry", "as an AI" and similar, and the remainder of such a sentence if no word
  of the reference follows.
- ``run-on``: after the last word of the hypothesis that equals its reference word.
- ``other``: all other insertions.

Words of the reference itself are never an echo or a refusal. If two kinds fit, the first of this
list is used.

>>> from components.text.wer import align_pairs
>>> phrases = collect_phrases("USER: {speech} Transcribe speech to text. ASSISTANT:")
>>> def kinds(reference, hypothesis):
...     (alignment,) = align_pairs([reference], [hypothesis], FORM)
...     return kinds_of_words(reference, hypothesis, alignment, phrases)
>>> kinds("the cat sat", "the cat the cat sat")
['loop', 'loop']
>>> kinds("the cat sat", "transcribe speech to text the cat sat")
['echo', 'echo', 'echo', 'echo']
>>> kinds("the cat sat", "i'm sorry the cat sat")
['refusal', 'refusal']
>>> kinds("the cat sat", "well the cat sat down")
['other', 'run-on']

Cost: 30,000 utterances with insertions a second.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from components.text.wer import Alignment

LOOP, ECHO, REFUSAL, RUN_ON, OTHER, TEXT = "loop", "echo", "refusal", "run-on", "other", "text"
FORM = "casefold"  # changes nothing but the case of a word
KINDS = (LOOP, ECHO, REFUSAL, RUN_ON, OTHER)
CLIP_KINDS = (LOOP, ECHO, REFUSAL, TEXT)  # of non-speech, where a clip is counted once
# A mark, not a kind: these words count as refusal only if no word of the reference follows.
REFUSAL_TAIL = "tail of a refusal"
MIN_ECHO_WORDS = 3  # consecutive words of the prompt that are unlikely by chance
# Tags of chat templates, as their tokenizers write them: <|im_start|>, [INST], </s>,
# <start_of_turn>.
CHAT_TOKEN = re.compile(r"<\|[^<>|]+\|>|\[/?inst\]|</?s>|</?think>|<(?:start|end|begin)_of_\w+>")
PUNCTUATION = re.compile(r"^\W+|\W+$")  # around a word; an apostrophe inside it stays
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
# Only the complete phrase counts: people say its first words too.
ANSWERS = ("here is the transcription", "the transcription is")
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
class LlmPhrases:
    """The phrases that mark echoes and refusals; a phrase is a tuple of words."""

    prompts: tuple[tuple[str, ...], ...]
    refusals: tuple[tuple[str, ...], ...]


def collect_phrases(*templates: str) -> LlmPhrases:
    """The phrases of this module and those of an LLM's prompt templates.

    A template is split at ``{speech}`` and at special tokens.
    """
    pieces = [
        piece
        for template in templates
        for piece in re.split(CHAT_TOKEN, template.casefold().replace("{speech}", "<s>"))
        if piece
    ]
    phrases = [
        tuple(words) for text in (*PROMPTS, *pieces) if _is_distinctive(words := _split(text))
    ]
    runs = [
        phrase[start : start + MIN_ECHO_WORDS]
        for phrase in phrases
        for start in range(max(1, len(phrase) - MIN_ECHO_WORDS + 1))
    ]
    answers = [tuple(text.split()) for text in ANSWERS]
    return LlmPhrases(
        tuple(dict.fromkeys([*runs, *answers])), tuple(tuple(text.split()) for text in REFUSALS)
    )


def _is_distinctive(words: Sequence[str]) -> bool:
    """Whether a phrase of the prompt marks an echo: a single word does only with its colon."""
    return len(words) > 1 or any(word.endswith(":") for word in words)


def _split(text: str) -> list[str]:
    return text.casefold().replace("’", "'").split()


def kinds_of_words(
    reference: str, hypothesis: str, alignment: Alignment, phrases: LlmPhrases
) -> list[str]:
    """The kind of each inserted word of ``alignment``, which is that of the texts in ``FORM``."""
    if not alignment.inserted:
        return []
    marks = _mark_words(reference, hypothesis, phrases)
    # Without a correct word there is no end of the speech, and so no run-on.
    speech_end = alignment.matched or len(marks)
    for index, mark in enumerate(marks):
        if mark == REFUSAL_TAIL:
            is_refusal = index >= alignment.matched and marks[index - 1] == REFUSAL
            marks[index] = REFUSAL if is_refusal else ""
    return [
        marks[index] or (RUN_ON if index >= speech_end else OTHER) for index in alignment.inserted
    ]


def kind_of_clip(reference: str, text: str, phrases: LlmPhrases) -> str:
    """The kind of a text on non-speech: the first of ``CLIP_KINDS`` that any word has.

    Empty if the text has no word.
    """
    marks = set(_mark_words(reference, text, phrases))
    return next((kind for kind in CLIP_KINDS if kind in marks), TEXT) if marks else ""


def main_kind(kinds: Sequence[str]) -> str:
    """The most frequent kind of an utterance's inserted words; empty if there is none.

    If two are equally frequent, the first of ``KINDS`` is used.
    """
    counts = Counter(kinds)
    return max(KINDS, key=lambda kind: counts[kind]) if kinds else ""


def _mark_words(reference: str, hypothesis: str, phrases: LlmPhrases) -> list[str]:
    """``LOOP``, ``ECHO``, ``REFUSAL``, ``REFUSAL_TAIL`` or "" for each raw word of the
    hypothesis.
    """
    reference_words = _Words.of(reference)
    hypothesis_words = _Words.of(hypothesis)
    marks = [""] * len(hypothesis_words.raw)
    refusals = _find_unspoken(phrases.refusals, hypothesis_words, reference_words)
    for _, end in refusals:
        last = next(
            (
                index
                for index in range(end - 1, len(marks))
                if hypothesis_words.raw[index].endswith((".", "!", "?"))
            ),
            len(marks) - 1,
        )
        marks[end : last + 1] = [REFUSAL_TAIL] * (last + 1 - end)
    for start, end in refusals:
        marks[start:end] = [REFUSAL] * (end - start)
    for start, end in _find_unspoken(phrases.prompts, hypothesis_words, reference_words):
        marks[start:end] = [ECHO] * (end - start)
    for index, word in enumerate(hypothesis_words.raw):
        if CHAT_TOKEN.search(word):
            marks[index] = ECHO
    for start, end in find_loops(hypothesis_words.bare, reference_words.bare):
        marks[start:end] = [LOOP] * (end - start)
    return marks


@dataclass(frozen=True)
class _Words:
    """The case-folded words of a text, with and without the punctuation around them."""

    raw: list[str]
    bare: list[str]

    @classmethod
    def of(cls, text: str) -> _Words:
        raw = _split(text)
        return cls(raw, [_strip_punctuation(word) for word in raw])


def _strip_punctuation(word: str) -> str:
    return PUNCTUATION.sub("", word) or word


def _find_unspoken(
    phrases: Sequence[tuple[str, ...]], hypothesis: _Words, reference: _Words
) -> list[tuple[int, int]]:
    """(first word, word after the last) of each phrase in the hypothesis that the reference does
    not contain.
    """
    vocabulary = set(hypothesis.raw) | set(hypothesis.bare)
    return [
        (start, start + len(phrase))
        for phrase in phrases
        if phrase[0] in vocabulary or _strip_punctuation(phrase[0]) in vocabulary
        for start in _positions(phrase, hypothesis)
        if not any(True for _ in _positions(phrase, reference))
    ]


def _positions(phrase: tuple[str, ...], text: _Words) -> Iterator[int]:
    """Positions of a phrase in a text.

    A phrase of one word must have its punctuation; the words of a longer one may have any.
    """
    is_single = len(phrase) == 1
    pattern = phrase if is_single else tuple(_strip_punctuation(word) for word in phrase)
    words = text.raw if is_single else text.bare
    return (
        start
        for start in range(len(words) - len(pattern) + 1)
        if tuple(words[start : start + len(pattern)]) == pattern
    )


def find_loops(words: Sequence[str], reference: Sequence[str]) -> list[tuple[int, int]]:
    """(first word, word after the last) of each part of ``words`` that repeats a sequence directly,
    more often than the reference does.

    A part of n words in which each equals the word p before it repeats a sequence of p words
    n // p times.

    >>> find_loops("no no no".split(), ["no"])
    [(0, 3)]
    >>> find_loops("no no no".split(), "no no no".split())
    []
    """
    codes = {word: code for code, word in enumerate(dict.fromkeys(words))}
    if len(codes) == len(words):
        return []
    coded_words = np.array([codes[word] for word in words])
    coded_reference = np.array([codes.get(word, -1) for word in reference])
    loops: list[tuple[int, int]] = []
    for period in range(1, len(words) // 2 + 1):
        for start, end in _periodic_parts(coded_words, period):
            # A repeated word is a repeated pair of words too: it is counted once.
            is_inside = any(first <= start and end <= last for first, last in loops)
            if is_inside:
                continue
            sequence = coded_words[start : start + period]
            if (end - start) // period > _count_repeats(coded_reference, sequence):
                loops.append((start, end))
    return loops


def _periodic_parts(codes: np.ndarray, period: int) -> list[tuple[int, int]]:
    """(start, end) of each part with at least two repeats of ``period`` codes."""
    is_equal = np.concatenate([[False], codes[period:] == codes[:-period], [False]])
    edges = np.flatnonzero(is_equal[1:] != is_equal[:-1])
    return [
        (int(start), int(end) + period)
        for start, end in zip(edges[::2], edges[1::2])
        if end - start >= period
    ]


def _count_repeats(codes: np.ndarray, sequence: np.ndarray) -> int:
    """How often ``sequence`` follows itself directly in ``codes``, starting at any of its codes; at
    least 1.
    """
    period = len(sequence)
    parts = _periodic_parts(codes, period) if len(codes) >= 2 * period else []
    if not parts:
        return 1
    rotations = {tuple(np.roll(sequence, shift)) for shift in range(period)}
    return max(
        (
            (end - start) // period
            for start, end in parts
            if tuple(codes[start : start + period]) in rotations
        ),
        default=1,
    )
