"""Families with a convolutional front end, padded to the longest of a batch and masked: HuBERT,
wav2vec2 and WavLM on samples, Parakeet on log-mel. With a CTC head or without.

Frames of the folder's checkpoint; those whose convolutions have group norm over time cannot be
padded (``needs_equal_lengths``).
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn
from transformers import AutoModel, AutoModelForCTC

from components.model.encoders.family import CheckpointFamily
from components.model.encoders.traits import MEL_STEP, EncoderTraits
from components.model.folders.description import has_ctc
from components.model.folders.pretrained import extract_features, read_extractor, read_network

# Between WavLM and torch.
warnings.filterwarnings("ignore", message=".*mismatched key_padding_mask.*")


class MaskedFamily(CheckpointFamily):
    """Batches padded to the longest utterance, with an attention mask."""

    inputs_per_step: int  # samples of one input of the network: 160 for log-mel, 1 for samples

    def __init__(
        self, folder: Path, device: torch.device, dtype: torch.dtype, padding: str
    ) -> None:
        self.extractor = read_extractor(folder)
        loader = AutoModelForCTC if has_ctc(folder) else AutoModel
        self.network = read_network(folder, loader, dtype, device)
        self.body: Any = self.encoder_of(self.network)
        self.traits = self.describe(self.body.config, self.extractor)
        # Checkpoints with group norm say return_attention_mask = false: they were trained on zero
        # padding without a mask.
        self.uses_mask = bool(getattr(self.extractor, "return_attention_mask", True))
        self.device, self.dtype = device, dtype

    @classmethod
    def loaded_part(cls, network: Any) -> nn.Module:
        """The network with the head that it has."""
        loaded: nn.Module = network
        return loaded

    def count_frames(self, samples: int) -> int:
        """Frames by the arithmetic of the convolutions."""
        if samples < self.traits.least_samples:
            return 0
        inputs = torch.tensor([samples // self.inputs_per_step])
        for name in ("_get_subsampling_output_length", "_get_feat_extract_output_lengths"):
            if hasattr(self.body, name):
                return int(getattr(self.body, name)(inputs))
        raise TypeError(f"{type(self.body).__name__} does not tell how many frames it gives.")

    def inputs(self, waveforms: Sequence[np.ndarray]) -> dict[str, torch.Tensor]:
        """What the network takes, padded to the longest of ``waveforms``: values (B, T) or
        (B, T, mel), and the mask (B, T).
        """
        batch = extract_features(
            self.extractor, waveforms, padding=True, return_attention_mask=True
        )
        names = ("input_features", "input_values", "attention_mask")
        return {name: batch[name] for name in batch if name in names}

    def encode(self, waveforms: Sequence[np.ndarray], layer: int | str) -> list[torch.Tensor]:
        """Frames of each waveform, (frames, width), of the network's states without its head."""
        inputs = {name: tensor.to(self.device) for name, tensor in self.inputs(waveforms).items()}
        for name in ("input_features", "input_values"):
            if name in inputs:
                inputs[name] = inputs[name].to(self.dtype)
        if not self.uses_mask:
            del inputs["attention_mask"]
        needs_all = layer != "last"
        output = self.body(**inputs, output_hidden_states=needs_all)
        hidden = output.hidden_states[int(layer)] if needs_all else output.last_hidden_state
        return [
            frames[: self.count_frames(len(waveform))]  # (frames, width)
            for frames, waveform in zip(hidden, waveforms, strict=True)
        ]


class WaveformFamily(MaskedFamily):
    """HuBERT, wav2vec2, WavLM: samples through seven convolutions, with a stride of 320 and a
    receptive field of 400 samples.
    """

    model_types = ("hubert", "wav2vec2", "wavlm")
    inputs_per_step = 1

    @classmethod
    def describe(cls, config: Any, extractor: Any = None, padding: str = "window") -> EncoderTraits:
        """See ``CheckpointFamily``."""
        receptive_field = 1
        for kernel, stride in zip(
            reversed(config.conv_kernel), reversed(config.conv_stride), strict=True
        ):
            receptive_field = (receptive_field - 1) * stride + kernel
        return EncoderTraits(
            width=int(config.hidden_size),
            hop=math.prod(config.conv_stride),
            least_samples=receptive_field,
            num_layers=int(config.num_hidden_layers),
            needs_equal_lengths=config.feat_extract_norm == "group",
        )


class ParakeetFamily(MaskedFamily):
    """Parakeet (Conformer): log-mel normalised per utterance, subsampled by convolutions."""

    model_types = ("parakeet_ctc", "parakeet_encoder")
    inputs_per_step = MEL_STEP

    def __init__(
        self, folder: Path, device: torch.device, dtype: torch.dtype, padding: str
    ) -> None:
        super().__init__(folder, device, dtype, padding)
        self.inputs_per_step = int(self.extractor.hop_length)

    @classmethod
    def describe(cls, config: Any, extractor: Any = None, padding: str = "window") -> EncoderTraits:
        """See ``CheckpointFamily``."""
        config = getattr(config, "encoder_config", config)  # below the settings of its CTC head
        mel_step = int(extractor.hop_length if extractor else MEL_STEP)
        return EncoderTraits(
            width=int(config.hidden_size),
            hop=mel_step * int(config.subsampling_factor),
            least_samples=2 * mel_step,  # the variance needs two
            num_layers=int(config.num_hidden_layers),
        )

    @staticmethod
    def encoder_of(network: Any) -> nn.Module:
        """The encoder below a CTC head."""
        has_head = network.config.model_type == "parakeet_ctc"
        encoder: nn.Module = network.encoder if has_head else network
        return encoder
