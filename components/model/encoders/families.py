"""Families of speech encoders behind one interface: how each is fed, how many frames it gives,
which batches it bears.

``load_family`` reads the family from the ``model_type`` of a folder's ``config.json``. Width, rate,
layers and the rule for padding follow from the checkpoint, the width (``width_of``) without its
weights; what a user chooses (dtype, layer, Whisper's padding) comes from outside.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import AutoModel, AutoModelForCTC

from components.config.errors import nearest
from components.model.encoders.events import JoinedEncoders, SpectrogramTransformer
from components.model.encoders.family import Family
from components.model.encoders.whisper import Whisper
from components.model.folders.description import has_ctc, read_config, unsupported_folder
from components.model.folders.pretrained import (
    extracted,
    read_extractor,
    read_network,
    read_settings,
)

warnings.filterwarnings(
    "ignore", message=".*mismatched key_padding_mask.*"
)  # between WavLM and torch
FBANK, JOINED = "fbank", "joined-encoders"  # model types of folders that are written here


@dataclass(frozen=True)
class FrontEnd:
    """What stands before the layers of a padded family."""

    step: int  # samples for each input of the network: 160 for log-mel at 100 Hz, 1 for samples
    stride: int  # inputs for each frame
    least: int  # samples


def mel_front(config: Any, extractor: Any) -> FrontEnd:
    """Parakeet: log-mel, normalised per utterance; a variance needs two of them."""
    return FrontEnd(
        int(extractor.hop_length), int(config.subsampling_factor), 2 * int(extractor.hop_length)
    )


def convolutional_front(config: Any, extractor: Any) -> FrontEnd:
    """HuBERT, wav2vec2, WavLM: samples through seven convolutions (stride 320, reach
    400 samples).
    """
    reach = 1
    for kernel, stride in zip(
        reversed(config.conv_kernel), reversed(config.conv_stride), strict=True
    ):
        reach = (reach - 1) * stride + kernel
    return FrontEnd(1, math.prod(config.conv_stride), reach)


class Padded:
    """Families whose batches are padded to the longest and masked; with a CTC head or without."""

    def __init__(
        self,
        folder: Path,
        device: torch.device,
        dtype: torch.dtype,
        front: Callable[[Any, Any], FrontEnd],
    ) -> None:
        self.extractor = read_extractor(folder)
        ctc = has_ctc(folder)
        self.network = read_network(folder, AutoModelForCTC if ctc else AutoModel, dtype, device)
        # Below a CTC head lies the encoder, by the name of its family, or plainly ``encoder``
        # (Parakeet).
        self.body = self.network
        if ctc:
            self.body = (
                getattr(self.network, self.network.base_model_prefix, None) or self.network.encoder
            )
        config = self.body.config
        self.layers = int(config.num_hidden_layers)
        self.front = front(config, self.extractor)
        self.hop, self.least = self.front.step * self.front.stride, self.front.least
        self.equal_lengths = getattr(config, "feat_extract_norm", "layer") == "group"
        # Group-norm checkpoints say return_attention_mask = false: they were trained on zero
        # padding without a mask.
        self.takes_mask = bool(getattr(self.extractor, "return_attention_mask", True))
        self.device, self.dtype = device, dtype

    def frames_of(self, samples: int) -> int:
        """Frames of so many samples, by the arithmetic of the convolutions."""
        if samples < self.least:
            return 0
        inputs = torch.tensor([samples // self.front.step])
        for name in ("_get_subsampling_output_length", "_get_feat_extract_output_lengths"):
            if hasattr(self.body, name):
                return int(getattr(self.body, name)(inputs))
        raise TypeError(f"{type(self.body).__name__} does not tell how many frames it gives.")

    def padded(self, samples: int) -> int:
        """Samples that are computed for so many: no more."""
        return samples

    def inputs(self, waveforms: Sequence[np.ndarray]) -> dict[str, torch.Tensor]:
        """What the network takes, padded to the longest of ``waveforms``."""
        batch = extracted(self.extractor, waveforms, padding=True, return_attention_mask=True)
        return {
            name: batch[name]
            for name in batch
            if name in ("input_features", "input_values", "attention_mask")
        }

    def frames(self, waveforms: Sequence[np.ndarray], layer: int | str) -> list[torch.Tensor]:
        """Frames of each waveform, shape (frames, width)."""
        moved = {name: tensor.to(self.device) for name, tensor in self.inputs(waveforms).items()}
        for name in ("input_features", "input_values"):
            if name in moved:
                moved[name] = moved[name].to(self.dtype)
        if not self.takes_mask:
            del moved["attention_mask"]
        wants_all = layer != "last"
        output = self.body(**moved, output_hidden_states=wants_all)
        hidden = output.hidden_states[int(layer)] if wants_all else output.last_hidden_state
        return [
            frames[: self.frames_of(len(waveform))]
            for frames, waveform in zip(hidden, waveforms, strict=True)
        ]


class Filterbank:
    """No encoder: log-mel at 100 Hz, normalised per utterance, for a projector that stacks ten or
    so.
    """

    layers = None
    equal_lengths = False

    def __init__(self, folder: Path, device: torch.device, dtype: torch.dtype) -> None:
        self.extractor = read_extractor(folder)
        self.network = torch.nn.Identity()
        self.hop = int(self.extractor.hop_length)
        self.least = 2 * self.hop  # the variance needs two frames
        self.device, self.dtype = device, dtype

    def frames_of(self, samples: int) -> int:
        """Frames of so many samples: one for each whole 10 ms."""
        return samples // self.hop if samples >= self.least else 0

    def padded(self, samples: int) -> int:
        """Samples that are computed for so many: no more."""
        return samples

    def frames(self, waveforms: Sequence[np.ndarray], layer: int | str) -> list[torch.Tensor]:
        """Frames of each waveform, shape (frames, mel)."""
        mel = extracted(self.extractor, waveforms, padding=True)["input_features"]
        mel = mel.to(self.device, self.dtype)
        return [
            frames[: self.frames_of(len(waveform))]
            for frames, waveform in zip(mel, waveforms, strict=True)
        ]


PADDED = {
    "parakeet_ctc": mel_front,
    "parakeet_encoder": mel_front,
    "hubert": convolutional_front,
    "wav2vec2": convolutional_front,
    "wavlm": convolutional_front,
}
KNOWN = (*PADDED, "whisper", "audio-spectrogram-transformer", FBANK, JOINED)


def _kind_of(folder: Path, config: dict[str, Any]) -> str:
    kind = config.get("model_type", "")
    if kind not in KNOWN:
        raise unsupported_folder(
            folder, f"its model_type '{kind}' is of no known family. {nearest(kind, KNOWN)}"
        )
    return kind


def width_of(folder: Path) -> int:
    """Values a frame of the encoder in a folder, whose weights are not read; raises InputError as
    ``load_family`` does.
    """
    config = read_config(folder)
    kind = _kind_of(folder, config)
    if kind == JOINED:
        return sum(width_of(folder / part) for part in config["parts"])
    if kind == FBANK:
        return int(read_extractor(folder).feature_size)
    settings = read_settings(folder)
    return int(
        getattr(settings, "encoder_config", settings).hidden_size
    )  # Parakeet's stand below those of its CTC head


def load_family(folder: Path, device: torch.device, dtype: torch.dtype, padding: str) -> Family:
    """The encoder of a folder, frozen, on the device; raises InputError where the folder is none or
    of no known family.
    """
    config = read_config(folder)
    kind = _kind_of(folder, config)
    if kind == JOINED:
        return JoinedEncoders(
            [load_family(folder / part, device, dtype, padding) for part in config["parts"]]
        )
    if kind == FBANK:
        return Filterbank(folder, device, dtype)
    if kind == "whisper":
        return Whisper(folder, device, dtype, padding)
    if kind == "audio-spectrogram-transformer":
        return SpectrogramTransformer(folder, device, dtype)
    return Padded(folder, device, dtype, PADDED[kind])
