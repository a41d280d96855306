"""A training that starts from a trained bridge: its weights are there at the first step, and one
that does not fit is refused.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from components.config import catalogue
from components.config.params import read_params
from components.config.projector import parse_projector
from components.model.model_folder import read_model_config
from components.runtime.artifact import read_record
from components.train.warm_start import StartedModel, check_start, find_start
from tests import world as tones
from tests.errors import refused
from tests.train.test_released import HIDDEN, LLM_WIDTH, STACK, release

BRIDGE = Path("models/bridge")
ADAPTER = "lora/adapter_model.safetensors"


@pytest.fixture
def models(world: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The folder that ``train.start`` counts from; the bridge of the world is in it as ``first``,
    trained with LoRA, and as an exported model.
    """
    folder = tmp_path / "starts"
    monkeypatch.setenv("LIBRETTO_MODELS", str(folder))
    tones.run("train")
    shutil.copytree(BRIDGE, folder / "first")
    shutil.copytree(BRIDGE, folder / "exported/bridge")
    yield folder


def start(name: str | None, rate: float = 1e-12) -> None:
    """Trains one stage of one step from that start, by default at a rate that changes nothing."""
    stage = read_params().raw["train"]["curriculum"][-1]
    one = {**stage, "steps": 1, "warmup": 0, "learning_rate": rate, "nonspeech_share": 0.0}
    tones.change("params.yaml", {"train.curriculum": [one], "train.start": name})
    tones.change("params.yaml", {"train.lora.learning_rate": rate})
    tones.run("train")


@pytest.mark.parametrize("name", ["first", "exported"])
def test_projector_matching_head_and_lora_are_those_of_the_start(name: str, models: Path) -> None:
    """Also of the one that a model folder has beside its base checkpoints."""
    start(name)
    for file in ("projector.safetensors", "matching.safetensors", ADAPTER):
        before, after = load_file(models / "first" / file), load_file(BRIDGE / file)
        assert before.keys() == after.keys()
        for key, tensor in before.items():
            torch.testing.assert_close(after[key], tensor, rtol=0, atol=1e-9)
    assert read_record(BRIDGE)["inputs"]["start"]["projector.safetensors"]


def test_other_weights_of_one_name_are_another_training(models: Path) -> None:
    start("first", rate=0.01)
    first = load_file(BRIDGE / "projector.safetensors")
    shutil.rmtree(models / "first")
    shutil.copytree(BRIDGE, models / "first")
    start("first", rate=0.01)
    second = load_file(BRIDGE / "projector.safetensors")
    assert any(not torch.equal(first[key], second[key]) for key in first)


@pytest.mark.parametrize(
    ("key", "value"),
    [("rank", 3), ("alpha", 9), ("dropout", 0.5), ("targets", ["q_proj"])],
)
def test_lora_of_another_kind_is_refused(key: str, value: object, models: Path) -> None:
    tones.change("params.yaml", {f"train.lora.{key}": value})
    with refused("train.start", str(value)):
        start("first")


def test_a_released_projector_is_trained_on(models: Path) -> None:
    tensors = release(models / "released/model.pt")
    entry = {"kind": "linear", "stack": STACK, "hidden": HIDDEN}
    tones.change("catalogue/projector.yaml", {"small": entry})
    start("released/model.pt")
    weights = load_file(BRIDGE / "projector.safetensors")
    for key, tensor in tensors.items():
        torch.testing.assert_close(weights[key], tensor.float(), rtol=0, atol=1e-9)


def test_a_start_that_is_not_there_is_refused(models: Path) -> None:
    with refused("train.start", "second"):
        start("second")


@pytest.mark.parametrize(
    ("field", "value"),
    [("encoder_width", 11), ("vocabulary_size", 11), ("text_case", "as-is")],
)
def test_a_start_for_another_network_is_refused(field: str, value: int | str, models: Path) -> None:
    """Before any frame is computed: the plan makes the same check."""
    path = models / "first/config.json"
    config = json.loads(path.read_text())
    assert config[field] != value
    path.write_text(json.dumps({**config, field: value}))
    with refused("train.start", str(value)):
        start("first")


@pytest.mark.parametrize("name", ["first", "released/model.pt"])
def test_a_start_for_an_llm_of_another_width_is_refused_by_the_plan(
    name: str, models: Path
) -> None:
    """The vocabulary is the same, as that of TinyLlama and of LLaMA-7B."""
    projector = read_model_config(BRIDGE).projector
    if name != "first":
        projector = parse_projector({"kind": "linear", "stack": STACK, "hidden": HIDDEN}, name)
        release(models / name)
    config = read_model_config(models / "first")
    width, size = config.encoder_width, config.vocabulary_size
    own = StartedModel(projector, width, LLM_WIDTH, size, config.text_case)
    check_start(find_start(name), own)
    with refused(None, str(2 * LLM_WIDTH)):
        check_start(find_start(name), replace(own, llm_width=2 * LLM_WIDTH))


def test_a_start_of_another_projector_is_refused(models: Path) -> None:
    tones.change("catalogue/projector.yaml", {"small.hidden": 7})
    with refused("train.start", "hidden=7"):
        start("first")


def test_lora_of_another_llm_is_refused(models: Path) -> None:
    path = models / "first/config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "llm": "another"}))
    with refused("train.start", "another"):
        start("first")
    shutil.rmtree(models / "first/lora")
    start("first")


def test_a_folder_of_an_earlier_version_does_not_say_its_vocabulary(models: Path) -> None:
    path = models / "first/config.json"
    config = json.loads(path.read_text())
    del config["vocabulary_size"]
    path.write_text(json.dumps(config))
    projector = catalogue.projector("small")
    model = StartedModel(projector, config["encoder_width"], LLM_WIDTH, 5, config["text_case"])
    check_start(find_start("first"), model)
