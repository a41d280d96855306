"""When each word was said: forced alignment of a text to the log-probabilities of a CTC head
(Graves et al. 2006, section 4.1).

In: last-layer frames of an utterance and its text, from whatever model. Out: the words with their
seconds, and how sure the head is of each. The path of blanks and units with the highest probability
is found by Viterbi; units that the head does not know (digits, where it has letters alone) are left
out, and a word of such units alone fills the gap between its neighbours. Written here, since
torchaudio's ``forced_align`` is compiled code that a processor's build of torch does not load.
Cost: frames × units of one text, about 20 ms for 20 s of speech.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from components.model.encoders.ctc import CtcHead, frames_needed
from components.text.joining import Word, estimate_word_times


@dataclass(frozen=True)
class UnitSpan:
    """The frames ``start`` to ``end`` (exclusive) in which one unit stands, and the sum of its
    log-probabilities there.
    """

    start: int
    end: int
    score: float


def viterbi(scores: np.ndarray, target: Sequence[int], blank: int = 0) -> list[UnitSpan] | None:
    """The runs of ``target``'s units on the likeliest of all paths that collapse to it; None where
    there are too few frames.

    ``scores`` are log-probabilities, shape (frames, units).
    """
    if not target:
        return []
    count = len(scores)
    if count < frames_needed(target):
        return None
    units = np.full(2 * len(target) + 1, blank)
    units[1::2] = target
    emitted = np.asarray(scores, np.float64)[
        :, units
    ]  # (frames, states): blank, unit, blank, unit, … blank
    # A unit may follow the unit before it without a blank where the two differ.
    skips = np.concatenate([[False, False], (units[2:] != blank) & (units[2:] != units[:-2])])
    best = np.full(len(units), -np.inf)
    best[:2] = emitted[0, :2]
    steps = np.zeros(emitted.shape, np.int8)
    for frame in range(1, count):
        from_one = np.concatenate([[-np.inf], best[:-1]])
        from_two = np.where(skips, np.concatenate([[-np.inf, -np.inf], best[:-2]]), -np.inf)
        choices = np.stack([best, from_one, from_two])
        steps[frame] = choices.argmax(axis=0)
        best = choices.max(axis=0) + emitted[frame]
    state = int(best[-2:].argmax()) + len(units) - 2
    path: np.ndarray = np.empty(count, np.int64)
    for frame in range(count - 1, -1, -1):
        path[frame] = state
        state -= int(steps[frame, state])
    return [_run(path, emitted, state) for state in range(1, len(units), 2)]


def _run(path: np.ndarray, emitted: np.ndarray, state: int) -> UnitSpan:
    frames = np.flatnonzero(path == state)
    return UnitSpan(int(frames[0]), int(frames[-1]) + 1, float(emitted[frames, state].sum()))


class Aligner:
    """Word times by the CTC head of a ``SpeechEncoder``; raises InputError where it has none."""

    def __init__(self, encoder: Any) -> None:
        self.head = CtcHead(encoder)
        self._scores, self._rate = encoder.head, encoder.rate
        self._between = self._delimiter()

    @torch.inference_mode()
    def log_probabilities(self, frames: torch.Tensor) -> np.ndarray:
        """Of each unit at each frame: last-layer frames, shape (frames, width) → float32, shape
        (frames, units).
        """
        encoder = self.head.encoder
        return (
            self._scores(frames.to(encoder.device, encoder.dtype)[None])[0]
            .float()
            .log_softmax(-1)
            .cpu()
            .numpy()
        )

    def __call__(self, frames: torch.Tensor, text: str) -> list[Word]:
        """The words of a text, in seconds from the first frame. Where the text has more units than
        there are frames, words are spread over the time, and have no score.
        """
        words = text.split()
        units = [self._units(word) for word in words]
        target, places = self._sequence(units)
        seconds = len(frames) / self._rate
        runs = viterbi(self.log_probabilities(frames), target, self.head.blank)
        if runs is None or not any(units):
            return estimate_word_times(text, 0.0, seconds)
        found = [
            self._word(word, [runs[place] for place in each])
            for word, each in zip(words, places, strict=True)
        ]
        return _filled(words, found, seconds)

    def _units(self, word: str) -> list[int]:
        """Ids of a word's units; those that the head does not know are left out."""
        return self.head.encode_known(word)

    def _delimiter(self) -> list[int]:
        """What stands between two words: a unit of its own for letters, nothing for subwords, which
        mark beginnings.
        """
        alone, both = self._units("a"), self._units("a a")
        return both[len(alone) : len(both) - len(alone)]

    def _sequence(self, units: Sequence[Sequence[int]]) -> tuple[list[int], list[range]]:
        """The units of all words with what stands between them, and the places of each
        word's own.
        """
        target: list[int] = []
        places = []
        for each in units:
            if each and target:
                target += self._between
            places.append(range(len(target), len(target) + len(each)))
            target += each
        return target, places

    def _word(self, text: str, runs: Sequence[UnitSpan]) -> Word | None:
        if not runs:
            return None
        frames = sum(run.end - run.start for run in runs)
        sure = math.exp(sum(run.score for run in runs) / frames)
        return Word(text, runs[0].start / self._rate, runs[-1].end / self._rate, sure)


def _filled(texts: Sequence[str], found: Sequence[Word | None], seconds: float) -> list[Word]:
    """All words; those without a unit stand side by side between the ones that have some."""
    made: list[Word] = []
    waiting: list[str] = []
    for text, word in [*zip(texts, found, strict=True), ("", None)]:
        last = len(made) + len(waiting) == len(texts)
        if word is None and not last:
            waiting.append(text)
            continue
        if waiting:
            made += estimate_word_times(
                " ".join(waiting), made[-1].end if made else 0.0, word.start if word else seconds
            )
            waiting = []
        if word is not None:
            made.append(word)
    return made
