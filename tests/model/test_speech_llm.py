"""The joined model: what its folder holds, what it refuses, and that it learns."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from components.config.schema import non_default_fields
from components.model.lora import check_gradients
from components.model.model_folder import EncoderRunConfig, read_model_config
from components.model.speech_llm import SpeechLLM
from components.runtime.artifact import write_record
from components.runtime.hashing import folder_digests
from components.search.beam import search
from components.search.constraints import GREEDY
from tests.checkpoints import BOTH, LLMS, LORA, frames_of, joined, output_of, save_llm
from tests.errors import refused

SEARCH = replace(GREEDY, beams=4, max_tokens=20)
TEXTS = ["amber birch", "", "delta ember fjord grove"]


def adapted(folder: Path, family: str = "llama") -> SpeechLLM:
    """A model with LoRA whose weights all moved away from where they started."""
    model = joined(folder, family)
    model.add_lora(2, 4, 0.0, LORA[family], 3)
    random = torch.Generator().manual_seed(5)
    for parameters in model.tune(["projector", "lora"]).values():
        for parameter in parameters:
            parameter.data += 0.1 * torch.randn(parameter.shape, generator=random)
    return model.eval()


def loaded(folder: Path) -> SpeechLLM:
    return SpeechLLM.load(folder / "bridge", folder / "encoder", folder / "llm", "cpu")


@pytest.mark.parametrize("family", LLMS)
@pytest.mark.parametrize("lora", [False, True])
def test_a_model_read_back_gives_the_same(family: str, lora: bool, tmp_path: Path) -> None:
    model = adapted(tmp_path, family) if lora else joined(tmp_path, family)
    model.save(tmp_path / "bridge")
    again, frames = loaded(tmp_path), frames_of([9, 4, 14])
    with torch.no_grad():
        saved, read = (output_of(each, frames, TEXTS, BOTH) for each in (model, again))
    assert torch.equal(saved.loss, read.loss)
    assert torch.equal(saved.matching_loss, read.matching_loss)
    found = search(again, frames, [1.0] * 3, SEARCH)
    assert found == search(model, frames, [1.0] * 3, SEARCH)
    assert not any(parameter.requires_grad for parameter in again.parameters())


def test_the_folder_holds_what_was_trained_and_nothing_else(tmp_path: Path) -> None:
    model = adapted(tmp_path)
    model.save(tmp_path / "bridge")
    files = {
        path.relative_to(tmp_path / "bridge").as_posix()
        for path in (tmp_path / "bridge").rglob("*")
        if path.is_file()
    }
    weights = {name for name in files if name.endswith(".safetensors")}
    assert weights == {
        "projector.safetensors",
        "matching.safetensors",
        "lora/adapter_model.safetensors",
    }
    assert files - weights == {"config.json", "lora/adapter_config.json"}
    held = sum(
        tensor.numel()
        for name in weights
        for tensor in load_file(tmp_path / "bridge" / name).values()
    )
    assert held == sum(
        parameter.numel()
        for group in model.tune(["projector", "lora"]).values()
        for parameter in group
    )
    assert all(
        "lora_" in name for name in load_file(tmp_path / "bridge/lora/adapter_model.safetensors")
    )
    assert str(tmp_path) not in (tmp_path / "bridge/config.json").read_text()


@pytest.mark.filterwarnings(
    "error::FutureWarning"
)  # of the libraries to each other: nothing that a user can act on
def test_a_model_read_and_saved_again_has_the_same_bytes(tmp_path: Path) -> None:
    adapted(tmp_path).save(tmp_path / "bridge")
    loaded(tmp_path).save(tmp_path / "again")
    assert folder_digests(tmp_path / "again") == folder_digests(tmp_path / "bridge")


@pytest.mark.parametrize("base", ["encoder", "llm"])
def test_other_base_checkpoints_are_refused(base: str, tmp_path: Path) -> None:
    joined(tmp_path).save(tmp_path / "bridge")
    loaded(tmp_path)
    if base == "llm":
        save_llm(tmp_path / "llm", seed=2)
    else:
        (tmp_path / "encoder/weights").write_text("other")
        write_record(tmp_path / "encoder", "encoder", parameters=None, inputs={})
    with refused(None, base):
        loaded(tmp_path)


@pytest.mark.parametrize(
    ("family", "targets", "wrong"),
    [
        ("llama", ["q_proj", "qproj"], "qproj"),
        ("llama", ["proj"], "proj"),
        ("phi", ["q_proj", "k_proj", "v_proj", "o_proj"], "o_proj"),
        ("gpt_neox", ["q_proj"], "q_proj"),
    ],
)
def test_a_lora_target_that_matches_nothing_is_refused(
    family: str, targets: list[str], wrong: str, tmp_path: Path
) -> None:
    with refused(None, f"'{wrong}'", "lora.targets"):
        joined(tmp_path, family).add_lora(2, 4, 0.0, targets, 1)


@pytest.mark.parametrize("family", LLMS)
def test_every_lora_weight_gets_a_gradient_and_nothing_frozen_does(
    family: str, tmp_path: Path
) -> None:
    model = adapted(tmp_path, family)
    groups = model.tune(["projector", "lora"])
    with refused(None, "the test", "lora_A", "lora.targets"):
        check_gradients(model, "the test")
    output = output_of(model, frames_of([9, 4, 14]), TEXTS, BOTH)
    (output.loss + output.matching_loss).backward()
    check_gradients(model, "the test")
    trained = {id(parameter) for group in groups.values() for parameter in group}
    lora = {name for name, parameter in model.named_parameters() if "lora_" in name}
    layers = model.llm.config.num_hidden_layers
    assert len(lora) == 2 * layers * len(LORA[family])
    assert {
        id(parameter) for name, parameter in model.named_parameters() if name in lora
    } <= trained
    for name, parameter in model.named_parameters():
        if id(parameter) in trained:
            assert parameter.grad is not None, name
            assert parameter.grad.abs().sum() > 0, name
        else:
            assert parameter.grad is None, name


def test_tuning_one_part_freezes_the_others(tmp_path: Path) -> None:
    model = adapted(tmp_path)

    def trainable() -> set[str]:
        return {
            "lora" if "lora_" in name else name.split(".")[0]
            for name, each in model.named_parameters()
            if each.requires_grad
        }

    model.tune(["projector"])
    assert trainable() == {"projector", "matching"}
    model.tune(["lora"])
    assert trainable() == {"lora"}
    assert set(model.tune(["projector", "lora"])) == {"projector", "lora"}
    assert trainable() == {"projector", "matching", "lora"}


def test_lora_can_not_be_tuned_before_it_is_added(tmp_path: Path) -> None:
    with refused(None, "'lora'"):
        joined(tmp_path).tune(["projector", "lora"])


def test_lora_starts_as_no_change(tmp_path: Path) -> None:
    model, frames = joined(tmp_path), frames_of([9, 4, 14])
    with torch.no_grad():
        before = output_of(model, frames, TEXTS).loss
        model.add_lora(2, 4, 0.0, LORA["llama"], 1)
        assert torch.equal(output_of(model, frames, TEXTS).loss, before)


@pytest.mark.parametrize("family", ["llama", "phi"])
def test_one_utterance_is_learnt_to_the_letter(family: str, tmp_path: Path) -> None:
    model, frames, text = joined(tmp_path, family), frames_of([24]), "heron inlet juniper amber"
    model.add_lora(8, 16, 0.0, LORA[family], 1)
    parameters = [
        parameter for group in model.tune(["projector", "lora"]).values() for parameter in group
    ]
    optimiser = torch.optim.AdamW(parameters, lr=0.01)
    for _ in range(60):
        optimiser.zero_grad()
        output = output_of(model, frames, [text], BOTH)
        ((output.loss + 0.1 * output.matching_loss) / output.num_targets).backward()
        optimiser.step()
    found = search(model.eval(), frames, [2.0], SEARCH)[0]
    assert found.text == text
    assert found.tokens == model.builder.encode(text)
    assert found.score > -1.0


def test_what_the_folder_says_can_be_read_by_people(tmp_path: Path) -> None:
    joined(tmp_path).save(tmp_path / "bridge")
    config = json.loads((tmp_path / "bridge/config.json").read_text())
    assert config["prompt"]["template"].startswith("USER: {speech}")
    assert config["projector"]["stack"] == 2
    assert config["encoder_width"] == 12


def test_a_folder_of_an_older_version_is_read(tmp_path: Path) -> None:
    """``hearing`` is now ``encoder_run``, and ``others`` of the prompt ``variants``."""
    joined(tmp_path).save(tmp_path / "bridge")
    path = tmp_path / "bridge/config.json"
    config = json.loads(path.read_text())
    run = {"layer": "last", "dtype": "float32", "padding": "window"}
    config["hearing"], config["prompt"]["others"] = run, ["{speech} Text: "]
    path.write_text(json.dumps(config))
    read = read_model_config(tmp_path / "bridge")
    assert read.encoder_run == EncoderRunConfig(**run)
    assert list(read.prompt.variants) == ["{speech} Text: "]
    written = non_default_fields(read)
    assert "encoder_run" in written
    assert "hearing" not in written
