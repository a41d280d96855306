"""Bridges: what all kinds keep, by one contract; the formula of each kind; the sizes that papers
print; wrong entries.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml

from components.config import catalogue
from components.config.errors import InputError
from components.config.params import read_params
from components.config.projector import PROJECTOR_KINDS, Projector, parse_projector
from components.model.bridges.bridge import Bridge
from components.model.bridges.compressor import Compressor
from components.model.bridges.discrete import DiscreteUnitsBridge
from components.model.bridges.registry import BRIDGES, build_projector
from components.model.encoders.ctc_head import CtcHeadWeights
from components.model.lora import check_gradients
from components.model.speech_llm import SpeechLLM
from components.plan.networks import read_networks
from tests.checkpoints import BOTH, frames_of, joined, output_of
from tests.conftest import REPOSITORY

LAYERS = {"width": 16, "heads": 2, "hidden": 32, "layers": 2}
# Two small entries a kind, or more: one of few frames a token, and one of 48, which are 960 ms at
# 50 Hz.
SMALL: dict[str, dict[str, Any]] = {
    "linear": {"kind": "linear", "stack": 3, "hidden": 16},
    "linear-960-ms": {"kind": "linear", "stack": 48, "hidden": 16},
    "stack-linear": {"kind": "stack-linear", "stack": 2},
    "stack-linear-960-ms": {"kind": "stack-linear", "stack": 48},
    "fc": {"kind": "fc", "stack": 3, "hidden": 16, "layers": 3},
    "fc-960-ms": {"kind": "fc", "stack": 48, "hidden": 16, "layers": 2},
    "conv1d-mlp": {"kind": "conv1d-mlp", "kernel": 5, "stride": 3, "hidden": 16},
    "conv1d-mlp-960-ms": {"kind": "conv1d-mlp", "kernel": 64, "stride": 48, "hidden": 16},
    "dws-mlp": {"kind": "dws-mlp", "kernel": 5, "stride": 3, "hidden": 16},
    "dws-mlp-960-ms": {"kind": "dws-mlp", "kernel": 64, "stride": 48, "hidden": 16},
    "conv1d-transformer": {"kind": "conv1d-transformer", "kernel": 5, "stride": 3, **LAYERS},
    "conv1d-transformer-960-ms": {
        "kind": "conv1d-transformer",
        "kernel": 48,
        "stride": 48,
        **LAYERS,
    },
    "window-qformer": {"kind": "window-qformer", "window": 17, "queries": 2, **LAYERS},
    "window-qformer-960-ms": {"kind": "window-qformer", "window": 48, "queries": 1, **LAYERS},
    "segment-qformer": {"kind": "segment-qformer", "window": 60, "queries": 3, **LAYERS},
    "segment-qformer-960-ms": {"kind": "segment-qformer", "window": 144, "queries": 3, **LAYERS},
    "cross-attention": {
        "kind": "cross-attention",
        "window": 60,
        "queries": 3,
        "width": 16,
        "heads": 2,
    },
    "cross-attention-960-ms": {
        "kind": "cross-attention",
        "window": 144,
        "queries": 3,
        "width": 16,
        "heads": 2,
    },
    "ctc-compressor": {"kind": "ctc-compressor", "way": "average", **LAYERS},
    "ctc-compressor-blanks": {"kind": "ctc-compressor", "way": "drop-blank", **LAYERS},
    "gated-cross-attention": {"kind": "gated-cross-attention", "stack": 2, **LAYERS},
    "gated-cross-attention-960-ms": {"kind": "gated-cross-attention", "stack": 48, **LAYERS},
    "discrete-units": {
        "kind": "discrete-units",
        "units": 5,
        "hours": 1.0,
        "iterations": 2,
        "seed": 1,
    },
    "ctc-embeddings": {
        "kind": "ctc-embeddings",
        "units": 7,
        "stride": 2,
        "hidden": 8,
        "blocks": 2,
        "temperature": 1.5,
    },
}
BY_SPEECH = {
    "ctc-compressor",
    "ctc-embeddings",
    "discrete-units",
}  # how many tokens come out of these hangs on what is heard: told is the most
WIDTH, LLM_WIDTH = 12, 10
LENGTHS = [*range(1, 101), *range(101, 2000, 61), 1999, 2000]

every_kind = pytest.mark.parametrize("name", SMALL)


def entry(name: str) -> Projector:
    return parse_projector(SMALL[name], name)


def bridge(name: str, width: int = WIDTH, llm_width: int = LLM_WIDTH) -> Bridge:
    """A new bridge as search has it: dropout is off. One that reads CTC units reads four, the first
    of them the blank; one of discrete units has random centroids.
    """
    torch.manual_seed(0)
    made = build_projector(entry(name), width, llm_width).eval()
    if isinstance(made, Compressor):
        made.set_ctc_head(CtcHeadWeights(torch.randn(4, width), torch.zeros(4), 0))
    if isinstance(made, DiscreteUnitsBridge):
        made.set_centroids(torch.randn_like(made.centroids))
    made.read_embeddings(torch.nn.Embedding(20, llm_width))
    return made


def test_every_kind_has_an_entry_here_and_one_of_960_ms() -> None:
    kinds = {data["kind"] for data in SMALL.values()}
    assert kinds == PROJECTOR_KINDS.keys()
    assert set(PROJECTOR_KINDS.values()) == BRIDGES.keys()
    assert kinds - BY_SPEECH == {SMALL[name]["kind"] for name in SMALL if bridge(name).stride >= 48}


@every_kind
def test_as_many_tokens_come_out_as_were_told(name: str) -> None:
    made = bridge(name)
    assert made.count_tokens(1) >= 1
    with torch.no_grad():
        for start in range(0, len(LENGTHS), 10):
            lengths = LENGTHS[start : start + 10]
            for length, tokens in zip(lengths, made(frames_of(lengths)), strict=True):
                told = made.count_tokens(length)
                assert len(tokens) == told or (
                    SMALL[name]["kind"] in BY_SPEECH and 1 <= len(tokens) < told
                )
                assert tokens.shape[1] == LLM_WIDTH
                assert torch.isfinite(tokens).all()


@every_kind
def test_a_token_stands_for_as_many_frames_as_the_stride_says(name: str) -> None:
    made = bridge(name)
    assert made.count_tokens(100_000) * made.stride == pytest.approx(100_000, rel=0.01)


@every_kind
def test_an_utterance_is_bridged_alone_as_in_any_batch(name: str) -> None:
    made, frames = bridge(name), frames_of([8, 1, 130, 3, 60, 49])
    with torch.no_grad():
        whole, turned = made(frames), made(frames[::-1])[::-1]
        for each, one, other in zip(frames, whole, turned, strict=True):
            alone = made([each])[0]
            for given in (one, other):
                assert (given - alone).norm() <= 1e-5 * alone.norm()


@every_kind
def test_every_weight_gets_a_gradient(name: str) -> None:
    made = bridge(name).train()
    sum((tokens**2).sum() for tokens in made(frames_of([200, 7]))).backward()
    check_gradients(made, name, ("blocks.",))  # those run in the LLM


@every_kind
def test_a_saved_bridge_gives_the_same_bits(name: str, tmp_path: Path) -> None:
    model = joined(tmp_path, projector=entry(name)).eval()
    model.save(tmp_path / "bridge")
    again = SpeechLLM.load(tmp_path / "bridge", tmp_path / "encoder", tmp_path / "llm", "cpu")
    assert again.config == model.config
    frames = frames_of([100, 5])
    with torch.no_grad():
        for one, other in zip(model.projector(frames), again.projector(frames), strict=True):
            assert torch.equal(one, other)


@every_kind
def test_a_plan_tells_its_weights_and_its_stride(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "catalogue").mkdir()
    for kind in ("encoder", "llm"):
        (tmp_path / f"catalogue/{kind}.yaml").write_text(
            (REPOSITORY / f"catalogue/{kind}.yaml").read_text()
        )
    (tmp_path / "catalogue/projector.yaml").write_text(yaml.safe_dump({"mine": SMALL[name]}))
    monkeypatch.chdir(REPOSITORY)
    params = replace(read_params(), projector="mine")
    monkeypatch.chdir(tmp_path)
    found = read_networks(params)
    made = bridge(name, found.encoder.width, found.llm.width)
    assert found.modules["projector"] == (sum(each.numel() for each in made.parameters()), 0)
    assert found.bridge.stride == made.stride


@every_kind
def test_a_bridge_learns_an_utterance(name: str, tmp_path: Path) -> None:
    model, frames = joined(tmp_path, projector=entry(name)), frames_of([150])
    optimiser = torch.optim.AdamW(model.tune(["projector"])["projector"], lr=3e-3)
    model.projector.train()
    losses = []
    for _ in range(12):
        optimiser.zero_grad()
        output = output_of(model, frames, ["amber birch"], BOTH)
        loss = output.loss + output.matching_loss
        loss.backward()
        optimiser.step()
        losses.append(float(loss.detach()))
    assert np.isfinite(losses).all()
    assert losses[-1] < losses[0]


def test_an_utterance_shorter_than_a_window_is_filled_up_with_zeros() -> None:
    for name in ("linear-960-ms", "conv1d-mlp-960-ms", "conv1d-transformer"):
        made, each = bridge(name), frames_of([4])[0]
        filled = torch.cat([each, torch.zeros(made.size - 4, WIDTH)])
        torch.testing.assert_close(made([each])[0], made([filled])[0])


def test_frames_short_of_a_last_stack_do_not_count() -> None:
    made, frames = bridge("linear"), frames_of([8])[0]
    torch.testing.assert_close(made([frames])[0], made([frames[:6]])[0])


# The formulas of the papers, one vector at a time. `weights` are the bridge's own, by name.
Weights = dict[str, np.ndarray]


def dense(weights: Weights, layer: str, vector: np.ndarray) -> np.ndarray:
    return weights[f"{layer}.weight"] @ vector + weights[f"{layer}.bias"]


def relu(vector: np.ndarray) -> np.ndarray:
    return np.maximum(vector, 0)


def linear(weights: Weights, window: np.ndarray) -> np.ndarray:
    return dense(weights, "linear2", relu(dense(weights, "linear1", np.concatenate(window))))


def stack_linear(weights: Weights, window: np.ndarray) -> np.ndarray:
    return dense(weights, "linear", np.concatenate(window))


def fully_connected(weights: Weights, window: np.ndarray) -> np.ndarray:
    hidden = relu(dense(weights, "layers.0", np.concatenate(window)))
    return dense(weights, "layers.2", relu(dense(weights, "layers.1", hidden)))


def convolved(weights: Weights, window: np.ndarray) -> np.ndarray:
    return (
        sum(weights["conv1d.weight"][:, :, place] @ frame for place, frame in enumerate(window))
        + weights["conv1d.bias"]
    )


def mlp(weights: Weights, heard: np.ndarray) -> np.ndarray:
    return dense(weights, "linear2", relu(dense(weights, "linear1", relu(heard))))


def conv1d_mlp(weights: Weights, window: np.ndarray) -> np.ndarray:
    return mlp(weights, convolved(weights, window))


def dws_mlp(weights: Weights, window: np.ndarray) -> np.ndarray:
    each = [
        weights["conv1d.depthwise.weight"][channel, 0] @ window[:, channel]
        for channel in range(WIDTH)
    ]
    heard = np.array(each) + weights["conv1d.depthwise.bias"]
    return mlp(
        weights,
        weights["conv1d.pointwise.weight"][:, :, 0] @ heard + weights["conv1d.pointwise.bias"],
    )


@pytest.mark.parametrize(
    ("name", "formula", "size", "step"),
    [
        ("linear", linear, 3, 3),
        ("linear-960-ms", linear, 48, 48),
        ("stack-linear", stack_linear, 2, 2),
        ("fc", fully_connected, 3, 3),
        ("conv1d-mlp", conv1d_mlp, 5, 3),
        ("dws-mlp", dws_mlp, 5, 3),
    ],
)
def test_each_window_goes_through_the_formula(
    name: str, formula: Callable, size: int, step: int
) -> None:
    made, frames = bridge(name), frames_of([size, 61, 100])
    weights = {key: tensor.double().numpy() for key, tensor in made.state_dict().items()}
    for each, tokens in zip(frames, made(frames), strict=True):
        wanted = [
            formula(weights, each.double().numpy()[start : start + size])
            for start in range(0, len(each) - size + 1, step)
        ]
        np.testing.assert_allclose(tokens.detach().numpy(), wanted, rtol=1e-4, atol=1e-5)


def normed(weights: Weights, layer: str, rows: np.ndarray) -> np.ndarray:
    centred = rows - rows.mean(1, keepdims=True)
    return (
        centred / np.sqrt((centred**2).mean(1, keepdims=True) + 1e-5) * weights[f"{layer}.weight"]
        + weights[f"{layer}.bias"]
    )


def attended(weights: Weights, layer: str, rows: np.ndarray, heads: int) -> np.ndarray:
    """Softmax of scaled products, head by head (Vaswani et al. 2017, section 3.2)."""
    both = rows @ weights[f"{layer}.in_proj_weight"].T + weights[f"{layer}.in_proj_bias"]
    parts = [np.split(each, heads, 1) for each in np.split(both, 3, 1)]
    found = []
    for query, key, value in zip(*parts, strict=True):
        score = np.exp(query @ key.T / np.sqrt(query.shape[1]))
        found.append(score / score.sum(1, keepdims=True) @ value)
    return (
        np.concatenate(found, 1) @ weights[f"{layer}.out_proj.weight"].T
        + weights[f"{layer}.out_proj.bias"]
    )


def test_a_convolution_and_pre_norm_layers_make_the_conv1d_transformer() -> None:
    made, frames = bridge("conv1d-transformer"), frames_of([61, 5])
    weights = {key: tensor.double().numpy() for key, tensor in made.state_dict().items()}
    for each, tokens in zip(frames, made(frames), strict=True):
        rows = np.array(
            [
                convolved(weights, each.double().numpy()[start : start + 5])
                for start in range(0, len(each) - 4, 3)
            ]
        )
        for layer in ("layers.0", "layers.1"):
            rows = rows + attended(
                weights, f"{layer}.self_attn", normed(weights, f"{layer}.norm1", rows), 2
            )
            inner = (
                normed(weights, f"{layer}.norm2", rows) @ weights[f"{layer}.linear1.weight"].T
                + weights[f"{layer}.linear1.bias"]
            )
            gelu = torch.nn.functional.gelu(torch.from_numpy(inner)).numpy()
            rows = (
                rows
                + gelu @ weights[f"{layer}.linear2.weight"].T
                + weights[f"{layer}.linear2.bias"]
            )
        wanted = normed(weights, "norm", rows) @ weights["linear.weight"].T + weights["linear.bias"]
        np.testing.assert_allclose(tokens.detach().numpy(), wanted, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("name", "encoder", "llm", "millions"),
    [
        ("linear", 1024, 4096, 18.88),  # SLAM-ASR, table 2
        ("linear", 1280, 4096, 21.50),
        ("stack-linear-n3", 512, 4096, 6.30),  # Fathullah et al.: 3 · 512 · 4,096 and a bias
        ("conv1d-mlp", 1024, 4096, 15.74),  # MaLa-ASR: WavLM-large and Vicuna-7B
        ("dws-mlp", 1024, 4096, 11.55),
        ("fc", 1280, 5120, 23.60),
    ],
)
def test_an_entry_of_the_catalogue_has_the_parameters_of_its_paper(
    name: str, encoder: int, llm: int, millions: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(REPOSITORY)
    with torch.device("meta"):
        made = build_projector(catalogue.projector(name), encoder, llm)
    assert sum(each.numel() for each in made.parameters()) / 1e6 == pytest.approx(
        millions, abs=0.01
    )


def test_every_entry_of_the_catalogue_makes_a_bridge(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(REPOSITORY)
    with torch.device("meta"):
        for name in catalogue.names("projector"):
            assert build_projector(catalogue.projector(name), 64, 32).count_tokens(1) >= 1


@pytest.mark.parametrize(
    ("name", "change", "subject"),
    [
        ("linear", {"kind": "linaer"}, "kind"),
        ("linear", {"kind": None}, "kind"),
        ("linear", {"stak": 3}, "stak"),
        ("linear", {"kernel": 3}, "kernel"),
        ("linear", {"stack": 0}, "stack"),
        ("stack-linear", {"stack": "three"}, "stack"),
        ("fc", {"layers": 0}, "layers"),
        ("conv1d-mlp", {"stride": 0}, "stride"),
        ("dws-mlp", {"kernel": 2}, "kernel"),
        ("conv1d-transformer", {"heads": 3}, "heads"),
        ("conv1d-transformer", {"dropout": 1.0}, "dropout"),
        ("window-qformer", {"heads": 3}, "heads"),
        ("segment-qformer", {"dropout": -0.1}, "dropout"),
        ("cross-attention", {"queries": 0}, "queries"),
        ("cross-attention", {"layers": 2}, "layers"),
        ("ctc-compressor", {"way": "drop"}, "way"),
    ],
)
def test_a_wrong_entry_stops(name: str, change: dict[str, Any], subject: str) -> None:
    with pytest.raises(InputError, match="projector mine") as stopped:
        parse_projector({**SMALL[name], **change}, "projector mine")
    assert stopped.value.subject == subject
    assert stopped.value.hint
