"""Word error rate over a whole set: sum of errors / sum of reference words, counted by jiwer.

Cost: about 450,000 reference words a second. A reference may be empty (non-speech): every hypothesis word is then an
insertion; jiwer refuses such pairs, so they are counted here.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from components.text.forms import in_form


@dataclass(frozen=True)
class WordErrors:
    """Counts over a set; ``wer`` is a fraction, and 0 over no reference words."""

    substitutions: int = 0
    deletions: int = 0
    insertions: int = 0
    words: int = 0

    @property
    def wer(self) -> float:
        return (self.substitutions + self.deletions + self.insertions) / self.words if self.words else 0.0

    def __add__(self, other: WordErrors) -> WordErrors:
        return WordErrors(self.substitutions + other.substitutions, self.deletions + other.deletions,
                          self.insertions + other.insertions, self.words + other.words)  # fmt: skip


def word_errors(references: Sequence[str], hypotheses: Sequence[str], form: str) -> WordErrors:
    """Errors of ``hypotheses`` against ``references``, pair by pair, both in ``form``.

    Raises ValueError where the two differ in number.
    """
    if len(references) != len(hypotheses):
        raise ValueError(f"{len(references)} references against {len(hypotheses)} hypotheses")
    import jiwer

    pairs = [(in_form(reference, form), in_form(hypothesis, form)) for reference, hypothesis in zip(references, hypotheses, strict=True)]
    total = WordErrors(insertions=sum(len(hypothesis.split()) for reference, hypothesis in pairs if not reference))
    spoken = [pair for pair in pairs if pair[0]]
    if not spoken:
        return total
    counted = jiwer.process_words([pair[0] for pair in spoken], [pair[1] for pair in spoken])
    words = counted.hits + counted.substitutions + counted.deletions
    return total + WordErrors(counted.substitutions, counted.deletions, counted.insertions, words)
