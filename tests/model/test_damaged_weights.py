"""Checkpoints that can't be used are refused by the stage that takes them, not hours later."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from components.config.model_sources import EncoderSource
from components.config.schema import parse_as
from components.model import lora
from components.model.encoders.encoder import SpeechEncoder
from components.model.folders.folder import cache_checkpoint
from components.model.llms.causal import load_llm
from tests.checkpoints import save_encoder, save_llm
from tests.errors import refused

POINTER = b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a2146\nsize 290403936\n"
WEIGHTS = "model.safetensors"


def source(folder: str = "mine") -> Any:
    return parse_as(EncoderSource, {"kind": "folder", "folder": folder}, "entry")


@pytest.fixture
def encoder(work: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A local checkpoint of an encoder, which the stage takes as it is."""
    monkeypatch.setenv("LIBRETTO_MODELS", str(tmp_path))
    folder = save_encoder(tmp_path / "mine", "whisper")
    (folder / "inputs.json").unlink()
    return folder


def cut(path: Path) -> None:
    os.truncate(path, path.stat().st_size - 100)


def put_pointer(path: Path) -> None:
    path.write_bytes(POINTER)


def lengthen_header(path: Path) -> None:
    path.write_bytes((2**62).to_bytes(8, "little") + path.read_bytes()[8:])


def enlarge_tensor(path: Path) -> None:
    """The header tells of a tensor that is larger than the file."""
    data = path.read_bytes()
    length = int.from_bytes(data[:8], "little")
    header = json.loads(data[8 : 8 + length])
    name = next(name for name in header if name != "__metadata__")
    header[name]["shape"] = [10**12]
    text = json.dumps(header).encode()
    path.write_bytes(len(text).to_bytes(8, "little") + text + data[8 + length :])


@pytest.mark.parametrize("damage", [cut, put_pointer, lengthen_header, enlarge_tensor])
def test_weights_are_opened_when_they_are_taken(
    damage: Callable[[Path], None], encoder: Path
) -> None:
    intact = (encoder / WEIGHTS).read_bytes()
    damage(encoder / WEIGHTS)
    with refused(None, WEIGHTS, "encoder 'mine'"):
        cache_checkpoint("encoder", "mine", source())
    (encoder / WEIGHTS).write_bytes(intact)
    assert SpeechEncoder(cache_checkpoint("encoder", "mine", source())).width


@pytest.mark.parametrize("value", [math.nan, math.inf])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_values_that_are_no_numbers_are_refused_with_the_tensor(
    value: float, dtype: torch.dtype, encoder: Path
) -> None:
    tensors = {name: tensor.to(dtype) for name, tensor in load_file(encoder / WEIGHTS).items()}
    name = sorted(tensors)[7]
    tensors[name].flatten()[-1] = value
    save_file(tensors, encoder / WEIGHTS, metadata={"format": "pt"})
    with refused(name, WEIGHTS):
        cache_checkpoint("encoder", "mine", source())


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("encoder_layers", 10**9),
        ("encoder_layers", 10**400),
        ("encoder_layers", -1),
        ("d_model", math.nan),
        ("vocab_size", 10**12),
    ],
)
def test_sizes_that_no_network_has_are_refused_at_once(
    key: str, value: float, encoder: Path
) -> None:
    config = json.loads((encoder / "config.json").read_text())
    assert key in config
    (encoder / "config.json").write_text(json.dumps({**config, key: value}))
    with refused(key, "config.json"):
        cache_checkpoint("encoder", "mine", source())
    with refused(key, "config.json"):  # of a folder that somebody sent
        SpeechEncoder(encoder)
    with refused(f"shape.{key}", "entry"):
        parse_as(EncoderSource, {"kind": "folder", "folder": "a", "shape": {key: value}}, "entry")


def test_an_llm_of_absurd_size_is_refused_at_once(tmp_path: Path) -> None:
    folder = save_llm(tmp_path / "llm", "llama")
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "num_hidden_layers": 10**9}))
    with refused("num_hidden_layers", "config.json"):
        load_llm(folder, "float32", "cpu")


def test_a_damaged_tokenizer_is_refused(tmp_path: Path) -> None:
    folder = save_llm(tmp_path / "llm", "llama")
    cut(folder / "tokenizer.json")
    with refused(str(folder)):
        load_llm(folder, "float32", "cpu")


@pytest.mark.parametrize(
    "changes",
    [
        {"r": 10**9},
        {"r": None},
        {"target_modules": "(.*.*)*q_proj"},
        {"rank_pattern": {"(a+)+b": 8}},
        {"lora_alpha": "many"},
    ],
)
def test_an_adapter_of_another_form_is_refused_at_once(
    changes: dict[str, Any], tmp_path: Path
) -> None:
    llm, _ = load_llm(save_llm(tmp_path / "llm", "llama"), "float32", "cpu")
    wrapper = lora.add_adapter(llm, ["q_proj"], 4, 4, 0.0, seed=1)
    lora.write_adapter(wrapper, tmp_path / "adapter")
    path = tmp_path / "adapter" / lora.ADAPTER_SETTINGS
    settings = json.loads(path.read_text())
    path.write_text(json.dumps({**settings, **changes}))
    llm, _ = load_llm(tmp_path / "llm", "float32", "cpu")
    with refused(str(tmp_path / "adapter")):
        lora.read_adapter(llm, tmp_path / "adapter")
    path.write_text(json.dumps(settings))
    assert lora.read_adapter(llm, tmp_path / "adapter")
