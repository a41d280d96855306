"""The CTC compressor: frames whose best CTC unit is the blank are dropped, or runs of one best unit
become their mean.

In: last-layer frames of an encoder with a CTC head, and that head, which stays the encoder's own.
Out: what is left of the frames, through a small transformer, in the LLM's width: as many vectors as
the speech has units, not as it has seconds. After SpeechLLaMA (Wu et al., arXiv 2307.03917). Cost:
one matrix more a frame, and attention over what is left.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import nn

from components.config.projector import CtcCompressor
from components.model.bridges.bridge import Bridge
from components.model.bridges.qformer import padded
from components.model.encoders.ctc_head import CtcHead


class Compressor(Bridge):
    """What is left of the frames → linear → transformer layers of the pre-norm form with GELU →
    norm → linear.

    The layers are told no positions: the encoder's frames carry theirs. ``read_units`` has to give
    it the encoder's head before frames come; the head is neither trained nor saved with it.
    """

    unit_weight: torch.Tensor | None
    unit_bias: torch.Tensor | None

    def __init__(self, entry: CtcCompressor, encoder_width: int, llm_width: int) -> None:
        super().__init__()
        self.way = entry.way
        self.stride = 1.0  # at the most: what is left hangs on the speech
        self.blank = -1
        self.register_buffer("unit_weight", None, persistent=False)
        self.register_buffer("unit_bias", None, persistent=False)
        self.linear1 = nn.Linear(encoder_width, entry.width)
        layer = nn.TransformerEncoderLayer(
            entry.width,
            entry.heads,
            entry.hidden,
            entry.dropout,
            "gelu",
            batch_first=True,
            norm_first=True,
        )
        self.layers = nn.TransformerEncoder(
            layer, entry.layers, nn.LayerNorm(entry.width), enable_nested_tensor=False
        )
        self.linear2 = nn.Linear(entry.width, llm_width)

    def set_ctc_head(self, head: CtcHead) -> None:
        """Takes the head by which frames are read."""
        device = self.linear1.weight.device
        self.unit_weight, self.unit_bias, self.blank = (
            head.weight.to(device),
            head.bias.to(device),
            head.blank,
        )

    def tokens_of(self, frames: int) -> int:
        """Vectors for so many frames at the most: one each."""
        return frames

    def compressed(self, frames: torch.Tensor) -> torch.Tensor:
        """(frames, encoder width) → fewer of them: those that are no blank, or the mean of each run
        of one best unit.

        Nothing but blanks is one vector, their mean: what is said of silence has to stand
        somewhere.
        """
        if self.unit_weight is None:
            raise RuntimeError("The compressor was not given the encoder's CTC head.")
        best = nn.functional.linear(frames, self.unit_weight, self.unit_bias).argmax(-1)
        if self.way == "drop-blank":
            kept = frames[best != self.blank]
            return kept if len(kept) else frames.mean(0, keepdim=True)
        lengths = torch.unique_consecutive(best, return_counts=True)[1].tolist()
        return torch.stack([run.mean(0) for run in frames.split(lengths)])

    def forward(self, frames: Sequence[torch.Tensor]) -> list[torch.Tensor]:
        """Each (frames, encoder width) → (what is left of them, LLM width)."""
        batch, there = padded([self.compressed(each) for each in frames])
        made = self.linear2(self.layers(self.linear1(batch), src_key_padding_mask=~there))
        return [each[: int(count)] for each, count in zip(made, there.sum(1), strict=True)]
