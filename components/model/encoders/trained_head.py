"""A CTC head that the stage ``ctc`` trained on the frozen frames of an encoder that has none for
them: the network, its folder, and the choice between it and the encoder's own.

In: frames, (frames, width). Out: scores of characters or subwords, (frames, units), or of every
``stride`` frames. Cost: a few million parameters at most, where a large encoder has 300.
"""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import nn
from torch.nn import functional
from transformers import AutoTokenizer

from components.config.ctc import BLOCK_KERNEL, KERNEL
from components.model.folders.description import (
    HEAD_PREFIX,
    PROJECTOR,
    TRAINED_HEAD,
    unsupported_folder,
)

CONDITION_EVERY = 2  # blocks


class ConvolutionBlock(nn.Module):
    """The convolution module of the Conformer, then one feed-forward module (Gulati et al. 2020,
    sections 2.2 and 2.3), with layer norm in place of batch norm: an utterance gets the same scores
    in any batch.
    """

    def __init__(self, width: int, dropout: float) -> None:
        super().__init__()
        self.dropout = nn.Dropout(dropout)
        self.norm = nn.LayerNorm(width)
        self.gate = nn.Linear(width, 2 * width)
        self.depthwise = nn.Conv1d(
            width, width, BLOCK_KERNEL, padding=BLOCK_KERNEL // 2, groups=width
        )
        self.context_norm = nn.LayerNorm(width)
        self.pointwise = nn.Linear(width, width)
        self.feed_forward = nn.Sequential(
            nn.LayerNorm(width), nn.Linear(width, 2 * width), nn.GELU(), nn.Linear(2 * width, width)
        )

    def list_output_parameters(self) -> list[nn.Parameter]:
        """The parameters without which the block is the identity."""
        modules = (self.pointwise, self.feed_forward[-1])
        return [parameter for module in modules for parameter in module.parameters()]

    def forward(self, values: torch.Tensor, is_step: torch.Tensor | None) -> torch.Tensor:
        """(B, steps, width) → the same shape; ``is_step`` as in ``FrameClassifier``."""
        gated = functional.glu(self.gate(self.norm(values)), -1)
        if is_step is not None:
            gated = gated * is_step[..., None]
        context = self.context_norm(self.depthwise(gated.mT).mT)
        values = values + self.dropout(self.pointwise(functional.silu(context)))
        outcome: torch.Tensor = values + self.dropout(self.feed_forward(values))
        return outcome


