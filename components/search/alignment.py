"""Word times: forced alignment of a text to the log-probabilities of a CTC head (Graves et al.
2006, section 4.1).

In: last-layer frames of an utterance and its text, from any model. Out: the words with their
seconds, and the confidence of the head in each. Viterbi finds the most probable path of blanks and
units. Units that the head lacks (digits, for a head of letters) are left out; a word of such units
alone fills the gap between its neighbours. Written here because torchaudio's ``forced_align`` is
compiled code that a CPU build of torch does not load. Cost: frames × units of one text, about 20 ms
for 20 s of speech.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

from components.model.encoders.ctc import CtcHead, HeadSource, count_min_frames
from components.text.joining import Word, estimate_word_times


@dataclass(frozen=True)
class UnitSpan:
    """The frames that one unit covers on a path."""

    start: int  # frame
    end: int  # frame, exclusive
    score: float  # sum of the unit's log-probabilities over these frames


def viterbi(scores: np.ndarray, target: Sequence[int], blank: int = 0) -> list[UnitSpan] | None:
    """The spans of ``target``'s units on the most probable of all paths that collapse to it; None
    if there are too few frames.

    ``scores`` are log-probabilities, (frames, units).
    """
    if not target:
        return []
    num_frames = len(scores)
    if num_frames < count_min_frames(target):
        return None
    units = np.full(2 * len(target) + 1, blank)  # of the states: blank, unit, blank, …, blank
    units[1::2] = target
    emitted = np.asarray(scores, np.float64)[:, units]  # (frames, states)
    # A unit may follow the unit before it without a blank if the two differ.
    can_skip = np.concatenate([[False, False], (units[2:] != blank) & (units[2:] != units[:-2])])
    best = np.full(len(units), -np.inf)  # (states,)
    best[:2] = emitted[0, :2]
    steps = np.zeros(emitted.shape, np.int8)  # (frames, states): how many states a path advanced
    for frame in range(1, num_frames):
        from_one = np.concatenate([[-np.inf], best[:-1]])
        from_two = np.where(can_skip, np.concatenate([[-np.inf, -np.inf], best[:-2]]), -np.inf)
        choices = np.stack([best, from_one, from_two])  # (3, states)
        steps[frame] = choices.argmax(axis=0)
        best = choices.max(axis=0) + emitted[frame]
    state = int(best[-2:].argmax()) + len(units) - 2
    path: np.ndarray = np.empty(num_frames, np.int64)
    for frame in range(num_frames - 1, -1, -1):
        path[frame] = state
        state -= int(steps[frame, state])
    return [_unit_span(path, emitted, state) for state in range(1, len(units), 2)]


def _unit_span(path: np.ndarray, emitted: np.ndarray, state: int) -> UnitSpan:
    """The frames of ``path``, (frames,), that are in one state."""
    frames = np.flatnonzero(path == state)
    return UnitSpan(int(frames[0]), int(frames[-1]) + 1, float(emitted[frames, state].sum()))


class Aligner:
    """Word times from a CTC head whose frames have the rate ``frame_rate`` a second.

    Raises InputError for an encoder without a CTC head.
    """

    def __init__(self, source: HeadSource, frame_rate: float) -> None:
        self.head = CtcHead(source)
        self._frame_rate = frame_rate
        self._delimiter = self._read_delimiter()

    @torch.inference_mode()
    def log_probabilities(self, frames: torch.Tensor) -> np.ndarray:
        """Of each unit at each frame: last-layer frames, (frames, width), to (frames, units),
        float32.
        """
        scores: np.ndarray = self.head.log_probabilities([frames])[0].cpu().numpy()
        return scores

    def __call__(self, frames: torch.Tensor, text: str, duration_s: float = math.inf) -> list[Word]:
        """The words of a text, in seconds from the first frame, none after ``duration_s``: the
        length of the audio, after which there may be frames of padding.

        If the text has more units than there are frames, the words are spread over the duration and
        have no score.
        """
        duration_s = min(len(frames) / self._frame_rate, duration_s)
        frames = frames[: math.ceil(round(duration_s * self._frame_rate, 6))]  # (frames, width)
        words = text.split()
        units = [self.head.encode_in_vocabulary(word) for word in words]
        target, ranges = self._target(units)
        spans = viterbi(self.log_probabilities(frames), target, self.head.blank)
        if spans is None or not any(units):
            return estimate_word_times(text, 0.0, duration_s)
        aligned = [
            self._word(word, [spans[index] for index in indices], duration_s)
            for word, indices in zip(words, ranges, strict=True)
        ]
        return _fill_gaps(words, aligned, duration_s)

    def _read_delimiter(self) -> list[int]:
        """The units between two words: one for a head of letters, none for subwords, which mark the
        beginning of a word.
        """
        one, two = self.head.encode_in_vocabulary("a"), self.head.encode_in_vocabulary("a a")
        return two[len(one) : len(two) - len(one)]

    def _target(self, units: Sequence[Sequence[int]]) -> tuple[list[int], list[range]]:
        """The units of all words with delimiters between them, and the indices of each word's
        units.
        """
        target: list[int] = []
        ranges = []
        for word_units in units:
            if word_units and target:
                target += self._delimiter
            ranges.append(range(len(target), len(target) + len(word_units)))
            target += word_units
        return target, ranges

    def _word(self, text: str, spans: Sequence[UnitSpan], duration_s: float) -> Word | None:
        """A word with its times; its score is the geometric mean of its frames' probabilities. The
        last frame may be longer than the audio.
        """
        if not spans:
            return None
        num_frames = sum(span.end - span.start for span in spans)
        score = math.exp(sum(span.score for span in spans) / num_frames)
        end_s = min(spans[-1].end / self._frame_rate, duration_s)
        return Word(text, spans[0].start / self._frame_rate, end_s, score)


def _fill_gaps(
    texts: Sequence[str], aligned: Sequence[Word | None], duration_s: float
) -> list[Word]:
    """All words; those without a unit share the gap between their neighbours."""
    words: list[Word] = []
    waiting: list[str] = []
    for text, word in [*zip(texts, aligned, strict=True), ("", None)]:
        is_end = len(words) + len(waiting) == len(texts)
        if word is None and not is_end:
            waiting.append(text)
            continue
        if waiting:
            start_s = words[-1].end if words else 0.0
            end_s = word.start if word else duration_s
            words += estimate_word_times(" ".join(waiting), start_s, end_s)
            waiting = []
        if word is not None:
            words.append(word)
    return words
