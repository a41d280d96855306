"""A tokenizer that comes as a SentencePiece model alone (``tokenizer.model``, as Vicuna's) → a
folder that transformers reads.

The file is a Protocol Buffers message (ModelProto of sentencepiece_model.proto,
github.com/google/sentencepiece), whose schema transformers has and the library ``protobuf`` reads
(extra ``sentencepiece``). Of it are used the pieces in their order, which is that of the merges,
and that the text is not normalised. Costs about a second for LLaMA's 32,000 pieces.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from components.config.errors import InputError

MODEL_NAME, TOKENIZER_NAME = "tokenizer.model", "tokenizer.json"


@contextmanager
def tokenizer_folder(folder: Path) -> Iterator[Path]:
    """``folder``, or, where it has a SentencePiece model alone, a temporary one with its
    descriptions and a ``tokenizer.json``.

    Raises InputError for a broken model, or one that is not byte-pair encoding as LLaMA's is.
    """
    if (folder / TOKENIZER_NAME).is_file() or not (folder / MODEL_NAME).is_file():
        yield folder
        return
    vocabulary, unmerged = read_pieces(folder / MODEL_NAME)
    with TemporaryDirectory() as name:
        for path in folder.glob("*.json"):
            shutil.copyfile(path, Path(name) / path.name)
        _write_tokenizer(vocabulary, unmerged, Path(name) / TOKENIZER_NAME)
        yield Path(name)


def read_pieces(path: Path) -> tuple[dict[str, int], set[str]]:
    """(id of each piece of a byte-pair model, those that text is never merged into); raises
    InputError for a broken file or a model of another kind.
    """
    model = _parse(path)
    pieces = [piece.piece for piece in model.pieces]
    types = {piece.type for piece in model.pieces}
    piece_types = model.SentencePiece
    normalizer = model.normalizer_spec
    is_plain = (
        model.trainer_spec.model_type == model.trainer_spec.BPE
        and piece_types.USER_DEFINED not in types
        and not normalizer.precompiled_charsmap
        and normalizer.add_dummy_prefix
    )
    if not is_plain or len(set(pieces)) < len(pieces):
        raise InputError(
            f"{path} is not a plain byte-pair model as LLaMA's is.",
            subject=str(path),
            hint=f"Put the {TOKENIZER_NAME} beside it that save_pretrained writes where "
            "sentencepiece is installed.",
        )
    unmerged = {piece.piece for piece in model.pieces if piece.type != piece_types.NORMAL}
    return {piece: index for index, piece in enumerate(pieces)}, unmerged


def _parse(path: Path) -> Any:
    """The message in a file."""
    try:
        from google.protobuf.message import DecodeError
        from transformers.utils import sentencepiece_model_pb2_new as schema
    except ImportError:
        raise InputError(
            f"{path}: a SentencePiece model is read with protobuf, which is not installed.",
            subject=str(path),
            hint="Install the extra 'sentencepiece' of this package.",
        ) from None
    model = schema.ModelProto()
    try:
        model.ParseFromString(path.read_bytes())
    except (DecodeError, UnicodeDecodeError):
        raise InputError(
            f"{path} does not read as a SentencePiece model: it is broken.",
            subject=str(path),
            hint="Fetch it anew.",
        ) from None
    return model


def _write_tokenizer(vocabulary: dict[str, int], unmerged: set[str], path: Path) -> None:
    """LLaMA's tokenizer over ``vocabulary``, as a ``tokenizer.json``."""
    from transformers import LlamaTokenizer
    from transformers.tokenization_utils_base import generate_merges

    LlamaTokenizer(
        vocab=vocabulary, merges=generate_merges(vocabulary, skip_tokens=unmerged)
    ).backend_tokenizer.save(str(path))
