"""No encoder: log-mel at 100 Hz, normalised per utterance, for a projector that stacks about ten
frames.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from components.model.encoders.family import Family
from components.model.encoders.traits import EncoderTraits, filterbank_traits
from components.model.folders.pretrained import extract_features, read_extractor


class FilterbankFamily(Family):
    """Frames of a log-mel front end in a folder that this project wrote."""

    def __init__(self, folder: Path, device: torch.device, dtype: torch.dtype) -> None:
        self.extractor = read_extractor(folder)
        self.network = torch.nn.Identity()
        self.traits = _traits_of(self.extractor)
        self.device, self.dtype = device, dtype

    @staticmethod
    def read_traits(folder: Path) -> EncoderTraits:
        """The traits of the front end in ``folder``."""
        return _traits_of(read_extractor(folder))

    def count_frames(self, samples: int) -> int:
        """One frame for each complete 10 ms."""
        return samples // self.traits.hop if samples >= self.traits.least_samples else 0

    def encode(self, waveforms: Sequence[np.ndarray], layer: int | str) -> list[torch.Tensor]:
        """Log-mel frames of each waveform, (frames, mel); ``layer`` has no meaning."""
        mel = extract_features(self.extractor, waveforms, padding=True)[
            "input_features"
        ]  # (B, T, mel)
        mel = mel.to(self.device, self.dtype)
        return [
            frames[: self.count_frames(len(waveform))]  # (frames, mel)
            for frames, waveform in zip(mel, waveforms, strict=True)
        ]


def _traits_of(extractor: Any) -> EncoderTraits:
    return filterbank_traits(int(extractor.feature_size), int(extractor.hop_length))
