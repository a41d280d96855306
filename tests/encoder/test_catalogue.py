"""Every entry of catalogue/encoder.yaml: typed, of a known kind, complete, of the published size,
and batched as its family requires.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from functools import cache
from typing import Any

import pytest
import torch
import yaml
from transformers import WhisperConfig
from transformers.models.whisper.modeling_whisper import WhisperEncoder

from components.config import catalogue
from components.config.entries import EncoderEntry
from components.config.model_sources import EncoderSource, parts_of, shape_of
from components.config.params import read_params
from components.config.schema import parse_as
from components.model.folders.architecture import build_network, count_parameters
from components.model.folders.folder import DTYPE_KEYS
from components.model.folders.qwen_audio import whisper_shape
from tests.conftest import REPOSITORY

# The encoders of the papers, and those trained or written here.
EXPECTED = {
    "ctc-tiny",
    "ctc-smoke",
    "conformer-ctc",
    "conformer-ctc-tiny",
    "parakeet-ctc-0-6b",
    "parakeet-ctc-1-1b",
    "fbank",
    "whisper-tiny",
    "whisper-base",
    "whisper-small",
    "whisper-medium",
    "whisper-large-v2",
    "whisper-large-v3",
    "whisper-large-v2-ast",
    "qwen-audio",
    "hubert-base",
    "hubert-large",
    "hubert-large-ls960-ft",
    "hubert-xlarge",
    "hubert-xlarge-ls960-ft",
    "wav2vec2-base-960h",
    "wav2vec2-large-960h-lv60-self",
    "wavlm-base",
    "wavlm-base-plus",
    "wavlm-large",
}
# Of each hub checkpoint: width, layers, millions of parameters. Those of Whisper (without decoder
# and positions), HuBERT and WavLM are in SLAM-ASR's table 4 (arXiv 2402.08846), wav2vec 2.0's in
# 2006.11477, section 4.2, Qwen-Audio's in 2311.07919, section 3; AST has the form of DeiT-base,
# 2012.12877, table 1. Parakeet's are the sizes of its published files, 2.44 and 4.25 GB.
PUBLISHED = {
    "openai/whisper-tiny": (384, 4, 7.63),
    "openai/whisper-tiny.en": (384, 4, 7.63),  # as tiny: only the decoder's vocabulary differs
    "openai/whisper-base": (512, 6, 19.82),
    "openai/whisper-small": (768, 12, 87),
    "openai/whisper-medium": (1024, 24, 305.68),
    "openai/whisper-large-v2": (1280, 32, 634.86),
    "openai/whisper-large-v3": (1280, 32, 634.86),
    "Qwen/Qwen-Audio": (1280, 32, 640),
    "MIT/ast-finetuned-audioset-10-10-0.4593": (768, 12, 86),
    "facebook/hubert-base-ls960": (768, 12, 94.7),
    "facebook/hubert-large-ll60k": (1024, 24, 316.61),
    "facebook/hubert-large-ls960-ft": (1024, 24, 316.61),
    "facebook/hubert-xlarge-ll60k": (1280, 48, 964.32),
    "facebook/hubert-xlarge-ls960-ft": (1280, 48, 964.32),
    "facebook/wav2vec2-base-960h": (768, 12, 95),
    "facebook/wav2vec2-large-960h-lv60-self": (1024, 24, 317),
    "microsoft/wavlm-base": (768, 12, 94.38),
    "microsoft/wavlm-base-plus": (768, 12, 94.38),
    "microsoft/wavlm-large": (1024, 24, 315.45),
    "nvidia/parakeet-ctc-0.6b": (1024, 24, 609),
    "nvidia/parakeet-ctc-1.1b": (1024, 42, 1062),
}
# Bytes of some files of weights as published, with their headers.
WEIGHTS = {
    "openai/whisper-medium": 3_055_544_304,
    "openai/whisper-large-v2": 6_173_370_152,
    "facebook/hubert-base-ls960": 377_569_754,
    "facebook/wav2vec2-base-960h": 377_607_901,
}
BYTES = {"float32": 4, "float16": 2, "bfloat16": 2}
WITH_CTC = {
    "hubert-large-ls960-ft",
    "hubert-xlarge-ls960-ft",
    "wav2vec2-base-960h",
    "wav2vec2-large-960h-lv60-self",
    "parakeet-ctc-0-6b",
    "parakeet-ctc-1-1b",
}


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
    for part in parts_of(source)[1:]:
        yield from sources(part)


@cache
def hub_sources() -> dict[str, EncoderSource]:
    """Every hub source of the catalogue, parts of joined ones too, by its repository."""
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(REPOSITORY)
        all_sources = [
            source
            for name in catalogue.names("encoder")
            for source in sources(catalogue.encoder(name).source)
        ]
    return {source.repo: source for source in all_sources if source.kind == "hub"}


def encoder_of(source: EncoderSource) -> Any:
    """The encoder without weights: of Qwen-Audio its audio encoder, of Whisper its encoder."""
    shape = shape_of(source)
    if "audio" in shape:
        with torch.device("meta"):
            return WhisperEncoder(WhisperConfig(**whisper_shape(shape["audio"])))
    network = build_network(shape)
    return network.get_encoder() if shape["model_type"] == "whisper" else network


def test_the_encoders_of_the_papers_have_a_name() -> None:
    assert set(names()) >= EXPECTED
    assert read_params().encoder in names()


@pytest.mark.parametrize("name", names())
def test_an_entry_is_typed_and_documented(name: str) -> None:
    assert re.fullmatch(r"[a-z0-9-]+", name), "DVC takes no dots"
    entry = catalogue.encoder(name)
    assert entry.card.get("notes") or name == "ctc-smoke"
    for source in sources(entry.source):
        if source.kind == "hub":
            # Group norm over time would count padding as sound.
            assert entry.numerics.batching == (
                "equal-length" if source.shape.get("feat_extract_norm") == "group" else "padded"
            )
            assert re.fullmatch(r"[\w.-]+/[\w.-]+", source.repo)
            assert re.fullmatch(r"[0-9a-f]{40}|", source.revision)
            assert source.revision or "not pinned" in entry.card["notes"]


@pytest.mark.parametrize("name", names())
def test_the_files_of_a_source_are_a_complete_checkpoint(name: str) -> None:
    for source in sources(catalogue.encoder(name).source):
        if source.kind == "hub":
            assert len(set(source.files)) == len(source.files)
            assert "config.json" in source.files
            assert any(file.endswith((".safetensors", ".bin")) for file in source.files)
            assert not any(file.endswith((".py", ".h5", ".msgpack")) for file in source.files)
            # The extractor of Qwen-Audio is written here.
            assert ("preprocessor_config.json" in source.files) == (name != "qwen-audio")
            units = {"tokenizer.json" if "parakeet" in name else "vocab.json"}
            assert name not in WITH_CTC or units | {"tokenizer_config.json"} <= set(source.files)


@pytest.mark.parametrize("repo", sorted(hub_sources()))
def test_the_shape_is_that_of_the_published_checkpoint(repo: str) -> None:
    source, (width, layers, millions) = hub_sources()[repo], PUBLISHED[repo]
    encoder = encoder_of(source)
    config = getattr(encoder.config, "encoder_config", encoder.config)  # below a CTC head
    assert (config.hidden_size, config.num_hidden_layers) == (width, layers)
    # Whisper's positions are not trained.
    fixed = 1500 * width if encoder.config.model_type == "whisper" else 0
    assert count_parameters(encoder) - fixed == pytest.approx(millions * 1e6, rel=0.02)
    assert source.shape.get("torch_dtype") in BYTES
    with_head = {catalogue.encoder(name).source.repo for name in WITH_CTC}
    assert (repo in with_head) == any(
        name.startswith(("lm_head.", "ctc_head.")) for name, _ in encoder.named_parameters()
    )


@pytest.mark.parametrize("repo", WEIGHTS)
def test_the_shape_has_the_size_of_the_published_weights(repo: str) -> None:
    shape = hub_sources()[repo].shape
    assert count_parameters(build_network(shape)) * BYTES[shape["torch_dtype"]] == pytest.approx(
        WEIGHTS[repo], rel=1e-3
    )


@pytest.mark.parametrize("repo", sorted(hub_sources()))
def test_gigabytes_are_stated_where_the_shape_does_not_give_them(repo: str) -> None:
    """More is fetched than the shape describes where an LLM follows: in Qwen-Audio."""
    source = hub_sources()[repo]
    assert bool(source.gigabytes) == (repo == "Qwen/Qwen-Audio")
    assert [key for key in source.shape if key in DTYPE_KEYS] == ["torch_dtype"]


def test_the_documented_entry_of_a_local_encoder_is_complete() -> None:
    lines = re.search(
        r"```yaml\n(my-encoder:.*?)```",
        (REPOSITORY / "docs/guide/encoders.md").read_text(),
        re.DOTALL,
    )
    assert lines, "docs/guide/encoders.md has no entry to copy"
    assert len(lines[1].splitlines()) == 4
    assert (
        parse_as(EncoderEntry, yaml.safe_load(lines[1])["my-encoder"], "encoders.md").source.kind
        == "folder"
    )
