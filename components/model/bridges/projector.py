"""Projectors by kind: frames of the encoder → vectors of the LLM's width, fewer by the stride.

In: an entry of the catalogue and two widths. Out: the bridge of its kind; those of stacked frames
stand here. Cost: the first layer holds stack · encoder width · hidden weights, nearly all of them.
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise
from typing import Any

import torch
from torch import nn

from components.config.projector import FullyConnected, Linear, Projector, StackLinear
from components.model.bridges.bridge import Bridge, Windowed, stacked
from components.model.bridges.compressor import Compressor
from components.model.bridges.convolution import (
    Conv1dMlpProjector,
    Conv1dTransformerProjector,
    DwsMlpProjector,
)
from components.model.bridges.qformer import cross_attention, segment_qformer, window_qformer


class LinearProjector(Windowed):
    """``stack`` frames joined → linear → ReLU → linear (SLAM-ASR, arXiv 2402.08846, section 3);
    biases on.
    """

    def __init__(self, entry: Linear, encoder_width: int, llm_width: int) -> None:
        super().__init__(entry.stack, entry.stack)
        self.linear1 = nn.Linear(encoder_width * entry.stack, entry.hidden)
        self.linear2 = nn.Linear(entry.hidden, llm_width)

    def project(self, windows: torch.Tensor) -> torch.Tensor:
        return self.linear2(torch.relu(self.linear1(stacked(windows))))


class StackedLinear(Windowed):
    """``stack`` frames joined → one linear layer (Fathullah et al., arXiv 2307.11795); bias on."""

    def __init__(self, entry: StackLinear, encoder_width: int, llm_width: int) -> None:
        super().__init__(entry.stack, entry.stack)
        self.linear = nn.Linear(encoder_width * entry.stack, llm_width)

    def project(self, windows: torch.Tensor) -> torch.Tensor:
        return self.linear(stacked(windows))


class FullyConnectedLayers(Windowed):
    """``stack`` frames joined → linear layers with ReLU between them (Yu et al., arXiv 2309.13963);
    biases on.
    """

    def __init__(self, entry: FullyConnected, encoder_width: int, llm_width: int) -> None:
        super().__init__(entry.stack, entry.stack)
        widths = [encoder_width * entry.stack, *[entry.hidden] * (entry.layers - 1), llm_width]
        self.layers = nn.ModuleList(nn.Linear(*pair) for pair in pairwise(widths))

    def project(self, windows: torch.Tensor) -> torch.Tensor:
        made = self.layers[0](stacked(windows))
        for layer in self.layers[1:]:
            made = layer(torch.relu(made))
        return made


# A class is called with the entry of its kind, the encoder's width and the LLM's.
BRIDGES: dict[str, Callable[[Any, int, int], Bridge]] = {
    "linear": LinearProjector,
    "stack-linear": StackedLinear,
    "fc": FullyConnectedLayers,
    "conv1d-mlp": Conv1dMlpProjector,
    "dws-mlp": DwsMlpProjector,
    "conv1d-transformer": Conv1dTransformerProjector,
    "window-qformer": window_qformer,
    "segment-qformer": segment_qformer,
    "cross-attention": cross_attention,
    "ctc-compressor": Compressor,
}


def build_projector(entry: Projector, encoder_width: int, llm_width: int) -> Bridge:
    """The bridge of a catalogue entry for these widths, with new weights."""
    return BRIDGES[entry.kind](entry, encoder_width, llm_width)
