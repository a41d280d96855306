"""Projectors: frames of the encoder → vectors of the LLM's width, fewer by the stacking factor."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import nn

from components.config.catalogue import Projector


class LinearProjector(nn.Module):
    """``stack`` frames joined → linear → ReLU → linear (SLAM-ASR, arXiv 2402.08846, section 3); biases on."""

    def __init__(self, encoder_width: int, llm_width: int, stack: int, hidden: int) -> None:
        super().__init__()
        self.stack = stack
        self.linear1 = nn.Linear(encoder_width * stack, hidden)
        self.linear2 = nn.Linear(hidden, llm_width)

    def forward(self, frames: Sequence[torch.Tensor]) -> list[torch.Tensor]:
        """Each (frames, encoder width) → (frames // stack, LLM width); the last frames short of a stack are dropped, and
        an utterance shorter than one stack is filled up with zeros."""
        stacked = [self._stacked(each) for each in frames]
        joined = self.linear2(torch.relu(self.linear1(torch.cat(stacked))))
        return list(joined.split([len(each) for each in stacked]))

    def _stacked(self, frames: torch.Tensor) -> torch.Tensor:
        count = max(1, len(frames) // self.stack)
        kept = frames[: count * self.stack]
        if len(kept) < self.stack:
            kept = nn.functional.pad(kept, (0, 0, 0, self.stack - len(kept)))
        return kept.reshape(count, -1)


def build_projector(entry: Projector, encoder_width: int, llm_width: int) -> LinearProjector:
    """The projector of a catalogue entry for these widths."""
    return LinearProjector(encoder_width, llm_width, entry.stack, entry.hidden)
