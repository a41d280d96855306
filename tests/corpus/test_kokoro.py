"""Prose by a neural synthesiser: what it is given to say and by whom, and that people's words come
out.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import soundfile

from components.config import catalogue
from components.config.errors import TransientError
from components.corpus.generation.espeak import Espeak
from components.corpus.generation.grammar import split_of
from components.corpus.generation.kokoro import write_phonemes
from components.corpus.generation.prose import transcribe_prose
from components.corpus.source import build_source
from components.corpus.sources.kokoro import KokoroSource
from components.model.folders.folder import cache_checkpoint
from components.text.wer import compute_wer
from tests.conftest import REPOSITORY
from tests.corpus.generated import generate
from tests.errors import refused

WHISPER = "whisper-tiny-en-package"

SETTINGS: dict[str, Any] = {
    "kind": "kokoro",
    "split": "train",
    "utterances": 3,
    "seed": 1,
    "voices": 20,
    "speed": [0.9, 1.1],
    "tempo": [1.0],
    "margin_seconds": [0.1, 0.2],
    "floor_db": [-70, -60],
}


def kokoro(role: str = "train", **changed: Any) -> KokoroSource:
    source = build_source("voices", role, {**SETTINGS, "split": role, **changed})
    assert isinstance(source, KokoroSource)
    return source


@pytest.mark.parametrize(
    ("text", "accent", "phonemes"),
    [
        ("Hello, world!", "en-us", "həlˈO, wˈɜɹld!"),
        ("Now they judge; my boy chose.", "en-us", "nˈW ðA ʤˈʌʤ; mI bˈY ʧˈOz."),
        ("The bath", "en-us", "ðə bˈæθ"),
        ("The bath", "en-gb-x-rp", "ðə bˈɑθ"),
    ],
)
def test_phonemes_are_in_the_notation_of_the_model(text: str, accent: str, phonemes: str) -> None:
    assert write_phonemes(text, accent, Espeak()) == phonemes


def test_plans_of_the_splits_share_neither_sentences_nor_voices() -> None:
    plans = {
        role: kokoro(role, utterances=200)._plan_utterances() for role in ("train", "dev", "test")
    }
    for role, planned in plans.items():
        assert len({plan.text for plan in planned}) == 200
        assert all(split_of(transcribe_prose(plan.text)) == role for plan in planned)
        assert len({plan.speaker for plan in planned}) == 20
        for plan in planned:
            assert sum(plan.timbre) == pytest.approx(1) and sum(plan.prosody) == pytest.approx(1)
    voices = [{tuple(plan.timbre) for plan in planned} for planned in plans.values()]
    assert len(set.union(*voices)) == 60
    again = kokoro("dev", utterances=50)._plan_utterances()
    assert again == plans["dev"][:50], "more utterances leave the earlier ones as they are"


def test_a_split_has_no_more_sentences_than_the_prose() -> None:
    with refused("voices", "9999"):
        kokoro("dev", utterances=9999).list_utterances()


@pytest.mark.slow
def test_what_it_says_is_understood(
    work: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The real model from the package index, heard by Whisper; skipped where there is none."""
    from components.decode.whisper import WhisperDecoder

    monkeypatch.chdir(REPOSITORY)
    generate("voices", {**SETTINGS, "utterances": 4})
    source = kokoro(utterances=4)
    rows, rejects = source.list_utterances()
    try:
        encoder = cache_checkpoint("encoder", "whisper", catalogue.encoder(WHISPER).source)
    except TransientError as error:
        pytest.skip(f"no package index: {error}")
    assert not rejects and len({row.speaker for row in rows}) > 1
    sounds = [soundfile.read(source.locate(row.path), dtype="float32")[0] for row in rows]
    texts = WhisperDecoder(encoder, "cpu")(sounds)
    # 12 to 15 % of words with the voices as they are
    assert compute_wer([row.text for row in rows], texts, "whisper", ["en"] * len(rows)) < 0.3

    def generate_one() -> bytes:
        generate("voices", {**SETTINGS, "utterances": 1})
        one = kokoro(utterances=1)
        return one.locate(one.list_utterances()[0][0].path).read_bytes()

    data = generate_one()
    monkeypatch.setenv("LIBRETTO_WORK", str(tmp_path / "other"))
    assert generate_one() == data
