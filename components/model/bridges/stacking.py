"""Bridges of stacked frames: ``stack`` frames side by side are one vector; linear layers follow.

In: an entry of the catalogue and two widths. Out: a token for each ``stack`` frames. Cost: the
first layer has stack · encoder width · hidden weights, nearly all of them.
"""

from __future__ import annotations

from itertools import pairwise

import torch
from torch import nn

from components.config.projector import FullyConnected, Linear, StackLinear
from components.model.bridges.bridge import WindowedBridge, stack_frames


class LinearProjector(WindowedBridge):
    """``stack`` frames → linear → ReLU → linear (SLAM-ASR, arXiv 2402.08846, section 3); with
    biases.
    """

    def __init__(self, entry: Linear, encoder_width: int, llm_width: int) -> None:
        super().__init__(entry.stack, entry.stack)
        self.linear1 = nn.Linear(encoder_width * entry.stack, entry.hidden)
        self.linear2 = nn.Linear(entry.hidden, llm_width)

    def project(self, windows: torch.Tensor) -> torch.Tensor:
        """(windows, encoder width, stack) → (windows, H)."""
        hidden = torch.relu(self.linear1(stack_frames(windows)))  # (windows, hidden)
        vectors: torch.Tensor = self.linear2(hidden)
        return vectors


class StackLinearProjector(WindowedBridge):
    """``stack`` frames → one linear layer (Fathullah et al., arXiv 2307.11795); with a bias."""

    def __init__(self, entry: StackLinear, encoder_width: int, llm_width: int) -> None:
        super().__init__(entry.stack, entry.stack)
        self.linear = nn.Linear(encoder_width * entry.stack, llm_width)

    def project(self, windows: torch.Tensor) -> torch.Tensor:
        """(windows, encoder width, stack) → (windows, H)."""
        vectors: torch.Tensor = self.linear(stack_frames(windows))
        return vectors


class FullyConnectedProjector(WindowedBridge):
    """``stack`` frames → linear layers with ReLU between them (Yu et al., arXiv 2309.13963); with
    biases.
    """

    def __init__(self, entry: FullyConnected, encoder_width: int, llm_width: int) -> None:
        super().__init__(entry.stack, entry.stack)
        widths = [encoder_width * entry.stack, *[entry.hidden] * (entry.layers - 1), llm_width]
        self.layers = nn.ModuleList(nn.Linear(*pair) for pair in pairwise(widths))

    def project(self, windows: torch.Tensor) -> torch.Tensor:
        """(windows, encoder width, stack) → (windows, H)."""
        vectors: torch.Tensor = self.layers[0](stack_frames(windows))  # (windows, hidden)
        for layer in self.layers[1:]:
            vectors = layer(torch.relu(vectors))
        return vectors
