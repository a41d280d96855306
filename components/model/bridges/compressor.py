"""The CTC compressor: frames whose best CTC unit is the blank are dropped, or frames in a row with
one best unit become their mean.

In: last-layer frames of an encoder with a CTC head, and that head, which is not changed. Out: the
remaining frames, through a small transformer, in the LLM's width: as many vectors as the speech has
units, whatever its seconds. After SpeechLLaMA (Wu et al., arXiv 2307.03917). Cost: one matrix more
per frame, and attention over the remaining ones.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import nn

from components.config.projector import CtcCompressor
from components.model.bridges.bridge import Bridge, pad_frames
from components.model.encoders.ctc_head import CtcHeadWeights


class Compressor(Bridge):
    """The remaining frames → linear → transformer layers of the pre-norm form with GELU → norm →
    linear.

    The layers get no positions: the encoder's frames have theirs. ``set_ctc_head`` has to give it
    the encoder's head before ``forward``; the head is neither trained nor saved with it.
    """

    unit_weight: torch.Tensor | None
    unit_bias: torch.Tensor | None

    def __init__(self, entry: CtcCompressor, encoder_width: int, llm_width: int) -> None:
        super().__init__()
        self.way = entry.way
        self.stride = 1.0  # the least: how many frames remain depends on the speech
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

    def set_ctc_head(self, head: CtcHeadWeights) -> None:
        """Takes the head by which frames are read as units."""
        device = self.linear1.weight.device
        self.unit_weight = head.weight.to(device)  # (units, encoder width)
        self.unit_bias = head.bias.to(device)  # (units,)
        self.blank = head.blank

    def count_tokens(self, frames: int) -> int:
        """Vectors of so many frames at most: one each."""
        return frames

    def compress(self, frames: torch.Tensor) -> torch.Tensor:
        """(frames, encoder width) → fewer of them: those that are not blank, or the mean of each
        run of one best unit.

        Blanks alone become one vector, their mean, so that silence has a token too. Raises
        RuntimeError without a head.
        """
        if self.unit_weight is None:
            raise RuntimeError("The compressor has no CTC head: call set_ctc_head first.")
        scores = nn.functional.linear(frames, self.unit_weight, self.unit_bias)  # (frames, units)
        best = scores.argmax(-1)  # (frames,)
        if self.way == "drop-blank":
            remaining = frames[best != self.blank]
            return remaining if len(remaining) else frames.mean(0, keepdim=True)
        lengths = torch.unique_consecutive(best, return_counts=True)[1].tolist()
        return torch.stack([run.mean(0) for run in torch.split(frames, lengths)])

    def forward(self, frames: Sequence[torch.Tensor]) -> list[torch.Tensor]:
        """Each (frames, encoder width) → (remaining frames, H)."""
        batch, mask = pad_frames([self.compress(utterance) for utterance in frames])
        hidden = self.layers(self.linear1(batch), src_key_padding_mask=~mask)  # (B, T, width)
        vectors = self.linear2(hidden)  # (B, T, H)
        return [row[: int(count)] for row, count in zip(vectors, mask.sum(1), strict=True)]
