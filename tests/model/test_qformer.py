"""Bridges of trained queries: their formulas, the sizes that the papers give, and what a window, a
segment and a rest are.
"""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from components.config import catalogue
from components.config.projector import CrossAttention, SegmentQFormer, WindowQFormer
from components.model.bridges.qformer import QueryBridge, sinusoids
from components.model.bridges.registry import build_projector
from tests.checkpoints import frames_of

WINDOWS = WindowQFormer(
    kind="window-qformer", window=5, queries=2, layers=2, width=16, heads=4, hidden=24
)
SEGMENTS = SegmentQFormer(
    kind="segment-qformer", window=20, queries=3, layers=2, width=16, heads=4, hidden=24
)
ATTENTION = CrossAttention(kind="cross-attention", window=20, queries=3, width=16, heads=4)
Entry = WindowQFormer | SegmentQFormer | CrossAttention
Weights = dict[str, np.ndarray]


def built(entry: Entry) -> QueryBridge:
    """A bridge whose weights are all away from zero and one."""
    torch.manual_seed(3)
    bridge = build_projector(entry, 12, 10)
    assert isinstance(bridge, QueryBridge)
    with torch.no_grad():
        for parameter in bridge.parameters():
            parameter += 0.3 * torch.randn_like(parameter)
    return bridge.eval()


def linear(weights: Weights, name: str, values: np.ndarray) -> np.ndarray:
    return values @ weights[f"{name}.weight"].T + weights[f"{name}.bias"]


def norm(weights: Weights, name: str, values: np.ndarray, tiny: float) -> np.ndarray:
    centred = values - values.mean(-1, keepdims=True)
    return (
        centred / np.sqrt((centred**2).mean(-1, keepdims=True) + tiny) * weights[f"{name}.weight"]
        + weights[f"{name}.bias"]
    )


def attended(query: np.ndarray, key: np.ndarray, value: np.ndarray, heads: int) -> np.ndarray:
    """Softmax of scaled products, head by head."""
    parts = []
    for one, other, read in zip(
        *(np.split(each, heads, -1) for each in (query, key, value)), strict=True
    ):
        likeness = np.exp(one @ other.T / math.sqrt(one.shape[-1]))
        parts.append(likeness / likeness.sum(-1, keepdims=True) @ read)
    return np.concatenate(parts, -1)


def gelu(values: np.ndarray) -> np.ndarray:
    return values * (1 + np.vectorize(math.erf)(values / math.sqrt(2))) / 2


def qformer(weights: Weights, heard: np.ndarray, layers: int, heads: int) -> np.ndarray:
    """Queries → norm → layers of self-attention, cross-attention, feed-forward with GELU; the norm
    behind each sum (BERT).
    """
    state = norm(weights, "attention.network.layernorm", weights["queries"], 1e-12)
    for layer in range(layers):
        name = f"attention.network.encoder.layer.{layer}"
        for part in ("attention", "crossattention"):
            into, read = f"{name}.{part}", heard if part == "crossattention" else state
            mixed = attended(
                linear(weights, f"{into}.attention.query", state),
                linear(weights, f"{into}.attention.key", read),
                linear(weights, f"{into}.attention.value", read),
                heads,
            )
            state = norm(
                weights,
                f"{into}.output.LayerNorm",
                state + linear(weights, f"{into}.output.dense", mixed),
                1e-12,
            )
        inner = gelu(linear(weights, f"{name}.intermediate_query.dense", state))
        state = norm(
            weights,
            f"{name}.output_query.LayerNorm",
            state + linear(weights, f"{name}.output_query.dense", inner),
            1e-12,
        )
    return state


def attention(weights: Weights, heard: np.ndarray, heads: int) -> np.ndarray:
    name, biases = "attention.attention", np.split(weights["attention.attention.in_proj_bias"], 3)
    query, key, value = (
        values @ weights[f"{name}.{side}_proj_weight"].T + bias
        for side, values, bias in zip(
            "qkv", (weights["queries"], heard, heard), biases, strict=True
        )
    )
    return linear(weights, f"{name}.out_proj", attended(query, key, value, heads))


