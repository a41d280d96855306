"""Every entry of catalogue/encoder.yaml: typed, of a known kind, fetched whole, and run as its family asks."""

from __future__ import annotations

import re
from collections.abc import Iterator

import pytest

from components.config import catalogue
from components.config.catalogue import EncoderSource
from components.config.params import read_params
from tests.conftest import REPOSITORY

# The encoders of the papers, and those trained or written here.
WANTED = {
    "ctc-tiny", "ctc-smoke", "conformer-ctc", "conformer-ctc-tiny", "fbank",
    "whisper-tiny", "whisper-base", "whisper-small", "whisper-medium", "whisper-large-v2", "whisper-large-v3", "whisper-large-v2-ast",
    "qwen-audio", "hubert-base", "hubert-large", "hubert-large-ls960-ft", "hubert-xlarge", "hubert-xlarge-ls960-ft",
    "wav2vec2-base-960h", "wav2vec2-large-960h-lv60-self", "wavlm-base", "wavlm-base-plus", "wavlm-large",
}  # fmt: skip
GROUP_NORM = {"hubert-base", "wav2vec2-base-960h", "wavlm-base", "wavlm-base-plus"}
WITH_CTC = {"hubert-large-ls960-ft", "hubert-xlarge-ls960-ft", "wav2vec2-base-960h", "wav2vec2-large-960h-lv60-self"}


@pytest.fixture(autouse=True)
def at_home(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(REPOSITORY)


def names() -> list[str]:
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(REPOSITORY)
        return catalogue.names("encoder")


def sources(source: EncoderSource) -> Iterator[EncoderSource]:
    """A source and those that it joins."""
    yield source
    for part in source.parts.values():
        yield from sources(part)


def test_the_encoders_of_the_papers_have_a_name() -> None:
    assert set(names()) >= WANTED
    assert read_params().encoder in names()


@pytest.mark.parametrize("name", names())
def test_an_entry_is_typed_and_says_what_it_is(name: str) -> None:
    assert re.fullmatch(r"[a-z0-9-]+", name), "DVC takes no dots"
    entry = catalogue.encoder(name)
    assert entry.card.get("notes") or name == "ctc-smoke"
    assert entry.numerics.batching == ("equal-length" if name in GROUP_NORM else "padded")
    for source in sources(entry.source):
        if source.kind == "hub":
            assert re.fullmatch(r"[\w.-]+/[\w.-]+", source.repo)
            assert re.fullmatch(r"[0-9a-f]{40}|", source.revision)
            assert source.revision or "not pinned" in entry.card["notes"]


@pytest.mark.parametrize("name", names())
def test_what_is_fetched_is_a_whole_checkpoint(name: str) -> None:
    for source in sources(catalogue.encoder(name).source):
        if source.kind == "hub":
            assert len(set(source.files)) == len(source.files)
            assert "config.json" in source.files
            assert any(file.endswith((".safetensors", ".bin")) for file in source.files)
            assert not any(file.endswith((".py", ".h5", ".msgpack")) for file in source.files)
            assert ("preprocessor_config.json" in source.files) == (name != "qwen-audio")  # the extractor of that one is made here
            assert name not in WITH_CTC or {"vocab.json", "tokenizer_config.json"} <= set(source.files)
