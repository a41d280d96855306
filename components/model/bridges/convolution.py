"""Bridges that start with a convolution over time: an MLP after it, or transformer layers (Pham et
al., arXiv 2406.17272).

In: an entry of the catalogue and two widths. Out: a token for each window of ``kernel`` frames;
windows start every ``stride`` frames. The convolution gets its windows one by one, without padding:
it never sees another utterance. Cost: the windows are copied, so frames take kernel / stride times
their memory.
"""

from __future__ import annotations

from collections import OrderedDict

import torch
from torch import nn

from components.config.projector import Conv1dMlp, Conv1dTransformer, DwsMlp
from components.model.bridges.bridge import WindowedBridge, pad_frames


class Conv1dMlpProjector(WindowedBridge):
    """Conv1d of the encoder's width → ReLU → linear → ReLU → linear; with biases.

    The sizes and the names of the weights are those of SLAM-LLM's convolutional projector
    (MaLa-ASR, arXiv 2406.05839).
    """

    def __init__(self, entry: Conv1dMlp | DwsMlp, encoder_width: int, llm_width: int) -> None:
        super().__init__(entry.kernel, entry.stride)
        self.conv1d = self.build_convolution(encoder_width, entry.kernel)
        self.linear1 = nn.Linear(encoder_width, entry.hidden)
        self.linear2 = nn.Linear(entry.hidden, llm_width)

    def build_convolution(self, width: int, kernel: int) -> nn.Module:
        """(windows, width, kernel) → (windows, width, 1)."""
        return nn.Conv1d(width, width, kernel)

    def project(self, windows: torch.Tensor) -> torch.Tensor:
        """(windows, encoder width, kernel) → (windows, H)."""
        hidden = torch.relu(self.conv1d(windows).squeeze(2))  # (windows, encoder width)
        vectors: torch.Tensor = self.linear2(torch.relu(self.linear1(hidden)))
        return vectors


class DwsMlpProjector(Conv1dMlpProjector):
    """The same with a depth-wise separable convolution (Chollet, arXiv 1610.02357): each channel
    over time by itself, then all channels of one time, nothing between the two.
    """

    def build_convolution(self, width: int, kernel: int) -> nn.Module:
        """(windows, width, kernel) → (windows, width, 1)."""
        parts = {
            "depthwise": nn.Conv1d(width, width, kernel, groups=width),
            "pointwise": nn.Conv1d(width, width, 1),
        }
        return nn.Sequential(OrderedDict(parts))


class Conv1dTransformerProjector(WindowedBridge):
    """Conv1d to ``width`` → transformer encoder layers → layer norm → linear.

    The layers are of the pre-norm form with GELU. They get no positions: the encoder's frames have
    theirs.
    """

    def __init__(self, entry: Conv1dTransformer, encoder_width: int, llm_width: int) -> None:
        super().__init__(entry.kernel, entry.stride)
        self.conv1d = nn.Conv1d(encoder_width, entry.width, entry.kernel)
        self.layers = nn.ModuleList(
            nn.TransformerEncoderLayer(
                entry.width,
                entry.heads,
                entry.hidden,
                entry.dropout,
                "gelu",
                batch_first=True,
                norm_first=True,
            )
            for _ in range(entry.layers)
        )
        self.norm = nn.LayerNorm(entry.width)
        self.linear = nn.Linear(entry.width, llm_width)

    def project(self, windows: torch.Tensor) -> torch.Tensor:
        """(windows, encoder width, kernel) → (windows, width)."""
        vectors: torch.Tensor = self.conv1d(windows).squeeze(2)
        return vectors

    def mix_windows(self, utterances: list[torch.Tensor]) -> list[torch.Tensor]:
        """Each (windows, width) → (windows, H): windows of one utterance attend to each other."""
        hidden, mask = pad_frames(utterances)  # (B, windows, width), (B, windows)
        for layer in self.layers:
            hidden = layer(hidden, src_key_padding_mask=~mask)
        return [
            self.linear(self.norm(vectors[: len(utterance)]))  # (windows, H)
            for vectors, utterance in zip(hidden, utterances, strict=True)
        ]
