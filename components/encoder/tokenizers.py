"""Tokenizers of an encoder that is trained here: characters, or subwords where the frames of the
encoder are too long for characters.

In: lower-case transcripts. Out: a tokenizer in HF form whose unit 0 is the blank of CTC. Cost:
seconds.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import ParakeetTokenizer, Wav2Vec2CTCTokenizer

BLANK, DELIMITER, UNKNOWN = "<pad>", "|", "<unk>"


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
