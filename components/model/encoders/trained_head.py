"""A CTC head that the stage ``ctc`` trained on the frozen frames of an encoder that has none for
them: the network, its folder, and the choice between it and the encoder's own.

In: frames, (frames, width). Out: scores of characters or subwords, (frames, units). Cost: below a
million parameters, where a large encoder has 300.
"""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from transformers import AutoTokenizer

from components.config.ctc import KERNEL
from components.model.folders.description import TRAINED_HEAD, unsupported_folder


class FrameClassifier(torch.nn.Module):
    """Layer norm, a hidden layer, a convolution over neighbouring frames, scores of units; without
    the two in the middle where ``hidden`` is 0.

    Frames of self-supervised encoders spread a sound over neighbours, which one linear layer can't
    collect.
    """

    def __init__(self, width: int, hidden: int, num_units: int) -> None:
        super().__init__()
        self.norm = torch.nn.LayerNorm(width)
        self.hidden: torch.nn.Linear | None = None
        if hidden:
            self.hidden = torch.nn.Linear(width, hidden)
            self.context = torch.nn.Conv1d(hidden, hidden, KERNEL, padding=KERNEL // 2)
        self.output = torch.nn.Linear(hidden or width, num_units)

    def forward(self, frames: torch.Tensor, is_frame: torch.Tensor | None = None) -> torch.Tensor:
        """Frames, (B, T, width) → scores, (B, T, units). ``is_frame``, (B, T), is false for
        padding, which then changes no score of a frame.
        """
        values = self.norm(frames)
        if self.hidden is not None:
            values = torch.nn.functional.gelu(self.hidden(values))  # (B, T, hidden)
            if is_frame is not None:
                values = values * is_frame[..., None]
            values = torch.nn.functional.gelu(self.context(values.mT).mT)
        scores: torch.Tensor = self.output(values)
        return scores


class TrainedHead:
    """A trained head on one device, frozen, in fp32."""

    dtype = torch.float32
    blank = 0

    def __init__(self, head: FrameClassifier, tokenizer: Any, device: str) -> None:
        self.head = head.eval().requires_grad_(False).to(device)
        self.tokenizer, self.device = tokenizer, torch.device(device)

    @classmethod
    def load(cls, folder: Path, device: str) -> TrainedHead:
        """The head of a folder; raises InputError where its files do not make one."""
        read_tokenizer = partial(
            AutoTokenizer.from_pretrained, folder, local_files_only=True, trust_remote_code=False
        )
        try:
            tensors = load_file(folder / TRAINED_HEAD)
            hidden = len(tensors["hidden.bias"]) if "hidden.bias" in tensors else 0
            head = FrameClassifier(len(tensors["norm.bias"]), hidden, len(tensors["output.bias"]))
            head.load_state_dict(tensors)
            return cls(head, read_tokenizer(), device)
        except (OSError, KeyError, RuntimeError, ValueError) as error:
            raise unsupported_folder(folder, error) from None


def save_head(folder: Path, head: FrameClassifier, tokenizer: Any) -> None:
    """Writes what ``TrainedHead.load`` reads."""
    tensors = {name: tensor.detach().cpu() for name, tensor in head.state_dict().items()}
    save_file(tensors, folder / TRAINED_HEAD)
    tokenizer.save_pretrained(folder)
