"""Transcripts in the units of a CTC head over tokens of the LLM: the same tokens that the head is
trained on, and the same text back.
"""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from components.config.entries import Prompt
from components.encoder.tokenizers import build_llm_tokenizer
from components.model.llms.prompt import PromptBuilder
from components.model.llms.segmentation import Segmentation
from tests.checkpoints import tokenizer

TEXTS = ["amber birch", "cedar amber", "delta don't", "a bar bare barn"]
UNITS = 45
NO_TOKEN = 2  # blank and unknown


def head_tokens() -> tuple[object, list[int]]:
    return build_llm_tokenizer(TEXTS, tokenizer(), UNITS)


def test_targets_are_those_of_the_head() -> None:
    head, tokens = build_llm_tokenizer(TEXTS, tokenizer(), UNITS)
    builder = PromptBuilder(tokenizer(), Prompt("{speech}"), "lower", None, lambda: tokens)
    for text in TEXTS:
        units = head(text).input_ids
        assert builder.encode(text.upper()) == [tokens[unit - NO_TOKEN] for unit in units]
        assert builder.decode(builder.encode(text)) == text
    assert builder.with_context("Trees.").encode(TEXTS[0]) == builder.encode(TEXTS[0])
    assert builder.encode("") == []


@given(st.text("abcdehilmnort'", min_size=1, max_size=12))
def test_the_beginning_of_a_text_has_the_beginning_of_its_units(word: str) -> None:
    segmentation = Segmentation(tokenizer(), head_tokens()[1])
    ids = segmentation(word)
    for length in range(1, len(ids) + 1):
        begun = tokenizer().decode(ids[:length]).strip()
        if begun:
            assert segmentation(begun) == ids[:length]


def test_a_word_that_the_units_cannot_write_keeps_the_tokens_of_the_llm() -> None:
    segmentation = Segmentation(tokenizer(), head_tokens()[1])
    known, other = segmentation("amber"), segmentation("amber w7")
    assert other[: len(known)] == known
    assert other[len(known) :] == list(tokenizer()(" w7", add_special_tokens=False).input_ids)


@pytest.mark.parametrize("text", ["</s>", "amber </s>"])
def test_a_special_token_in_a_transcript_is_text(text: str, tmp_path: Path) -> None:
    builder = PromptBuilder(
        tokenizer(), Prompt("{speech}"), "lower", None, lambda: head_tokens()[1]
    )
    assert builder.eos not in builder.encode(text)
