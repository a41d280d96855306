"""Whisper's encoder (Radford et al. 2022): windows of 30 s, or the true length without padding.

``window``: every utterance is filled up to 30 s with silence, as in pre-training, and its frames
are cut to the real length. ``full-window``: the same, and the frames of the silence are kept, 1,500
a window, as in SLAM-ASR (arXiv 2402.08846) and SALMONN (arXiv 2310.13289). ``none``: the same
layers on the true number of frames, with the position embeddings cut and the padding of a batch
masked: about length / 30 s of the work, and frames that differ a little, since no silence is
attended to. Longer audio is cut into windows of 30 s and their frames are joined; many windows run
in passes of ``PASS_SECONDS``.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn
from transformers import AutoModel, WhisperModel
from transformers.masking_utils import create_bidirectional_mask
from transformers.models.whisper.modeling_whisper import WhisperEncoder

from components.model.encoders.family import WindowedFamily
from components.model.encoders.traits import MEL_STEP, MEL_WINDOW, EncoderTraits
from components.model.folders.description import read_config
from components.model.folders.pretrained import extract_features, read_extractor, read_network


class WhisperFamily(WindowedFamily):
    """The encoder of a Whisper checkpoint, or of a folder with a Whisper encoder alone."""

    model_types = ("whisper",)

    def __init__(
        self, folder: Path, device: torch.device, dtype: torch.dtype, padding: str
    ) -> None:
        self.extractor = read_extractor(folder)
        is_encoder = read_config(folder).get("architectures") == ["WhisperEncoder"]
        loader = WhisperEncoder if is_encoder else AutoModel
        network = read_network(folder, loader, dtype, device, "" if is_encoder else "encoder.")
        self.network: WhisperEncoder = (
            network.get_encoder() if isinstance(network, WhisperModel) else network
        )
        self.traits = self.describe(self.network.config, self.extractor, padding)
        self.layers = int(self.network.config.encoder_layers)
        self.window = self._window(self.network.config, self.traits.hop)
        self.device, self.dtype, self.padding = device, dtype, padding

    @classmethod
    def describe(cls, config: Any, extractor: Any = None, padding: str = "window") -> EncoderTraits:
        """See ``CheckpointFamily``."""
        # The second convolution has stride 2: frames of 20 ms.
        hop = 2 * int(extractor.hop_length if extractor else MEL_STEP)
        return EncoderTraits(
            width=int(config.d_model),
            hop=hop,
            least_samples=int(extractor.n_fft if extractor else MEL_WINDOW),
            num_layers=int(config.encoder_layers),
            window=0 if padding == "none" else cls._window(config, hop),
            uses_full_window=padding == "full-window",
        )

    @staticmethod
    def _window(config: Any, hop: int) -> int:
        """Samples of 30 s."""
        return int(config.max_source_positions) * hop

    @staticmethod
    def encoder_of(network: Any) -> nn.Module:
        """The encoder half."""
        encoder: nn.Module = network.get_encoder()
        return encoder

    @staticmethod
    def decoder_of(network: Any) -> nn.Module | None:
        """The decoder half."""
        decoder: nn.Module = network.get_decoder()
        return decoder

    def count_frames(self, samples: int) -> int:
        """One frame for each 20 ms, complete or not, of the audio or of its windows. A window is a
        multiple of them, so cutting audio into windows does not change the number.
        """
        traits = self.traits
        if samples < traits.least_samples:
            return 0
        return math.ceil(traits.count_output_samples(samples) / traits.hop)

    def encode_pass(self, windows: Sequence[np.ndarray], layer: int | str) -> list[torch.Tensor]:
        """Frames of windows of at most 30 s, all through the layers at once."""
        lengths = [self.traits.count_output_samples(len(window)) for window in windows]
        counts = [math.ceil(samples / self.traits.hop) for samples in lengths]
        hidden = self._encode(self._mel(windows, counts), counts, layer)  # (windows, T, width)
        return [states[:count] for states, count in zip(hidden, counts, strict=True)]

    def _mel(self, windows: Sequence[np.ndarray], counts: Sequence[int]) -> torch.Tensor:
        """Log-mel, (windows, mel, time): 30 s of each, or as much as the longest needs, zeros
        behind the others.

        One spectral window of silence follows each, so that its last values do not depend on the
        length of the batch.
        """
        longest = max(map(len, windows)) + int(self.extractor.n_fft)
        length = min(self.window, longest) if self.padding == "none" else self.window
        batch = extract_features(self.extractor, windows, padding="max_length", max_length=length)
        mel: torch.Tensor = batch["input_features"]
        if self.padding == "none":
            mel = mel[:, :, : 2 * max(counts)]
            mel = mel * (torch.arange(mel.shape[2]) < 2 * torch.tensor(counts)[:, None])[:, None]
        return mel.to(self.device, self.dtype)

    def _encode(self, mel: torch.Tensor, counts: Sequence[int], layer: int | str) -> torch.Tensor:
        """The forward pass of transformers' WhisperEncoder on any number of frames, up to a
        layer: (windows, mel, 2 T) → (windows, T, width).
        """
        network = self.network
        hidden = nn.functional.gelu(network.conv1(mel))  # (windows, width, 2 T)
        hidden = nn.functional.gelu(network.conv2(hidden)).transpose(1, 2)  # (windows, T, width)
        hidden = hidden + network.embed_positions.weight[: hidden.shape[1]]
        mask = None
        if self.padding == "none":
            lengths = torch.tensor(counts, device=self.device)[:, None]
            is_frame = torch.arange(hidden.shape[1], device=self.device) < lengths  # (windows, T)
            mask = create_bidirectional_mask(
                config=network.config, inputs_embeds=hidden, attention_mask=is_frame
            )
        num_layers = self.layers if layer == "last" else int(layer)
        for block in network.layers[:num_layers]:
            hidden = block(hidden, mask)
        # The final norm belongs to the last state, as in hidden_states[-1] of transformers.
        states: torch.Tensor = network.layer_norm(hidden) if num_layers == self.layers else hidden
        return states
