"""Word times: forced alignment of a text to the log-probabilities of a CTC head (Graves et al.
2006, section 4.1).

In: last-layer frames of an utterance and its text, from any model. Out: the words with their
seconds, and the confidence of the head in each. torchaudio's ``forced_align`` finds the most
probable path of blanks and units (``components.runtime.torchaudio_extension``). Units that the head
lacks (digits, for a head of letters) are left out; a word of such units alone fills the gap between
its neighbours. Cost: frames × units of one text, at most 20 ms for 20 s of speech.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch

from components.model.encoders.ctc import CtcHead, HeadSource, count_min_frames
from components.text.joining import Word, estimate_word_times

if TYPE_CHECKING:
    from torchaudio.functional import TokenSpan


def align_units(
    scores: torch.Tensor, target: Sequence[int], blank: int = 0
) -> list[TokenSpan] | None:
    """The frames and the mean log-probability of ``target``'s units on the most probable of all
    paths that collapse to it; None if there are too few frames.

    ``scores`` are log-probabilities, (frames, units).
    """
    if not target:
        return []
    if len(scores) < count_min_frames(target):
        return None
    from torchaudio.functional import forced_align, merge_tokens

    units, unit_scores = forced_align(scores[None], torch.tensor([list(target)]), blank=blank)
    spans: list[TokenSpan] = merge_tokens(units[0], unit_scores[0], blank)
    return spans


class Aligner:
    """Word times from a CTC head and frames of the rate ``frame_rate`` a second.

    Raises InputError for an encoder without a CTC head.
    """

    def __init__(self, source: HeadSource, frame_rate: float) -> None:
        self.head = CtcHead(source)
        self._frame_rate = frame_rate
        self._step_rate = frame_rate / source.stride  # of the rows of scores
        self._delimiter = self._read_delimiter()

    @torch.inference_mode()
    def log_probabilities(self, frames: torch.Tensor) -> torch.Tensor:
        """Of each unit at each frame: last-layer frames, (frames, width), to (frames, units),
        float32, on the CPU.
        """
        return self.head.log_probabilities([frames])[0].cpu()

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
        spans = align_units(self.log_probabilities(frames), target, self.head.blank)
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

    def _word(self, text: str, spans: Sequence[TokenSpan], duration_s: float) -> Word | None:
        """A word with its times; its score is the geometric mean of its frames' probabilities. The
        last frame may be longer than the audio.
        """
        if not spans:
            return None
        num_frames = sum(map(len, spans))
        score = math.exp(sum(span.score * len(span) for span in spans) / num_frames)
        end_s = min(spans[-1].end / self._step_rate, duration_s)
        return Word(text, spans[0].start / self._step_rate, end_s, score)


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
