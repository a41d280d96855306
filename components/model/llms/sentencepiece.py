"""A tokenizer that comes as a SentencePiece model alone (``tokenizer.model``, as Vicuna's) → a
folder that transformers reads.

transformers wants two more libraries to read such a file. It is a Protocol Buffers message
(ModelProto of sentencepiece_model.proto, github.com/google/sentencepiece), of which little is
needed: the pieces in their order, which is that of the merges, and that the text is not normalised.
Costs about a second for LLaMA's 32,000 pieces.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from components.config.errors import InputError

SOURCE, WANTED = "tokenizer.model", "tokenizer.json"
PIECE, TRAINER, NORMALIZER = 1, 2, 3  # fields of ModelProto
TEXT, KIND = 1, 3  # fields of a piece: its text, its type
NORMAL, USER_DEFINED = 1, 4  # types; the others are control tokens, bytes and the unknown
MODEL_TYPE, BPE = 3, 2  # field of the trainer's specification; its value
CHARACTER_MAP, DUMMY_PREFIX = 2, 3  # fields of the normaliser's specification


@contextmanager
def readable(folder: Path) -> Iterator[Path]:
    """``folder``, or, where it holds a SentencePiece model alone, its descriptions with a
    ``tokenizer.json`` beside them.
    """
    if (folder / WANTED).is_file() or not (folder / SOURCE).is_file():
        yield folder
        return
    vocabulary, apart = pieces(folder / SOURCE)
    with TemporaryDirectory() as name:
        for path in folder.glob("*.json"):
            shutil.copyfile(path, Path(name) / path.name)
        _write(vocabulary, apart, Path(name) / WANTED)
        yield Path(name)


def pieces(path: Path) -> tuple[dict[str, int], set[str]]:
    """(id of each piece of a byte-pair model, those that text is never merged into); raises
    InputError for a broken file or a model of another kind.
    """
    found: list[str] = []
    apart: set[str] = set()
    byte_pair, other = False, False
    try:
        for number, value in _fields(path.read_bytes()):
            if number == PIECE:
                piece = _message(value)
                found.append(piece[TEXT].decode())
                kind = piece.get(KIND, NORMAL)
                apart |= {found[-1]} if kind != NORMAL else set()
                other |= kind == USER_DEFINED
            elif number == TRAINER:
                byte_pair = _message(value).get(MODEL_TYPE) == BPE
            elif number == NORMALIZER:
                rules = _message(value)
                other |= bool(rules.get(CHARACTER_MAP)) or rules.get(DUMMY_PREFIX) == 0
    except (AttributeError, IndexError, KeyError, ValueError):
        raise InputError(
            f"{path} does not read as a SentencePiece model: it is broken.",
            subject=str(path),
            hint="Fetch it anew.",
        ) from None
    if other or not byte_pair or len(set(found)) < len(found):
        raise InputError(
            f"{path} is not a plain byte-pair model as LLaMA's is.",
            subject=str(path),
            hint=(
                f"Put the {WANTED} beside it that save_pretrained writes where "
                "sentencepiece is installed."
            ),
        )
    return {piece: place for place, piece in enumerate(found)}, apart


def _write(vocabulary: dict[str, int], apart: set[str], path: Path) -> None:
    """LLaMA's tokenizer over ``vocabulary``, as a ``tokenizer.json``."""
    from transformers import LlamaTokenizer
    from transformers.tokenization_utils_base import generate_merges

    LlamaTokenizer(
        vocab=vocabulary, merges=generate_merges(vocabulary, skip_tokens=apart)
    ).backend_tokenizer.save(str(path))


def _message(value: Any) -> dict[int, Any]:
    """Fields of a message inside another by their numbers; the last where one is repeated."""
    if not isinstance(value, bytes):
        raise ValueError("a number stands where a message is due")
    return dict(_fields(value))


def _fields(data: bytes) -> Iterator[tuple[int, Any]]:
    """(number, value) of each field of a message: an integer, or the bytes of whatever else it
    holds.
    """
    place = 0
    while place < len(data):
        tag, place = _varint(data, place)
        number, wire = tag >> 3, tag & 7
        if wire == 0:
            value, place = _varint(data, place)
            yield number, value
            continue
        length = {1: 8, 5: 4}.get(wire, -1)
        if wire == 2:
            length, place = _varint(data, place)
        if length < 0 or place + length > len(data):
            raise ValueError(f"field {number} at byte {place}")
        yield number, data[place : place + length]
        place += length


def _varint(data: bytes, place: int) -> tuple[int, int]:
    """The integer that starts at ``place``, seven bits a byte and the lowest first, and the place
    after it.
    """
    value = shift = 0
    while True:
        byte = data[place]
        value, shift, place = value | (byte & 0x7F) << shift, shift + 7, place + 1
        if byte < 0x80:
            return value, place