class FrameClassifier(nn.Module):
    """Layer norm, a hidden layer, a convolution over neighbouring frames, or ``blocks`` of them,
    scores of units; the first and the last alone where ``hidden`` is 0.

    Frames of self-supervised encoders spread a sound over neighbours, which one linear layer can't
    collect. ``stride`` frames side by side are one step; frames that fill no step are dropped. With
    ``is_conditioned`` the units are also scored after every ``CONDITION_EVERY`` blocks, and the
    blocks above read these probabilities: self-conditioned CTC (Nozaki and Komatsu 2021, arXiv
    2104.02724, section 3), by which a unit can depend on its neighbours. ``dropout`` is that of
    what each module of a block adds.
    """

    def __init__(
        self,
        width: int,
        hidden: int,
        num_units: int,
        blocks: int = 0,
        stride: int = 1,
        *,
        is_conditioned: bool = False,
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        self.stride = stride
        self.norm = nn.LayerNorm(width)
        self.hidden: nn.Linear | None = None
        self.blocks: nn.ModuleList | None = None
        if hidden:
            self.hidden = nn.Linear(width * stride, hidden)
            if blocks:
                self.blocks = nn.ModuleList(
                    ConvolutionBlock(hidden, dropout) for _ in range(blocks)
                )
                self.last_norm = nn.LayerNorm(hidden)
            else:
                self.context = nn.Conv1d(hidden, hidden, KERNEL, padding=KERNEL // 2)
        self.output = nn.Linear(hidden or width * stride, num_units)
        self.condition = nn.Linear(num_units, hidden) if is_conditioned else None

    def count_steps(self, frames: int) -> int:
        """Steps of an utterance of so many frames, at least one."""
        return max(1, frames // self.stride)

    def forward(self, frames: torch.Tensor, is_frame: torch.Tensor | None = None) -> torch.Tensor:
        """Frames, (B, T, width) → scores, (B, T // stride, units). ``is_frame``, (B, T), is false
        for padding, which then changes no score of a frame.
        """
        return self.score_layers(frames, is_frame)[-1]

    def score_layers(
        self, frames: torch.Tensor, is_frame: torch.Tensor | None = None
    ) -> list[torch.Tensor]:
        """The scores of ``forward``, last, after those between the blocks of a conditioned head,
        each of the same shape.
        """
        values, is_step = self._stack(self.norm(frames), is_frame)
        if self.hidden is None:
            return [self.output(values)]
        values = self.hidden(values)  # (B, steps, hidden)
        if self.blocks is not None:
            return self._score_blocks(values, is_step)
        values = functional.gelu(values)
        if is_step is not None:
            values = values * is_step[..., None]
        return [self.output(functional.gelu(self.context(values.mT).mT))]

    def _score_blocks(
        self, values: torch.Tensor, is_step: torch.Tensor | None
    ) -> list[torch.Tensor]:
        scores: list[torch.Tensor] = []
        for number, block in enumerate(self.blocks or (), 1):
            values = block(values, is_step)
            is_between = number % CONDITION_EVERY == 0 and number < len(self.blocks or ())
            if self.condition is not None and is_between:
                scores.append(self.output(self.last_norm(values)))
                values = values + self.condition(scores[-1].softmax(-1))
        return [*scores, self.output(self.last_norm(values))]

    def _stack(
        self, values: torch.Tensor, is_frame: torch.Tensor | None
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        """``stride`` frames side by side: (B, T, width) → (B, steps, stride · width), and which
        steps are whole, (B, steps). An utterance shorter than one step is filled up with zeros.
        """
        if self.stride == 1:
            return values, is_frame
        if is_frame is not None:
            values = values * is_frame[..., None]
        if (missing := self.stride - values.shape[1]) > 0:
            values = functional.pad(values, (0, 0, 0, missing))
        batch, length, width = values.shape
        steps = length // self.stride
        stacked = values[:, : steps * self.stride].reshape(batch, steps, self.stride * width)
        if is_frame is None:
            return stacked, None
        counts = (is_frame.sum(1) // self.stride).clamp(min=1)  # (B,)
        return stacked, torch.arange(steps, device=counts.device) < counts[:, None]


class TrainedHead:
    """A trained head on one device, frozen, in fp32."""

    dtype = torch.float32
    blank = 0

    def __init__(self, head: FrameClassifier, tokenizer: Any, device: str) -> None:
        self.head = head.eval().requires_grad_(False).to(device)
        self.tokenizer, self.device = tokenizer, torch.device(device)

    @property
    def stride(self) -> int:
        """Frames of the encoder for each row of scores."""
        return self.head.stride

    @classmethod
    def load(cls, folder: Path, device: str) -> TrainedHead:
        """The head of a folder; raises InputError where its files do not make one."""
        read_tokenizer = partial(
            AutoTokenizer.from_pretrained, folder, local_files_only=True, trust_remote_code=False
        )
        try:
            return cls(read_head(folder), read_tokenizer(), device)
        except (OSError, ValueError) as error:
            raise unsupported_folder(folder, error) from None


def read_head(folder: Path) -> FrameClassifier:
    """The network of a folder, whose sizes are those of its tensors, which an export has in the
    bridge beside the folder; raises InputError where they do not make one.
    """
    try:
        tensors = _read_tensors(folder)
        width, num_units = len(tensors["norm.bias"]), len(tensors["output.bias"])
        hidden = len(tensors["hidden.bias"]) if "hidden.bias" in tensors else 0
        first = tensors["hidden.weight"] if hidden else tensors["output.weight"]
        blocks = len({name.split(".")[1] for name in tensors if name.startswith("blocks.")})
        head = FrameClassifier(
            width,
            hidden,
            num_units,
            blocks,
            first.shape[1] // width,
            is_conditioned="condition.weight" in tensors,
        )
        head.load_state_dict(tensors)
    except (OSError, KeyError, RuntimeError, ValueError) as error:
        raise unsupported_folder(folder, error) from None
    return head


def _read_tensors(folder: Path) -> dict[str, torch.Tensor]:
    own, bridge = folder / TRAINED_HEAD, folder.parent / "bridge" / PROJECTOR
    return load_file(own) if own.is_file() or not bridge.is_file() else read_bridge_head(bridge)


def read_bridge_head(projector: Path) -> dict[str, torch.Tensor]:
    """The tensors of the head in the projector of a bridge that reads one, by their names in it."""
    return {
        name.removeprefix(HEAD_PREFIX): tensor
        for name, tensor in load_file(projector).items()
        if name.startswith(HEAD_PREFIX)
    }


def save_head(folder: Path, head: FrameClassifier, tokenizer: Any) -> None:
    """Writes what ``TrainedHead.load`` reads."""
    tensors = {name: tensor.detach().cpu() for name, tensor in head.state_dict().items()}
    save_file(tensors, folder / TRAINED_HEAD)
    tokenizer.save_pretrained(folder)
