"""Bridges that begin with a convolution over time: an MLP after it, or transformer layers (Pham et
al., arXiv 2406.17272).

In: an entry of the catalogue and two widths. Out: a token for each window of ``kernel`` frames,
which start every ``stride`` frames. A convolution is given its windows one by one, and no padding:
it never sees another utterance. Cost: the windows are copied, so that frames take kernel / stride
times their memory.
"""

from __future__ import annotations

from collections import OrderedDict

import torch
from torch import nn
from torch.nn.utils.rnn import pad_sequence

from components.config.projector import Conv1dMlp, Conv1dTransformer, DwsMlp
from components.model.bridges.bridge import Windowed


class Conv1dMlpProjector(Windowed):
    """Conv1d of the encoder's width → ReLU → linear → ReLU → linear; biases on.

    The sizes and the names of the weights are those of SLAM-LLM's convolutional projector
    (MaLa-ASR, arXiv 2406.05839).
    """

    def __init__(self, entry: Conv1dMlp | DwsMlp, encoder_width: int, llm_width: int) -> None:
        super().__init__(entry.kernel, entry.stride)
        self.conv1d = self.convolution(encoder_width, entry.kernel)
        self.linear1 = nn.Linear(encoder_width, entry.hidden)
        self.linear2 = nn.Linear(entry.hidden, llm_width)

    def convolution(self, width: int, kernel: int) -> nn.Module:
        """(windows, width, kernel) → (windows, width, 1)."""
        return nn.Conv1d(width, width, kernel)

    def project(self, windows: torch.Tensor) -> torch.Tensor:
        heard = torch.relu(self.conv1d(windows).squeeze(2))
        return self.linear2(torch.relu(self.linear1(heard)))


class DwsMlpProjector(Conv1dMlpProjector):
    """The same with a depth-wise separable convolution (Chollet, arXiv 1610.02357).

    Each channel over time by itself, then all channels of one time; nothing stands between the two.
    """

    def convolution(self, width: int, kernel: int) -> nn.Module:
        parts = {
            "depthwise": nn.Conv1d(width, width, kernel, groups=width),
            "pointwise": nn.Conv1d(width, width, 1),
        }
        return nn.Sequential(OrderedDict(parts))


class Conv1dTransformerProjector(Windowed):
    """Conv1d to ``width`` → transformer encoder layers → layer norm → linear to the LLM.

    The layers are of the pre-norm form with GELU. They are told no positions: the encoder's frames
    carry theirs.
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
        return self.conv1d(windows).squeeze(2)

    def mix_windows(self, utterances: list[torch.Tensor]) -> list[torch.Tensor]:
        lengths, heard = (
            [len(each) for each in utterances],
            pad_sequence(utterances, batch_first=True),
        )
        places = torch.arange(heard.shape[1], device=heard.device)
        padding = places >= torch.tensor(lengths, device=heard.device)[:, None]
        for layer in self.layers:
            heard = layer(heard, src_key_padding_mask=padding)
        return [
            self.linear(self.norm(each[:length]))
            for each, length in zip(heard, lengths, strict=True)
        ]
