"""Samples of a base's weights: the same weights in another rounding are recognised, others are
not.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from components.model.folders.weight_samples import (
    MAX_DEVIATION,
    measure_deviation,
    read_samples,
)

SHAPES = {
    "embed.weight": (90, 16),
    **{f"layers.{layer}.{name}.weight": (64, 48) for layer in range(20) for name in "qkvo"},
    **{f"layers.{layer}.norm.bias": (48,) for layer in range(20)},
    "conv.weight": (8, 3, 5),
    "scale": (),
}


def weights(seed: int = 0) -> dict[str, torch.Tensor]:
    random = torch.Generator().manual_seed(seed)
    return {name: torch.randn(shape, generator=random) for name, shape in SHAPES.items()}


def save(folder: Path, tensors: dict[str, torch.Tensor]) -> Path:
    folder.mkdir()
    save_file(
        {name: tensor.contiguous() for name, tensor in tensors.items()}, folder / "a.safetensors"
    )
    return folder


def to_four_bits(tensor: torch.Tensor) -> torch.Tensor:
    """Blocks of 16 values, each in 15 equal steps of the block's range."""
    if tensor.numel() % 16:
        return tensor
    blocks = tensor.reshape(-1, 16)
    low, high = blocks.amin(1, keepdim=True), blocks.amax(1, keepdim=True)
    steps = ((blocks - low) / (high - low) * 15).round()
    return (low + steps / 15 * (high - low)).reshape(tensor.shape)


@pytest.mark.parametrize(
    ("change", "least", "most"),
    [
        (lambda tensor: tensor, 0, 0),
        (lambda tensor: tensor.half(), 0, 0.001),
        (lambda tensor: tensor.bfloat16(), 0.0001, 0.004),
        (to_four_bits, 0.03, MAX_DEVIATION),
        (lambda tensor: tensor + 0.3 * torch.randn(tensor.shape), MAX_DEVIATION, 1),
        (lambda tensor: tensor.roll(1), MAX_DEVIATION, 3),
    ],
)
def test_the_deviation_is_that_of_the_rounding(
    tmp_path: Path, change: Callable[[torch.Tensor], torch.Tensor], least: float, most: float
) -> None:
    torch.manual_seed(2)
    base = save(tmp_path / "base", weights())
    other = save(tmp_path / "other", {name: change(value) for name, value in weights().items()})
    deviation = measure_deviation(read_samples(base), other)
    assert least <= deviation <= most
    tensors = {name: change(value).float() for name, value in weights().items()}
    exact = [
        ((tensors[name] - value) ** 2).mean() / (value**2).mean()
        for name, value in weights().items()
    ]
    assert deviation == pytest.approx(math.sqrt(sum(exact) / len(exact)), rel=0.3, abs=1e-4)


@pytest.mark.parametrize(
    "other",
    [
        weights(1),
        {name: tensor for name, tensor in weights().items() if name != "scale"},
        {**weights(), "embed.weight": weights()["embed.weight"][:80]},
        {**weights(), "more.weight": torch.ones(2, 2)},
    ],
)
def test_other_weights_names_and_shapes_are_another_base(
    tmp_path: Path, other: dict[str, torch.Tensor]
) -> None:
    base = save(tmp_path / "base", weights())
    assert measure_deviation(read_samples(base), save(tmp_path / "other", other)) > MAX_DEVIATION


def test_a_tied_tensor_may_be_stored_or_not(tmp_path: Path) -> None:
    base = save(tmp_path / "base", weights())
    tied = {**weights(), "lm_head.weight": weights()["embed.weight"]}
    assert measure_deviation(read_samples(base), save(tmp_path / "other", tied)) == 0
