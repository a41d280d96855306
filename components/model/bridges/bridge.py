"""What every bridge is: a module that turns frames of the encoder into fewer vectors of the LLM's
width.

In: utterances, each (frames, encoder width). Out: as many, each (tokens, LLM width). An utterance
gives what it would alone, whatever stands beside it. How many tokens come out is told before
anything is computed.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence

import torch
from torch import nn


class Bridge(nn.Module, ABC):
    """The interface: all that training, search and plan know of a bridge."""

    stride: float  # frames of the encoder that one token stands for

    @abstractmethod
    def tokens_of(self, frames: int) -> int:
        """Tokens that an utterance of so many frames gives, at least one; the most, where that
        hangs on what is heard.
        """

    @abstractmethod
    def forward(self, frames: Sequence[torch.Tensor]) -> list[torch.Tensor]:
        """Each (frames, encoder width) → (tokens, LLM width)."""


class Windowed(Bridge):
    """A token for each window of ``size`` frames, which start every ``step`` frames.

    The last frames, where they fill no window, are dropped; an utterance shorter than one window is
    filled up with zeros.
    """

    def __init__(self, size: int, step: int) -> None:
        super().__init__()
        self.size, self.step, self.stride = size, step, step

    def tokens_of(self, frames: int) -> int:
        return max(1, (frames - self.size) // self.step + 1)

    def forward(self, frames: Sequence[torch.Tensor]) -> list[torch.Tensor]:
        cut = [self.windows(each) for each in frames]
        return self.mix_windows(
            list(self.project(torch.cat(cut)).split([len(each) for each in cut]))
        )

    def windows(self, frames: torch.Tensor) -> torch.Tensor:
        """(frames, width) → (tokens, width, size)."""
        if len(frames) < self.size:
            frames = nn.functional.pad(frames, (0, 0, 0, self.size - len(frames)))
        return frames.unfold(0, self.size, self.step)

    @abstractmethod
    def project(self, windows: torch.Tensor) -> torch.Tensor:
        """(windows, encoder width, size) → (windows, LLM width, or what ``mix_windows`` takes), each by
        itself.
        """

    def mix_windows(self, utterances: list[torch.Tensor]) -> list[torch.Tensor]:
        """Each (windows, width) → (windows, LLM width), where the windows of an utterance are to
        see each other.
        """
        return utterances


def stacked(windows: torch.Tensor) -> torch.Tensor:
    """(windows, width, size) → (windows, size · width): the frames of a window side by side, the
    first one first.
    """
    return windows.transpose(1, 2).flatten(1)
