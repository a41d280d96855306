"""Tokenizers of an encoder that is trained here: characters, or subwords where the frames of the
encoder are too long for characters.

In: lower-case transcripts. Out: a tokenizer in HF form whose unit 0 is the blank of CTC. Cost:
seconds.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import ParakeetTokenizer, Wav2Vec2CTCTokenizer

from components.model.llms.segmentation import UNKNOWN, build_longest_match, write_unit

BLANK, DELIMITER = "<pad>", "|"


def build_character_tokenizer(texts: Sequence[str], folder: Path) -> Wav2Vec2CTCTokenizer:
    """A tokenizer of the characters of ``texts``: blank, word delimiter, unknown, then characters
    in order. ``vocab.json`` is written to ``folder``.
    """
    characters = sorted(set("".join(texts)) - {" "})
    units = [BLANK, DELIMITER, UNKNOWN, *characters]
    vocabulary = {unit: index for index, unit in enumerate(units)}
    path = folder / "vocab.json"
    path.write_text(json.dumps(vocabulary, ensure_ascii=False, sort_keys=True))
    return Wav2Vec2CTCTokenizer(
        str(path),
        pad_token=BLANK,
        word_delimiter_token=DELIMITER,
        unk_token=UNKNOWN,
        bos_token=None,
        eos_token=None,
    )


def build_subword_tokenizer(texts: Sequence[str], num_units: int) -> ParakeetTokenizer:
    """Byte-pair encoding of ``texts`` in ``num_units`` subwords, the blank first; a mark shows
    where a word begins.
    """
    bpe = Tokenizer(models.BPE(unk_token=UNKNOWN))
    bpe.pre_tokenizer, bpe.decoder = pre_tokenizers.Metaspace(), decoders.Metaspace()
    trainer = trainers.BpeTrainer(
        vocab_size=num_units, special_tokens=[BLANK, UNKNOWN], show_progress=False
    )
    bpe.train_from_iterator(texts, trainer)
    return ParakeetTokenizer(tokenizer_object=bpe, pad_token=BLANK, unk_token=UNKNOWN)


def build_llm_tokenizer(
    texts: Sequence[str], llm_tokenizer: Any, num_units: int
) -> tuple[ParakeetTokenizer, list[int]]:
    """A tokenizer whose units are tokens of an LLM, the blank first and an unknown unit second, and
    the token ids of the others.

    Units are the tokens of a space and of single characters of ``texts``, at the start of a word
    and within it, then the tokens that the LLM itself divides ``texts`` into, most frequent first,
    and then others of its vocabulary: ``num_units`` in all, if that has so many. A word becomes the
    longest unit that it begins with, and so on. A word with a character that no token has is
    unknown.
    """
    words = Counter(word for text in texts for word in text.split())
    pieces: dict[str, int] = {}  # of the LLM's tokens that are whole characters, by their text
    special = {*llm_tokenizer.all_special_ids, *llm_tokenizer.added_tokens_decoder}
    for index in sorted(set(range(len(llm_tokenizer))) - special):
        piece = llm_tokenizer.decode([index])
        if piece == " " or (piece.strip(" ") and piece.count(" ") == piece.startswith(" ")):
            pieces.setdefault(piece, index)
    counts: Counter[str] = Counter()
    for word, count in words.items():
        for index in llm_tokenizer(f" {word}", add_special_tokens=False).input_ids:
            counts[llm_tokenizer.decode([index])] += count
    characters = sorted(set("".join(words)))
    single = [start + character for start in (" ", "") for character in ("", *characters)]
    frequent = [piece for piece, _ in sorted(counts.items(), key=lambda item: (-item[1], item[0]))]
    candidates = dict.fromkeys([*single, *frequent, *pieces])
    chosen = [piece for piece in candidates if piece in pieces][: num_units - 2]
    tokenizer = build_longest_match([BLANK, UNKNOWN, *map(write_unit, chosen)])
    wrapped = ParakeetTokenizer(tokenizer_object=tokenizer, pad_token=BLANK, unk_token=UNKNOWN)
    return wrapped, [pieces[piece] for piece in chosen]