def place(number: int, width: int) -> np.ndarray:
    """Sines and cosines of a number at rates from 1 down."""
    angles = number * 10_000.0 ** (-np.arange(width // 2) / (width // 2))
    return np.concatenate([np.sin(angles), np.cos(angles)])


@pytest.mark.parametrize("entry", [WINDOWS, SEGMENTS, ATTENTION], ids=lambda entry: entry.kind)
def test_every_window_answers_the_queries_by_the_formula(entry: Entry) -> None:
    bridge, frames = built(entry), frames_of([47])[0]
    weights = {name: tensor.double().numpy() for name, tensor in bridge.state_dict().items()}
    rows = []
    for number in range(bridge.count_windows(47)):
        piece = frames[number * entry.window : (number + 1) * entry.window].double().numpy()
        heard = norm(weights, "norm", piece, 1e-5) + (
            0 if isinstance(entry, WindowQFormer) else place(number, 12)
        )
        plain = isinstance(entry, CrossAttention)
        state = (
            attention(weights, heard, entry.heads)
            if plain
            else qformer(weights, heard, entry.layers, entry.heads)
        )
        rows.append(linear(weights, "linear", state))
    with torch.no_grad():
        made = bridge([frames])[0].numpy()
    np.testing.assert_allclose(made, np.concatenate(rows), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("frames", "windows"), [(1, 1), (2, 1), (5, 1), (7, 1), (8, 2), (10, 2), (12, 2), (13, 3)]
)
def test_of_a_window_a_last_part_counts_from_its_half_on(frames: int, windows: int) -> None:
    bridge = built(WINDOWS)
    assert bridge.count_tokens(frames) == 2 * windows == len(bridge(frames_of([frames]))[0])


@pytest.mark.parametrize("entry", [SEGMENTS, ATTENTION], ids=lambda entry: entry.kind)
def test_nothing_of_a_segment_is_dropped(entry: Entry) -> None:
    bridge, frames = built(entry), frames_of([41])[0]
    assert [bridge.count_tokens(count) for count in (1, 20, 21, 40, 41)] == [3, 3, 6, 6, 9]
    changed = frames.clone()
    changed[40, :6] += 2.0
    before, after = bridge([frames])[0], bridge([changed])[0]
    torch.testing.assert_close(before[:6], after[:6])
    assert not torch.allclose(before[6:], after[6:], atol=1e-3)


def test_a_segment_is_told_from_the_same_frames_elsewhere_and_a_window_is_not() -> None:
    frames = frames_of([20])[0].repeat(2, 1)
    first, second = built(SEGMENTS)([frames])[0].split(3)
    assert not torch.allclose(first, second, atol=1e-3)
    rows = built(WINDOWS)([frames])[0]
    torch.testing.assert_close(rows[:8], rows[8:])


def test_positions_differ_and_an_odd_width_is_filled() -> None:
    places = sinusoids(torch.arange(40), 7)
    assert places.shape == (40, 7)
    assert torch.cdist(places, places).fill_diagonal_(1.0).min() > 0.1
    np.testing.assert_allclose(sinusoids(torch.tensor([3]), 12)[0].numpy(), place(3, 12), rtol=1e-5)


@pytest.mark.parametrize(
    ("name", "tokens"), [("salmonn-qformer", 88), ("segment-qformer", 80), ("cross-attention", 80)]
)
def test_half_a_minute_gives_as_many_tokens_as_the_entries_say(name: str, tokens: int) -> None:
    with torch.device("meta"):
        bridge = build_projector(catalogue.projector(name), 1280, 4096)
    assert bridge.count_tokens(1500) == tokens
    assert bridge.stride == pytest.approx(1500 / tokens, rel=0.01)
