"""What every bridge is: a module that turns frames of the encoder into fewer vectors of the LLM's
width.

In: utterances, each (frames, encoder width). Out: as many, each (tokens, H), H the LLM's width. An
utterance gives the same vectors in any batch. How many tokens it gives is known before anything is
computed.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext

import torch
from torch import nn


class Bridge(nn.Module, ABC):
    """The interface that training, search and plan use."""

    stride: float  # frames of the encoder per token
    is_in_prompt = True  # whether its tokens are part of the LLM's sequence

    @property
    def period(self) -> int:
        """Frames by which an utterance of at least one window always gets the same number of tokens
        more: the step of the windows.
        """
        return round(self.stride)

    @abstractmethod
    def count_tokens(self, frames: int) -> int:
        """Tokens of an utterance of so many frames, at least one; the maximum, where the number
        depends on what the frames are.
        """

    def count_prompt_tokens(self, frames: int) -> int:
        """Tokens that an utterance of so many frames adds to the LLM's sequence."""
        return self.count_tokens(frames) if self.is_in_prompt else 0

    @abstractmethod
    def forward(self, frames: Sequence[torch.Tensor]) -> list[torch.Tensor]:
        """Each (frames, encoder width) → (tokens, H)."""

    def insert_into(self, layers: nn.ModuleList) -> None:
        """Connects the blocks of the bridge, where it has some, to the decoder layers of an LLM;
        the weights of these stay as they are.
        """

    def read_embeddings(self, embedding: nn.Embedding) -> None:
        """Shows the bridge the LLM's input embeddings, where it makes its vectors of them."""

    def list_target_tokens(self) -> list[int]:
        """Ids of the tokens that the LLM writes transcripts in; none: those of its tokenizer."""
        return []

    def attend(self, speech: Sequence[torch.Tensor]) -> AbstractContextManager[None]:
        """While it is open, the blocks in the LLM attend to ``speech``, each (tokens, H); without
        blocks nothing changes.
        """
        return nullcontext()

    def blocks_in_llm(self) -> nn.ModuleList:
        """The blocks that run at every position of the LLM's sequence; empty for most kinds."""
        return nn.ModuleList()


class WindowedBridge(Bridge):
    """A token for each window of ``size`` frames; windows start every ``step`` frames.

    The last frames are dropped where they fill no window; an utterance shorter than one window is
    filled up with zeros.
    """

    def __init__(self, size: int, step: int) -> None:
        super().__init__()
        self.size, self.step, self.stride = size, step, step

    def count_tokens(self, frames: int) -> int:
        """The number of windows of so many frames."""
        return max(1, (frames - self.size) // self.step + 1)

    def forward(self, frames: Sequence[torch.Tensor]) -> list[torch.Tensor]:
        """Each (frames, encoder width) → (windows, H)."""
        windows = [
            self.cut_windows(utterance) for utterance in frames
        ]  # each (tokens, width, size)
        vectors = self.project(torch.cat(windows))  # (all tokens, H)
        counts = [len(utterance) for utterance in windows]
        return self.mix_windows(list(torch.split(vectors, counts)))

    def cut_windows(self, frames: torch.Tensor) -> torch.Tensor:
        """(frames, width) → (tokens, width, size)."""
        if len(frames) < self.size:
            frames = nn.functional.pad(frames, (0, 0, 0, self.size - len(frames)))
        return frames.unfold(0, self.size, self.step)

    @abstractmethod
    def project(self, windows: torch.Tensor) -> torch.Tensor:
        """(windows, encoder width, size) → (windows, H, or the width that ``mix_windows`` takes),
        each window by itself.
        """

    def mix_windows(self, utterances: list[torch.Tensor]) -> list[torch.Tensor]:
        """Each (windows, width) → (windows, H), for bridges where the windows of an utterance
        attend to each other.
        """
        return utterances


def stack_frames(windows: torch.Tensor) -> torch.Tensor:
    """(windows, width, size) → (windows, size · width): the frames of a window side by side, the
    first one first.
    """
    return windows.transpose(1, 2).flatten(1)


def pad_frames(utterances: Sequence[torch.Tensor]) -> tuple[torch.Tensor, torch.Tensor]:
    """Utterances (or windows), each (frames, width), as one batch (B, T, width), and its mask
    (B, T): True for a frame, False for padding.
    """
    batch = nn.utils.rnn.pad_sequence(list(utterances), batch_first=True)  # (B, T, width)
    lengths = torch.tensor([len(utterance) for utterance in utterances], device=batch.device)
    return batch, torch.arange(batch.shape[1], device=batch.device) < lengths[:, None]
