"""The speech encoder: a folder in HF form → frames of each waveform, and the text of its CTC head
where it has one.

Real checkpoints and those trained here take the same path: the folder says which family it is
(``components.model.encoders.registry``) and with that its width, rate and rule for batches.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import AutoTokenizer

from components.audio.sound import RATE
from components.config.entries import EncoderNumerics
from components.config.errors import InputError
from components.model.encoders.arithmetic import use_arithmetic
from components.model.encoders.ctc import CtcHead
from components.model.encoders.ctc_head import HEADS
from components.model.encoders.registry import load_family
from components.model.folders.description import has_ctc, unsupported_folder
from components.model.folders.pretrained import DTYPES, FIXED


class SpeechEncoder(torch.nn.Module):
    """An encoder on one device: frozen, until some of its parameters are made trainable.

    ``layer`` is a hidden state, 0 (the input of the first layer) to the number of layers, or
    ``last`` (the encoder's output). The highest number is ``last``, behind the final norm of the
    families that have one; ``padding`` is Whisper's: ``window`` (30 s), ``full-window`` or
    ``none``; ``gpu_arithmetic`` is that of a frozen encoder on a GPU. Raises InputError for a
    folder that is no encoder and for a layer that it does not have.
    """

    def __init__(
        self,
        folder: Path,
        device: str = "cpu",
        dtype: str = "float32",
        layer: int | str = "last",
        padding: str = "window",
        gpu_arithmetic: str = "float32",
    ) -> None:
        super().__init__()
        self.folder, self.layer, self.padding = folder, layer, padding
        self.device, self.dtype = torch.device(device), DTYPES[dtype]
        self._arithmetic = gpu_arithmetic if self.device.type == "cuda" else "float32"
        self.family = load_family(folder, self.device, self.dtype, padding)
        self.traits = self.family.traits
        self.model = self.family.network
        self.has_ctc = has_ctc(folder)
        layers = self.traits.num_layers
        if layer != "last" and (layers is None or not 0 <= int(layer) <= layers):
            valid = "'last' alone" if layers is None else f"0 to {layers}, or 'last'"
            raise InputError(
                f"{folder} has no layer {layer}.", subject="features.layer", hint=f"Known: {valid}."
            )
        # transformers' last hidden state is before the final norm in some families and versions.
        self._hidden_state = "last" if layer == layers else layer
        read_tokenizer = partial(
            AutoTokenizer.from_pretrained, folder, local_files_only=True, trust_remote_code=False
        )
        try:
            self.tokenizer = read_tokenizer() if self.has_ctc else None
        except (OSError, ValueError) as error:
            raise unsupported_folder(folder, error) from None

    @classmethod
    def load(
        cls, folder: Path, device: str, numerics: EncoderNumerics, layer: int | str
    ) -> SpeechEncoder:
        """The encoder of a catalogue entry; raises as the constructor."""
        return cls(folder, device, numerics.dtype, layer, numerics.padding, numerics.gpu_arithmetic)

    @property
    def width(self) -> int:
        """Values per frame."""
        return self.traits.width

    @property
    def frame_rate(self) -> float:
        """Frames per second."""
        return self.traits.frame_rate

    @property
    def least_samples(self) -> int:
        """Samples at 16 kHz below which there is no frame."""
        return self.traits.least_samples

    @property
    def needs_equal_lengths(self) -> bool:
        """Whether a batch must have utterances of one length: group norm over time would include
        padding.
        """
        return self.traits.needs_equal_lengths

    def count_frames(self, samples: int) -> int:
        """Frames that so many samples at 16 kHz give; 0 below ``least_samples``."""
        return self.family.count_frames(samples)

    def computed_duration_s(self, samples: int) -> float:
        """Seconds of audio that are computed for so many samples alone: more where a family fills
        up its windows.
        """
        return self.family.count_computed_samples(samples) / RATE

    @property
    def head(self) -> Any:
        """The CTC head: last-layer frames, (…, width) → scores of units, (…, units); raises
        InputError without one.
        """
        if not self.has_ctc:
            raise InputError(
                f"{self.folder} has no CTC head.",
                subject=str(self.folder),
                hint="Name an encoder with a CTC head, or decode with the LLM.",
            )
        return next(getattr(self.model, name) for name in HEADS if hasattr(self.model, name))

    def parameters_with_gradient(self) -> list[str]:
        """Names of the parameters that frames depend on: not those of a head, of a masking that is
        off, of layers above the one that is taken, nor what training does not change (Whisper's
        sinusoids). Cost: a second of sound, forward and backward.
        """
        names = {
            name: parameter
            for name, parameter in self.named_parameters()
            if "lora_" not in name and not name.endswith(FIXED)
        }
        if not names:
            return []
        was_trainable = {parameter: parameter.requires_grad for parameter in self.parameters()}
        sound = np.sin(np.arange(RATE) * 0.3).astype(np.float32)
        with torch.enable_grad():
            self.requires_grad_(True)
            total = self.family.encode([sound], self._hidden_state)[0].float().sum()
            gradients = torch.autograd.grad(total, list(names.values()), allow_unused=True)
        for parameter, is_trainable in was_trainable.items():
            parameter.requires_grad_(is_trainable)
        return [
            name for name, gradient in zip(names, gradients, strict=True) if gradient is not None
        ]

    def forward(self, waveforms: Sequence[np.ndarray]) -> list[torch.Tensor]:
        """Frames of each waveform (mono float32 at 16 kHz), (frames, width), on the device, without
        those of padding (but for ``full-window``); with a graph where the encoder is being tuned.

        Raises InputError where a waveform is too short, or where lengths differ and the encoder
        forbids padding.
        """
        shortest = min(map(len, waveforms), default=self.least_samples)
        if shortest < self.least_samples:
            raise InputError(
                f"{shortest} samples are fewer than the {self.least_samples} that the encoder "
                "needs for a frame.",
                subject=str(self.folder),
                hint="Leave such clips out of their source.",
            )
        if self.needs_equal_lengths and len({len(waveform) for waveform in waveforms}) > 1:
            raise InputError(
                f"{self.folder} normalises over time: padding would change its frames.",
                subject=str(self.folder),
                hint="Set numerics.batching of its catalogue entry to equal-length.",
            )
        is_tuned = torch.is_grad_enabled() and any(
            parameter.requires_grad for parameter in self.parameters()
        )
        arithmetic = "float32" if is_tuned else self._arithmetic
        with torch.inference_mode(not is_tuned), use_arithmetic(arithmetic, self.device):
            return self.family.encode(waveforms, self._hidden_state) if len(waveforms) else []

    @property
    def stride(self) -> int:
        """Frames for each row of scores of the CTC head."""
        return 1

    @property
    def blank(self) -> int:
        """Id of the blank unit of the CTC head; raises InputError without one."""
        assert self.head is not None
        return int(self.model.config.pad_token_id)

    def decode_ctc(self, frames: Sequence[torch.Tensor]) -> list[str]:
        """Greedy CTC text of last-layer frames, each (frames, width); raises InputError without a
        CTC head.
        """
        return CtcHead(self).decode(frames)
