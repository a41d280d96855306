"""Transcripts in a part of an LLM's vocabulary: each word as the longest token of that part that it
begins with, and so on.

In: text, or the tokens that a CTC head has for units. Out: token ids. A head over tokens of an LLM
is trained on this segmentation, which byte-pair encoding does not give; an LLM that writes it too
copies what it reads in the head's units. Cost: microseconds a word.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from tokenizers import Tokenizer, decoders, models, pre_tokenizers

UNKNOWN = "<unk>"
WORD_START = "\N{LOWER ONE EIGHTH BLOCK}"  # before the first unit of a word, as in SentencePiece


def build_longest_match(units: Sequence[str]) -> Tokenizer:
    """A tokenizer of these units, of which one is ``UNKNOWN``: a word with a character that is no
    unit.
    """
    vocabulary = {unit: index for index, unit in enumerate(units)}
    tokenizer = Tokenizer(
        models.WordPiece(vocabulary, unk_token=UNKNOWN, continuing_subword_prefix="")
    )
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(replacement=WORD_START)
    tokenizer.decoder = decoders.Metaspace(replacement=WORD_START)
    return tokenizer


def write_unit(piece: str) -> str:
    """The unit of a token's text: with the mark in place of a space."""
    return piece.replace(" ", WORD_START)


def read_unit(unit: str) -> str:
    """The text of a unit: what ``write_unit`` was given."""
    return unit.replace(WORD_START, " ")


class Segmentation:
    """Divides text into the tokens ``tokens`` of an LLM; a word that they can't write has those
    that the LLM's tokenizer gives it.
    """

    def __init__(self, llm_tokenizer: Any, tokens: Sequence[int]) -> None:
        self._llm_tokenizer, self._tokens = llm_tokenizer, list(tokens)
        pieces = [write_unit(llm_tokenizer.decode([token])) for token in tokens]
        self._matcher = build_longest_match([UNKNOWN, *pieces])
        self._ids_of_words: dict[str, list[int]] = {}

    def __call__(self, text: str) -> list[int]:
        """Token ids of ``text``, whose words are divided by white space."""
        return [token for word in text.split() for token in self._encode_word(word)]

    def _encode_word(self, word: str) -> list[int]:
        if word not in self._ids_of_words:
            units = self._matcher.encode(word).ids
            self._ids_of_words[word] = (
                list(
                    self._llm_tokenizer(
                        f" {word}", add_special_tokens=False, split_special_tokens=True
                    ).input_ids
                )
                if 0 in units
                else [self._tokens[unit - 1] for unit in units]
            )
        return self._ids_of_words[word]
