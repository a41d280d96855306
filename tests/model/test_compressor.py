"""The CTC compressor: which frames are left, whose head tells them, and what comes of them through
training, saving and search.
"""

from __future__ import annotations

import json
import math
from itertools import groupby
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from components.config.projector import CtcCompressor
from components.model.bridges.compressor import Compressor
from components.model.bridges.registry import build_projector
from components.model.encoders.ctc_head import CtcHeadWeights, check_ctc, read_ctc_head
from components.model.encoders.encoder import SpeechEncoder
from components.model.speech_llm import SpeechLLM
from components.runtime.artifact import read_record
from tests import world as tones
from tests.checkpoints import WITH_CTC, frames_of, save_encoder
from tests.errors import refused
from tests.model.test_qformer import attended, gelu, linear, norm

WAYS = ("drop-blank", "average")
ENTRY = {"kind": "ctc-compressor", "layers": 2, "width": 16, "heads": 4, "hidden": 24}
BLANK = 2


def built(way: str, units: int = 12) -> Compressor:
    """A compressor to which value u of a frame speaks for unit u, all of whose weights are away
    from zero and one.
    """
    torch.manual_seed(3)
    bridge = build_projector(CtcCompressor(way=way, **ENTRY), 12, 10)
    assert isinstance(bridge, Compressor)
    with torch.no_grad():
        for parameter in bridge.parameters():
            parameter += 0.3 * torch.randn_like(parameter)
    bridge.set_ctc_head(CtcHeadWeights(torch.eye(12)[:units], torch.zeros(units), BLANK))
    return bridge.eval()


def saying(units: list[int]) -> torch.Tensor:
    """Frames (frames, 12) whose best units are these."""
    frames = frames_of([len(units)])[0]
    frames[range(len(units)), units] = 9.0
    return frames


def left_of(units: list[int], frames: torch.Tensor, way: str) -> np.ndarray:
    """Frame by frame, run by run."""
    rows = frames.double().numpy()
    if way == "drop-blank":
        kept = [row for row, unit in zip(rows, units, strict=True) if unit != BLANK]
        return np.array(kept) if kept else rows.mean(0, keepdims=True)
    runs = [
        [place for place, _ in run]
        for _, run in groupby(enumerate(units), key=lambda pair: pair[1])
    ]
    return np.array([rows[run].mean(0) for run in runs])


SAID = [[2, 2, 0, 0, 2, 0, 5, 5, 5, 2], [2, 2, 2], [7], [2], [1, 1, 1], [4, 3, 4, 3]]
LEFT = {"drop-blank": [6, 1, 1, 1, 3, 4], "average": [6, 1, 1, 1, 1, 4]}


