"""What every family of speech encoders is: the interface behind ``SpeechEncoder``.

One module a family (``whisper``, ``convolutional``, ``events``, ``filterbank``, ``joined``), all in
``registry``. A family costs nothing but loading its weights.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from torch import nn

from components.audio.sound import RATE
from components.model.encoders.traits import EncoderTraits
from components.model.folders.pretrained import read_settings

# Seconds of audio that run through the layers at once, padding included. A window of whisper-large
# takes about 100 MB in fp32 besides the weights, so this is 1.6 GB; a recording of 35 minutes in
# one pass would take 7 GB.
PASS_SECONDS = 480


class Family(ABC):
    """A loaded encoder; sample counts are at 16 kHz."""

    network: Any  # torch module
    traits: EncoderTraits

    @abstractmethod
    def count_frames(self, samples: int) -> int:
        """Frames that so many samples give; 0 below ``traits.least_samples``."""

    def count_computed_samples(self, samples: int) -> int:
        """Samples that are computed for so many."""
        return self.traits.count_computed_samples(samples)

    @abstractmethod
    def encode(self, waveforms: Sequence[np.ndarray], layer: int | str) -> list[torch.Tensor]:
        """Frames of each waveform, (frames, width), on the device, without those of padding unless
        ``traits.uses_full_window``.

        ``layer`` is a hidden state by its number, or ``last``.
        """


class CheckpointFamily(Family):
    """A family whose networks are checkpoints in HF form."""

    model_types: ClassVar[tuple[str, ...]]  # of config.json

    @abstractmethod
    def __init__(
        self, folder: Path, device: torch.device, dtype: torch.dtype, padding: str
    ) -> None:
        """Loads the encoder of ``folder``, frozen; ``padding`` is Whisper's rule, ``window``,
        ``full-window`` or ``none``. Raises InputError where the folder is no encoder.
        """

    @classmethod
    @abstractmethod
    def describe(cls, config: Any, extractor: Any = None, padding: str = "window") -> EncoderTraits:
        """The traits of an encoder with the transformers configuration ``config``; without its
        feature extractor those of log-mel at 100 Hz.
        """

    @classmethod
    def read_traits(cls, folder: Path, padding: str = "window") -> EncoderTraits:
        """The traits of the encoder in ``folder`` by its ``config.json`` alone: with log-mel at
        100 Hz, which a loaded encoder may not have. ``padding`` is Whisper's, as in ``__init__``.
        Raises InputError where there is no such file.
        """
        return cls.describe(read_settings(folder), padding=padding)

    @staticmethod
    def encoder_of(network: Any) -> nn.Module:
        """The part of a checkpoint's network that computes frames: what is below a head."""
        encoder: nn.Module = getattr(network, network.base_model_prefix, network)
        return encoder

    @classmethod
    def loaded_part(cls, network: Any) -> nn.Module:
        """The part of a checkpoint's network that ``__init__`` loads."""
        return cls.encoder_of(network)

    @staticmethod
    def decoder_of(network: Any) -> nn.Module | None:
        """The part of a checkpoint's network that writes text without an LLM."""
        return None


class WindowedFamily(CheckpointFamily):
    """A family that computes at most ``window`` samples at a time: longer audio is cut into
    windows, and their frames are joined. Many windows run in passes of ``PASS_SECONDS``.
    """

    window: int  # samples

    @abstractmethod
    def encode_pass(self, windows: Sequence[np.ndarray], layer: int | str) -> list[torch.Tensor]:
        """Frames of windows, each (frames, width), all through the layers at once."""

    def encode(self, waveforms: Sequence[np.ndarray], layer: int | str) -> list[torch.Tensor]:
        """Frames of each waveform, (frames, width): those of its windows, joined."""
        windows = [split_windows(waveform, self.window) for waveform in waveforms]
        flat = [window for utterance in windows for window in utterance]
        passes = split_passes([self.count_computed_samples(len(window)) for window in flat])
        states = iter([frames for run in passes for frames in self.encode_pass(flat[run], layer)])
        return [torch.cat([next(states) for _ in utterance]) for utterance in windows]


def split_windows(waveform: np.ndarray, samples: int) -> list[np.ndarray]:
    """``waveform`` in windows of ``samples``; the last one has the remaining ones."""
    return [waveform[start : start + samples] for start in range(0, len(waveform), samples)]


def split_passes(lengths: Sequence[int]) -> Iterator[slice]:
    """Runs of pieces of ``lengths`` samples, in their order, whose size, each piece padded to the
    longest of its run, is at most ``PASS_SECONDS``; a longer piece is a run of its own.
    """
    start = longest = 0
    for index, length in enumerate(lengths):
        longest = max(longest, length)
        if index > start and longest * (index + 1 - start) > PASS_SECONDS * RATE:
            yield slice(start, index)
            start, longest = index, length
    if lengths:
        yield slice(start, len(lengths))
