"""Whisper's encoder (Radford et al. 2022): windows of 30 s, or the true length without padding.

``window``: every utterance is filled up to 30 s with silence, as in pre-training and in the papers,
and its frames are cut to the real length. ``none``: the same layers on the true number of frames,
the position embeddings cut, padding of a batch masked: about 30 s / length of the work, and frames
that differ a little, since no silence is attended to. Either way longer audio is cut into windows
of 30 s and their frames are joined; of many windows, as many run at once as ``PASS_SECONDS`` holds.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import torch
from transformers import AutoModel, WhisperModel
from transformers.masking_utils import create_bidirectional_mask
from transformers.models.whisper.modeling_whisper import WhisperEncoder

from components.audio.sound import RATE
from components.model.folders.description import read_config
from components.model.folders.pretrained import extracted, read_extractor, read_network

# Of audio that runs through the layers at once, what is padded counted. A window of whisper-large
# takes about 100 MB in fp32 beside the weights, so this is 1.6 GB; a recording of 35 minutes in one
# pass would take 7 GB.
PASS_SECONDS = 480


def windows(waveform: np.ndarray, samples: int) -> list[np.ndarray]:
    """``waveform`` cut into windows of ``samples``; the last one is what is left."""
    return [waveform[start : start + samples] for start in range(0, len(waveform), samples)]


def passes(lengths: Sequence[int]) -> Iterator[slice]:
    """Cuts pieces of ``lengths`` samples, in their order, into runs whose size, each padded to the
    longest of its run, stays within ``PASS_SECONDS``; a longer piece is a run of its own.
    """
    start = longest = 0
    for place, length in enumerate(lengths):
        longest = max(longest, length)
        if place > start and longest * (place + 1 - start) > PASS_SECONDS * RATE:
            yield slice(start, place)
            start, longest = place, length
    if lengths:
        yield slice(start, len(lengths))


class Whisper:
    """The encoder of a Whisper checkpoint, or of a folder that holds a Whisper encoder alone."""

    equal_lengths = False

    def __init__(
        self, folder: Path, device: torch.device, dtype: torch.dtype, padding: str
    ) -> None:
        self.extractor = read_extractor(folder)
        alone = read_config(folder).get("architectures") == ["WhisperEncoder"]
        loader = WhisperEncoder if alone else AutoModel
        network = read_network(folder, loader, dtype, device, "" if alone else "encoder.")
        self.network: WhisperEncoder = (
            network.get_encoder() if isinstance(network, WhisperModel) else network
        )
        config = self.network.config
        self.layers = int(config.encoder_layers)
        self.hop = 2 * int(self.extractor.hop_length)  # the second convolution has stride 2: 20 ms
        self.window = int(config.max_source_positions) * self.hop  # 30 s
        self.least = int(self.extractor.n_fft)  # one window of the spectrum: 25 ms
        self.device, self.dtype, self.padding = device, dtype, padding

    def frames_of(self, samples: int) -> int:
        """Frames of so many samples: one for each 20 ms begun. A window holds whole frames, so
        cutting changes nothing.
        """
        return math.ceil(samples / self.hop) if samples >= self.least else 0

    def padded(self, samples: int) -> int:
        """Samples that are computed for so many."""
        return (
            math.ceil(samples / self.window) * self.window if self.padding == "window" else samples
        )

    def frames(self, waveforms: Sequence[np.ndarray], layer: int | str) -> list[torch.Tensor]:
        """Frames of each waveform, shape (frames, width)."""
        pieces = [windows(waveform, self.window) for waveform in waveforms]
        flat = [piece for each in pieces for piece in each]
        cut = iter(
            [
                states
                for run in passes([self.padded(len(piece)) for piece in flat])
                for states in self._pass(flat[run], layer)
            ]
        )
        return [torch.cat([next(cut) for _ in each]) for each in pieces]

    def _pass(self, pieces: Sequence[np.ndarray], layer: int | str) -> list[torch.Tensor]:
        """Frames of each piece of at most 30 s, all through the layers at once."""
        counts = [math.ceil(len(piece) / self.hop) for piece in pieces]
        hidden = self._encoded(self._mel(pieces, counts), counts, layer)
        return [states[:count] for states, count in zip(hidden, counts, strict=True)]

    def _mel(self, pieces: Sequence[np.ndarray], counts: Sequence[int]) -> torch.Tensor:
        """Log-mel, shape (pieces, mel, time): 30 s of each, or as much as the longest needs, zeros
        behind the others.

        Silence of one spectral window follows each piece, so that its last values do not hang on
        how long the batch is.
        """
        most = (
            self.window
            if self.padding == "window"
            else min(self.window, max(map(len, pieces)) + int(self.extractor.n_fft))
        )
        mel = extracted(self.extractor, pieces, padding="max_length", max_length=most)[
            "input_features"
        ]
        if self.padding == "none":
            mel = mel[:, :, : 2 * max(counts)]
            mel = mel * (torch.arange(mel.shape[2]) < 2 * torch.tensor(counts)[:, None])[:, None]
        return mel.to(self.device, self.dtype)

    def _encoded(self, mel: torch.Tensor, counts: Sequence[int], layer: int | str) -> torch.Tensor:
        """The forward pass of transformers' WhisperEncoder on any number of frames, up to the
        wanted layer.
        """
        network = self.network
        hidden = torch.nn.functional.gelu(network.conv1(mel))
        hidden = torch.nn.functional.gelu(network.conv2(hidden)).transpose(1, 2)
        hidden = hidden + network.embed_positions.weight[: hidden.shape[1]]
        mask = None
        if self.padding == "none":
            real = (
                torch.arange(hidden.shape[1], device=self.device)
                < torch.tensor(counts, device=self.device)[:, None]
            )
            mask = create_bidirectional_mask(
                config=network.config, inputs_embeds=hidden, attention_mask=real
            )
        wanted = self.layers if layer == "last" else int(layer)
        for block in network.layers[:wanted]:
            hidden = block(hidden, mask)
        return (
            network.layer_norm(hidden) if wanted == self.layers else hidden
        )  # as hidden_states[-1] of transformers