@pytest.mark.parametrize("way", WAYS)
def test_blanks_go_or_runs_become_their_mean_and_the_formula_follows(way: str) -> None:
    bridge, frames = built(way), [saying(units) for units in SAID]
    weights = {name: tensor.double().numpy() for name, tensor in bridge.state_dict().items()}
    with torch.no_grad():
        made = bridge(frames)
    assert [len(each) for each in made] == LEFT[way]
    for units, each, found in zip(SAID, frames, made, strict=True):
        state = linear(weights, "linear1", left_of(units, each, way))
        for layer in range(2):
            name = f"layers.layers.{layer}"
            inner = norm(weights, f"{name}.norm1", state, 1e-5)
            sides = (
                inner @ weights[f"{name}.self_attn.in_proj_weight"].T
                + weights[f"{name}.self_attn.in_proj_bias"]
            )
            state = state + linear(
                weights, f"{name}.self_attn.out_proj", attended(*np.split(sides, 3, -1), 4)
            )
            inner = gelu(
                linear(weights, f"{name}.linear1", norm(weights, f"{name}.norm2", state, 1e-5))
            )
            state = state + linear(weights, f"{name}.linear2", inner)
        wanted = linear(weights, "linear2", norm(weights, "layers.norm", state, 1e-5))
        np.testing.assert_allclose(found.numpy(), wanted, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("family", sorted(WITH_CTC))
def test_units_are_those_of_the_encoders_own_text(family: str, tmp_path: Path) -> None:
    encoder = SpeechEncoder(save_encoder(tmp_path / "encoder", family))
    frames = encoder([tones.tone("heron inlet juniper amber", 1)])[0].clone()
    head = read_ctc_head(tmp_path / "encoder")
    best = (frames @ head.weight.T + head.bias).argmax(-1)
    assert encoder.tokenizer is not None
    assert head.blank == encoder.tokenizer.pad_token_id
    real = getattr(encoder.model, "ctc_head", None) or encoder.model.lm_head
    assert torch.equal(best, real(frames[None])[0].argmax(-1))
    assert (
        " ".join(encoder.tokenizer.decode(best.tolist()).split()) == encoder.decode_ctc([frames])[0]
    )


def test_a_head_is_found_in_weights_of_several_files(tmp_path: Path) -> None:
    folder = save_encoder(tmp_path / "encoder", "hubert-layer-norm")
    whole = read_ctc_head(folder)
    tensors = load_file(folder / "model.safetensors")
    (folder / "model.safetensors").unlink()
    for number, name in enumerate(sorted(tensors)):
        save_file({name: tensors[name]}, folder / f"model-{number:05d}.safetensors")
    again = read_ctc_head(folder)
    assert torch.equal(again.weight, whole.weight)
    assert torch.equal(again.bias, whole.bias)


def test_an_encoder_without_a_head_another_layer_and_a_head_without_weights_are_refused(
    tmp_path: Path,
) -> None:
    bare, whole = save_encoder(tmp_path / "bare", "whisper"), save_encoder(tmp_path / "whole")
    with refused(None, "bare"):
        read_ctc_head(bare)
    with refused(None, "features.layer", "last"):
        check_ctc(whole, 1)
    tensors = {
        name: each
        for name, each in load_file(whole / "model.safetensors").items()
        if not name.startswith("ctc_head")
    }
    save_file(tensors, whole / "model.safetensors")
    with refused(None, "ctc_head", "lm_head"):
        read_ctc_head(whole)


def compressing(way: str) -> None:
    """The projector of the workspace becomes a compressor; one short stage of training."""
    entry = {**ENTRY, "way": way}
    Path("catalogue/projector.yaml").write_text(json.dumps({"small": entry}))
    stage = tones.read_params().raw["train"]["curriculum"][0]
    tones.change("params.yaml", {"train.curriculum": [{**stage, "steps": 2}]})


@pytest.mark.parametrize("way", WAYS)
def test_a_compressor_trains_saves_without_the_head_and_loads_to_the_same(
    way: str, world: Path
) -> None:
    compressing(way)
    tones.run("train")
    saved = load_file("models/bridge/projector.safetensors")
    model = SpeechLLM.load(Path("models/bridge"), tones.ENCODER, tones.LLM, "cpu")
    assert isinstance(model.projector, Compressor)
    assert saved.keys() == {name for name, _ in model.projector.named_parameters()}
    source = tones.frame_source("dev")
    frames = source.frames(source.utterances)
    made = [len(each) for each in model.projector(frames)]
    counts = [model.projector.count_tokens(len(each)) for each in frames]
    assert all(1 <= one <= most for one, most in zip(made, counts, strict=True))
    model.save(Path("again"))
    assert (
        Path("again/projector.safetensors").read_bytes()
        == Path("models/bridge/projector.safetensors").read_bytes()
    )
    tones.run("decode")


def test_what_can_not_be_compressed_stops_before_the_training(
    world: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    compressing("average")
    monkeypatch.setattr(
        "components.train.build.cached_unit", lambda *_: pytest.fail("a training began")
    )
    tones.change("params.yaml", {"features.layer": 1})
    tones.run("features", "train")
    assert read_record(Path("data/features/train"))["key"]["layer"] == 1
    with refused(None, "features.layer"):
        tones.run("train")
    tones.change("params.yaml", {"features.layer": "last"})
    save_encoder(tones.ENCODER, "whisper")
    tones.run("features", "train")
    with refused():
        tones.run("train")


def test_a_compressor_without_a_head_says_so() -> None:
    bridge = build_projector(CtcCompressor(way="average", **ENTRY), 12, 10)
    with pytest.raises(RuntimeError, match="set_ctc_head"):
        bridge(frames_of([4]))
    assert math.isclose(bridge.stride, 1.0)
