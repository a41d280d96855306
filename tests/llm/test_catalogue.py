"""Every LLM of a model hub in catalogue/llm.yaml: its size is the published one, and LoRA adapts
the layers that its entry names.
"""

from __future__ import annotations

from functools import cache

import pytest
from torch import nn

from components.config import catalogue
from components.config.entries import LlmEntry
from components.model.folders.architecture import build_network, count_parameters
from tests.conftest import REPOSITORY

# Width, layers, millions of parameters. LLaMA: arXiv 2302.13971, table 2, and 2307.09288 for its
# successor, which Vicuna has the form of; BLOOM: 2211.05100, table 3; the others as the model cards
# of their publishers count them.
PUBLISHED = {
    "huggyllama/llama-7b": (4096, 32, 6_738.4),
    "huggyllama/llama-13b": (5120, 40, 13_015.9),
    "meta-llama/Llama-2-7b-hf": (4096, 32, 6_738.4),
    "meta-llama/Llama-2-7b-chat-hf": (4096, 32, 6_738.4),
    "lmsys/vicuna-7b-v1.5": (4096, 32, 6_738.4),
    "lmsys/vicuna-13b-v1.5": (5120, 40, 13_015.9),
    "TinyLlama/TinyLlama-1.1B-intermediate-step-1431k-3T": (2048, 22, 1_100.0),
    "TinyLlama/TinyLlama-1.1B-Chat-v0.4": (2048, 22, 1_100.1),
    "microsoft/phi-2": (2560, 32, 2_779.7),
    "bigscience/bloom-560m": (1024, 24, 559),
    "bigscience/bloom-1b7": (2048, 24, 1_722),
    "bigscience/bloom-7b1": (4096, 30, 7_069),
    "Qwen/Qwen2.5-0.5B-Instruct": (896, 24, 494.0),
    "Qwen/Qwen3-0.6B": (1024, 28, 596.0),
    "HuggingFaceTB/SmolLM2-135M-Instruct": (576, 30, 134.5),
    "HuggingFaceTB/SmolLM2-360M-Instruct": (960, 32, 361.8),
    "meta-llama/Llama-3.2-1B": (2048, 16, 1_235.8),
}
STORED = {"float32": 4, "float16": 2, "bfloat16": 2}


@pytest.fixture(autouse=True)
def at_home(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(REPOSITORY)


@cache
def real() -> dict[str, LlmEntry]:
    """The entries of kind ``hub`` by name."""
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(REPOSITORY)
        entries = {name: catalogue.llm(name) for name in catalogue.names("llm")}
    return {name: entry for name, entry in entries.items() if entry.source.kind == "hub"}


@cache
def network(name: str) -> nn.Module:
    return build_network(real()[name].source.shape, causal=True)


@pytest.mark.parametrize("name", real())
def test_the_shape_is_that_of_the_published_checkpoint(name: str) -> None:
    source = real()[name].source
    width, layers, millions = PUBLISHED[source.repo]
    config = network(name).config
    assert (config.hidden_size, config.num_hidden_layers) == (width, layers)
    assert count_parameters(network(name)) == pytest.approx(millions * 1e6, rel=0.02)
    assert source.shape.get("torch_dtype") in STORED
    assert not source.gigabytes, "its weights are all that is fetched"


@pytest.mark.parametrize("name", real())
def test_lora_adapts_the_attention_of_every_layer_and_nothing_else(name: str) -> None:
    targets, layers = real()[name].lora.targets, network(name).config.num_hidden_layers
    for target in targets:
        adapted = {
            path: module
            for path, module in network(name).named_modules()
            if path.rpartition(".")[2] == target
        }
        assert len(adapted) == layers, f"{target} is in {len(adapted)} of {layers} layers"
        for path, module in adapted.items():
            assert isinstance(module, nn.Linear)
            # SpeechBrain's recipe adapts every linear layer.
            assert (
                "attn" in path
                or "attention" in path
                or ("mlp" in path and name.endswith("-speechbrain"))
            )
