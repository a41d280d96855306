"""An audio-event encoder: the Audio Spectrogram Transformer (Gong et al. 2021), one frame per
100 ms.

It takes patches of 16 × 16 of a log-mel spectrogram, at a step of 100 ms, at most 10.24 s at a
time. Longer audio is cut into windows of 10 s. The patches of one step, over all frequencies, are
averaged into one frame.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import AutoModel

from components.model.encoders.family import WindowedFamily
from components.model.encoders.traits import MEL_STEP, MEL_WINDOW, EncoderTraits
from components.model.folders.pretrained import extract_features, read_extractor, read_network

NUM_SPECIAL = 2  # tokens before the patches


class SpectrogramTransformerFamily(WindowedFamily):
    """AST. Its extractor computes Kaldi's filterbank, at steps of 10 ms over 25 ms."""

    model_types = ("audio-spectrogram-transformer",)

    def __init__(
        self, folder: Path, device: torch.device, dtype: torch.dtype, padding: str
    ) -> None:
        self.extractor = read_extractor(folder)
        self.network: Any = read_network(folder, AutoModel, dtype, device)
        config = self.network.config
        self.traits = self.describe(config)
        self.window = self.traits.window
        self.bands, self.steps = self.network.embeddings.get_shape(config)
        self.device, self.dtype = device, dtype

    @classmethod
    def describe(cls, config: Any, extractor: Any = None, padding: str = "window") -> EncoderTraits:
        """See ``CheckpointFamily``."""
        hop = int(config.time_stride) * MEL_STEP
        # Every step of a window reads real spectrogram to the end of its patch: 100 steps of the
        # 101 that fit.
        steps = (config.max_length - config.patch_size) // config.time_stride
        return EncoderTraits(
            width=int(config.hidden_size),
            hop=hop,
            least_samples=MEL_WINDOW,
            num_layers=int(config.num_hidden_layers),
            window=steps * hop,
            positions_per_frame=(config.num_mel_bins - config.patch_size) // config.frequency_stride
            + 1,
        )

    def count_frames(self, samples: int) -> int:
        """One frame for each 100 ms, complete or not."""
        traits = self.traits
        return math.ceil(samples / traits.hop) if samples >= traits.least_samples else 0

    def encode_pass(self, windows: Sequence[np.ndarray], layer: int | str) -> list[torch.Tensor]:
        """Frames of windows of at most 10 s, all through the layers at once."""
        # The last window may be shorter than one window of the filterbank.
        padded = [np.pad(window, (0, max(0, MEL_WINDOW - len(window)))) for window in windows]
        mel = extract_features(self.extractor, padded)["input_values"]  # (windows, time, mel)
        output = self.network(mel.to(self.device, self.dtype), output_hidden_states=layer != "last")
        hidden = output.last_hidden_state if layer == "last" else output.hidden_states[int(layer)]
        patches = hidden[:, NUM_SPECIAL:]  # (windows, bands · steps, width)
        shape = (len(windows), self.bands, self.steps, hidden.shape[-1])
        by_step = patches.reshape(shape).mean(1)  # (windows, steps, width)
        return [
            steps[: math.ceil(len(window) / self.traits.hop)]
            for steps, window in zip(by_step, windows, strict=True)
        ]
