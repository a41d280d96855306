"""Which word stands against which: the edit operations between a reference and a hypothesis, made
by jiwer as ``score`` counts them.

In: pairs of texts in one text form. Out: a string a pair, one letter an operation in reading order.
Cost: about 450,000 words a second.
"""

from __future__ import annotations

from collections.abc import Sequence

LETTERS = {"equal": "=", "substitute": "S", "delete": "D", "insert": "I"}


def operations(references: Sequence[str], hypotheses: Sequence[str]) -> list[str]:
    """The operations of each pair: ``=`` and ``S`` take a word of either side, ``D`` one of the
    reference, ``I`` one of the hypothesis.

    Words are what white space parts. A reference may be empty (jiwer refuses such): every word is
    then an insertion. The fewest operations are taken (Levenshtein distance over words, of which
    there may be several ways; jiwer picks one). Raises ValueError where the two differ in number.
    """
    if len(references) != len(hypotheses):
        raise ValueError(f"{len(references)} references against {len(hypotheses)} hypotheses")
    import jiwer

    found = ["I" * len(hypothesis.split()) for hypothesis in hypotheses]
    spoken = [number for number, reference in enumerate(references) if reference.split()]
    if not spoken:
        return found
    counted = jiwer.process_words(
        [references[number] for number in spoken], [hypotheses[number] for number in spoken]
    )
    for number, chunks in zip(spoken, counted.alignments):
        found[number] = "".join(
            LETTERS[chunk.type]
            * max(chunk.ref_end_idx - chunk.ref_start_idx, chunk.hyp_end_idx - chunk.hyp_start_idx)
            for chunk in chunks
        )
    return found


def counts(letters: str) -> tuple[int, int, int]:
    """Substitutions, deletions and insertions among the operations of a pair."""
    return letters.count("S"), letters.count("D"), letters.count("I")


def columns(
    reference: Sequence[str], hypothesis: Sequence[str], letters: str
) -> list[tuple[str, str, str]]:
    """Operation, word of the reference and word of the hypothesis (empty where a side has none), in
    reading order.

    Raises ValueError where the operations don't fit the words.
    """
    left, right = iter(reference), iter(hypothesis)
    pairs = []
    try:
        for letter in letters:
            pairs.append(
                (letter, "" if letter == "I" else next(left), "" if letter == "D" else next(right))
            )
    except StopIteration:
        raise ValueError(f"{letters!r} asks for more words than there are") from None
    if next(left, None) is not None or next(right, None) is not None:
        raise ValueError(f"{letters!r} leaves words over")
    return pairs
