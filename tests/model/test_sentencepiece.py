"""A SentencePiece model alone: its tokens by the algorithm, and what is refused."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from components.model.llms.causal import load_tokenizer
from tests.checkpoints import TEXTS, save_tokenizer, sentencepiece_model, sentencepiece_pieces
from tests.errors import refused

# With pieces over which the order of the merges decides, and the halves of a control token.
PIECES = list(
    dict.fromkeys(
        [
            *sentencepiece_pieces(),
            "s",
            "/",
            "<",
            ">",
            "ba",
            "ab",
            "aba",
            "ar",
            "rab",
            "bab",
            "</",
            "s>",
            "</s",
        ]
    )
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("units")
    save_tokenizer(place, "sentencepiece")
    (place / "tokenizer.model").write_bytes(sentencepiece_model(PIECES))
    return place


def merged(text: str) -> list[str]:
    """SentencePiece's byte-pair algorithm: of all neighbours the pair that makes the earliest piece
    is joined, the leftmost first, until none is left; a character that is no piece becomes its
    bytes.
    """
    parts = list("▁" + text.replace(" ", "▁"))
    normal = {piece: place for place, piece in enumerate(PIECES) if place >= 259}
    while pairs := [
        (normal[one + other], place)
        for place, (one, other) in enumerate(pairwise(parts))
        if one + other in normal
    ]:
        place = min(pairs)[1]
        parts[place : place + 2] = [parts[place] + parts[place + 1]]
    return [
        unit
        for part in parts
        for unit in ([part] if part in normal else [f"<0x{byte:02X}>" for byte in part.encode()])
    ]


SAID = [*TEXTS, "amb", "grove", "ü", "四", "</s>", "<s>", ",", "it 's", "abab", "barab", "aabbab"]


@given(text=st.lists(st.sampled_from(SAID), min_size=1, max_size=6))
def test_tokens_are_those_of_the_algorithm(text: list[str], folder: Path) -> None:
    units = read(folder)
    joined = " ".join(text)
    ids = units(joined, add_special_tokens=False, split_special_tokens=True).input_ids
    assert units.convert_ids_to_tokens(ids) == merged(joined)
    assert units.decode(ids, skip_special_tokens=True) == joined


READ: dict[Path, object] = {}


def read(folder: Path) -> object:
    return READ.setdefault(folder, load_tokenizer(folder))


def test_control_tokens_stand_where_the_model_says(folder: Path) -> None:
    units = load_tokenizer(folder)
    assert (units.unk_token_id, units.bos_token_id, units.eos_token_id, units.pad_token_id) == (
        0,
        1,
        2,
        0,
    )
    assert len(units) == len(PIECES)
    assert units("</s>", add_special_tokens=False).input_ids == [2]
    assert {path.name for path in folder.iterdir()} == {
        "tokenizer.model",
        "tokenizer_config.json",
    }, "the folder is left as it is"
    assert units.name_or_path == str(folder)


def test_a_tokenizer_json_goes_first(folder: Path, tmp_path: Path) -> None:
    load_tokenizer(folder).save_pretrained(tmp_path)
    (tmp_path / "tokenizer.model").write_bytes(b"not looked at")
    assert load_tokenizer(tmp_path)("amber").input_ids == load_tokenizer(folder)("amber").input_ids


@pytest.mark.parametrize(
    "data",
    [
        sentencepiece_model(PIECES, model_type=1),
        sentencepiece_model(PIECES, normalizer=b"\x12\x03map"),
        sentencepiece_model(PIECES, normalizer=b"\x18\x00"),
        sentencepiece_model([*PIECES, PIECES[-1]]),
        sentencepiece_model(PIECES).replace(b"\x18\x06", b"\x18\x04", 1),
    ],
    ids=["unigram", "normalised", "no prefix", "twice", "user-defined"],
)
def test_a_model_of_another_kind_is_refused(data: bytes, tmp_path: Path) -> None:
    (tmp_path / "tokenizer.model").write_bytes(data)
    with refused(None, "tokenizer.model", "tokenizer.json"):
        load_tokenizer(tmp_path)


@pytest.mark.parametrize("cut", [1, 2, 7, 30, -3])
def test_a_broken_file_is_refused(cut: int, tmp_path: Path) -> None:
    (tmp_path / "tokenizer.model").write_bytes(sentencepiece_model(PIECES)[:cut])
    with refused(None, "tokenizer.model"):
        load_tokenizer(tmp_path)
