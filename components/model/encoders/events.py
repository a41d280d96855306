"""An audio-event encoder, and several encoders side by side, as SALMONN (Tang et al. 2023, section
3) joins Whisper and BEATs.

The event encoder is the Audio Spectrogram Transformer (Gong et al. 2021): patches of 16 × 16 of a
log-mel spectrogram, a step of 100 ms, at most 10.24 s at a time. Longer audio is cut into windows
of 10 s. The patches of one step, over all frequencies, are averaged into one frame.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import AutoModel

from components.model.encoders.family import Family
from components.model.encoders.whisper import passes, windows
from components.model.folders.pretrained import extracted, read_extractor, read_network

MEL_STEP, MEL_WINDOW = (
    160,
    400,
)  # samples: 10 ms and 25 ms, those of Kaldi's filterbank that the extractor computes


class SpectrogramTransformer:
    """AST: frames of 100 ms."""

    equal_lengths = False

    def __init__(self, folder: Path, device: torch.device, dtype: torch.dtype) -> None:
        self.extractor = read_extractor(folder)
        self.network: Any = read_network(folder, AutoModel, dtype, device)
        config = self.network.config
        self.layers = int(config.num_hidden_layers)
        self.hop, self.least = int(config.time_stride) * MEL_STEP, MEL_WINDOW
        # Every step of a window reads real spectrogram to the end of its patch: 100 steps of the
        # 101 that there is room for.
        self.window = (config.max_length - config.patch_size) // config.time_stride * self.hop
        self.bands, self.steps = self.network.embeddings.get_shape(config)
        self.device, self.dtype = device, dtype

    def frames_of(self, samples: int) -> int:
        """Frames of so many samples: one for each 100 ms begun."""
        return math.ceil(samples / self.hop) if samples >= self.least else 0

    def padded(self, samples: int) -> int:
        """Samples that are computed for so many: whole windows."""
        return math.ceil(samples / self.window) * self.window

    def frames(self, waveforms: Sequence[np.ndarray], layer: int | str) -> list[torch.Tensor]:
        """Frames of each waveform, shape (frames, width)."""
        pieces = [windows(waveform, self.window) for waveform in waveforms]
        flat = [piece for each in pieces for piece in each]
        cut = iter(
            [
                steps
                for run in passes([self.window] * len(flat))
                for steps in self._pass(flat[run], layer)
            ]
        )
        return [torch.cat([next(cut) for _ in each]) for each in pieces]

    def _pass(self, pieces: Sequence[np.ndarray], layer: int | str) -> list[torch.Tensor]:
        """Frames of each piece of at most 10 s, all through the layers at once."""
        # What is left behind the last whole window may be shorter than one window of the
        # filterbank.
        long_enough = [np.pad(piece, (0, max(0, MEL_WINDOW - len(piece)))) for piece in pieces]
        mel = extracted(self.extractor, long_enough)["input_values"]
        output = self.network(mel.to(self.device, self.dtype), output_hidden_states=layer != "last")
        hidden = output.last_hidden_state if layer == "last" else output.hidden_states[int(layer)]
        patches = hidden[:, 2:]  # two tokens stand before them
        by_step = patches.reshape(len(pieces), self.bands, self.steps, hidden.shape[-1]).mean(1)
        return [
            steps[: math.ceil(len(piece) / self.hop)]
            for steps, piece in zip(by_step, pieces, strict=True)
        ]


class JoinedEncoders:
    """Encoders side by side: the frames of the first, with those of each other at the same time
    behind them.

    A frame of a slower encoder stands beside all frames of the first that begin within it, so all
    come at the rate of the first; widths add up. ``layer`` is that of the first, the others give
    their last.
    """

    def __init__(self, parts: Sequence[Family]) -> None:
        self.network = torch.nn.ModuleList([part.network for part in parts])
        self.parts, first = parts, parts[0]
        self.layers, self.hop = first.layers, first.hop
        self.least = max(part.least for part in parts)
        self.equal_lengths = any(part.equal_lengths for part in parts)

    def frames_of(self, samples: int) -> int:
        """Frames of so many samples: those of the first encoder."""
        return self.parts[0].frames_of(samples) if samples >= self.least else 0

    def padded(self, samples: int) -> int:
        """Samples that are computed for so many, by the encoder that computes most."""
        return max(part.padded(samples) for part in self.parts)

    def frames(self, waveforms: Sequence[np.ndarray], layer: int | str) -> list[torch.Tensor]:
        """Frames of each waveform, shape (frames, sum of the widths)."""
        first, *others = [
            part.frames(waveforms, layer if place == 0 else "last")
            for place, part in enumerate(self.parts)
        ]
        joined = []
        for number, frames in enumerate(first):
            begins = torch.arange(len(frames), device=frames.device) * self.hop  # samples
            beside = [
                given[number][(begins // part.hop).clamp(max=len(given[number]) - 1)]
                for part, given in zip(self.parts[1:], others, strict=True)
            ]
            joined.append(torch.cat([frames, *beside], dim=-1))
        return joined
