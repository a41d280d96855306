"""A few values of every tensor of a checkpoint: whether another one has the same weights, up to how
they were rounded.

In: folders with safetensors. Out: the samples as plain data, and how far the weights of a
checkpoint are from them. Cost: a few values of each tensor are read, not the files.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

from safetensors import safe_open

from components.model.folders.tensor_digests import tensor_files

NUM_VALUES = 8  # of a tensor: 2,000 of a small LLM tell a deviation to a few percent of itself
DIGITS = 5  # of a value: bfloat16 has three
# Stored in some checkpoints although they are another tensor again.
TIED = ("proj_out.weight", "lm_head.weight")
# Of a tensor's root mean square. 4 bits for blocks of 32 normal values give about 0.08: steps of a
# fifteenth of their range, 4 standard deviations, and a deviation of a step / sqrt(12).
MAX_DEVIATION = 0.16

Samples = dict[str, dict[str, Any]]  # tensor → its shape and values


def read_samples(folder: Path) -> Samples:
    """Shape and evenly spaced values of each tensor of a checkpoint, by its name."""
    return {
        name: _sample(path, name)
        for name, path in sorted(tensor_files(folder).items())
        if name not in TIED
    }


def _sample(path: Path, name: str) -> dict[str, Any]:
    with safe_open(path, framework="pt") as file:
        tensor = file.get_slice(name)
        shape = list(tensor.get_shape())
        # Of a matrix one value of some rows: the column moves with the row.
        if not shape:
            return {"shape": shape, "values": [_round(float(file.get_tensor(name)))]}
        rows = _spread(shape[0])
        lines = [tensor[row : row + 1].flatten() for row in rows]
        columns = _spread(len(lines[0]) if lines else 0, len(lines))
        values = [float(line[column]) for line, column in zip(lines, columns, strict=True)]
    return {"shape": shape, "values": [_round(value) for value in values]}


def _spread(length: int, count: int | None = None) -> list[int]:
    """``count`` indices below ``length``, evenly spaced; by default at most ``NUM_VALUES``."""
    count = min(NUM_VALUES, length) if count is None else count
    return [(2 * index + 1) * length // (2 * count) for index in range(count)]


def _round(value: float) -> float:
    return float(f"{value:.{DIGITS}g}")


def measure_deviation(expected: Samples, checkpoint: Path) -> float:
    """How far the weights of ``checkpoint`` are from the samples ``expected``: root mean square
    over all sampled values, each divided by that of its tensor. Infinite for tensors of other names
    or shapes.
    """
    own = read_samples(checkpoint)
    if {name: entry["shape"] for name, entry in expected.items()} != {
        name: entry["shape"] for name, entry in own.items()
    }:
        return math.inf
    squares = [
        _mean_square_difference(expected[name]["values"], own[name]["values"]) for name in own
    ]
    return math.sqrt(sum(squares) / max(1, len(squares)))


def _mean_square_difference(expected: list[float], own: list[float]) -> float:
    """Of the values of one tensor, in units of their mean square."""
    scale = sum(value**2 for value in expected)
    difference = sum((a - b) ** 2 for a, b in zip(expected, own, strict=True))
    if difference == 0:
        return 0.0
    return difference / scale if scale else math.inf
