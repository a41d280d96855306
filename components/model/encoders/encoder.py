"""The speech encoder: a folder in HF form → frames of each waveform, and the text of its CTC head
where it has one.

Real checkpoints and those trained here take the same path: the folder says which family it is
(components/model/encoders/families.py) and with that its width, rate and rule for batches.
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
from components.config.errors import InputError
from components.model.encoders.ctc_head import HEADS
from components.model.encoders.families import load_family, width_of
from components.model.folders.description import has_ctc, unsupported_folder
from components.model.folders.pretrained import DTYPES, FIXED


class SpeechEncoder(torch.nn.Module):
    """An encoder on one device: frozen, until some of its parameters are made trainable.

    ``layer`` is a hidden state, 0 (what enters the first layer) to the number of layers, or
    ``last`` (the encoder's output); ``padding`` is Whisper's: ``window`` (30 s) or ``none``. Raises
    InputError for a folder that is no encoder and for a layer that it does not have.
    """

    def __init__(
        self,
        folder: Path,
        device: str = "cpu",
        dtype: str = "float32",
        layer: int | str = "last",
        padding: str = "window",
    ) -> None:
        super().__init__()
        self.folder, self.device, self.dtype, self.layer, self.padding = (
            folder,
            torch.device(device),
            DTYPES[dtype],
            layer,
            padding,
        )
        self.family = load_family(folder, self.device, self.dtype, padding)
        self.model = self.family.network
        self.width = width_of(folder)  # values a frame
        self.has_ctc = has_ctc(folder)
        layers = self.family.layers
        if layer != "last" and (layers is None or not 0 <= int(layer) <= layers):
            known = "'last' alone" if layers is None else f"0 to {layers}, or 'last'"
            raise InputError(
                f"{folder} has no layer {layer}.", subject="features.layer", hint=f"Known: {known}."
            )
        try:
            tokenizer = partial(
                AutoTokenizer.from_pretrained,
                folder,
                local_files_only=True,
                trust_remote_code=False,
            )
            self.tokenizer = tokenizer() if self.has_ctc else None
        except (OSError, ValueError) as error:
            raise unsupported_folder(folder, error) from None

    @property
    def rate(self) -> float:
        """Frames a second."""
        return RATE / self.family.hop

    @property
    def least_samples(self) -> int:
        """Samples at 16 kHz below which there is no frame."""
        return self.family.least

    @property
    def equal_lengths(self) -> bool:
        """Whether a batch must hold utterances of one length: group norm over time takes in
        padding.
        """
        return self.family.equal_lengths

    def frames_of(self, samples: int) -> int:
        """Frames that so many samples at 16 kHz will give; 0 below ``least_samples``."""
        return self.family.frames_of(samples)

    def padded_seconds(self, samples: int) -> float:
        """Seconds of audio that are computed for so many samples alone: more where a family fills
        up its windows.
        """
        return self.family.padded(samples) / RATE

    @property
    def head(self) -> Any:
        """The CTC head: last-layer frames, shape (…, width) → scores of units, shape (…, units);
        raises InputError without one.
        """
        if not self.has_ctc:
            raise InputError(f"{self.folder} has no CTC head.", subject=str(self.folder))
        return next(getattr(self.model, name) for name in HEADS if hasattr(self.model, name))

    def parameters_with_gradient(self) -> list[str]:
        """Names of the parameters that frames hang on: not those of a head, of a masking that is
        off, of layers above the one that is taken, nor what training leaves fixed (Whisper's
        sinusoids). Cost: a second of sound, forth and back.
        """
        names = {
            name: parameter
            for name, parameter in self.named_parameters()
            if "lora_" not in name and not name.endswith(FIXED)
        }
        if not names:
            return []
        trained = {parameter: parameter.requires_grad for parameter in self.parameters()}
        sound = np.sin(np.arange(RATE) * 0.3).astype(np.float32)
        with torch.enable_grad():
            self.requires_grad_(True)
            total = self.family.frames([sound], self.layer)[0].float().sum()
            found = torch.autograd.grad(total, list(names.values()), allow_unused=True)
        for parameter, held in trained.items():
            parameter.requires_grad_(held)
        return [name for name, gradient in zip(names, found, strict=True) if gradient is not None]

    def forward(self, waveforms: Sequence[np.ndarray]) -> list[torch.Tensor]:
        """Frames of each waveform (mono float32 at 16 kHz), shape (frames, width), on the device;
        padding is cut off.

        With a graph behind them where the encoder is being tuned. Raises InputError where one is
        too short, or where lengths differ and the encoder forbids padding.
        """
        shortest = min(map(len, waveforms), default=self.least_samples)
        if shortest < self.least_samples:
            raise InputError(
                f"{shortest} samples are fewer than the {self.least_samples} that the encoder "
                "needs for a frame.",
                subject=str(self.folder),
                hint="Leave such clips out of their source.",
            )
        if self.equal_lengths and len({len(waveform) for waveform in waveforms}) > 1:
            raise InputError(
                f"{self.folder} normalises over time: padding would change its frames.",
                subject=str(self.folder),
                hint="Set numerics.batching of its catalogue entry to equal-length.",
            )
        tuned = torch.is_grad_enabled() and any(
            parameter.requires_grad for parameter in self.parameters()
        )
        with torch.inference_mode(not tuned):
            return self.family.frames(waveforms, self.layer) if len(waveforms) else []

    @torch.inference_mode()
    def ctc_text(self, frames: Sequence[torch.Tensor]) -> list[str]:
        """Greedy CTC text of last-layer frames: best unit of each frame, repeats joined, blanks
        dropped.
        """
        head, tokenizer, texts = self.head, self.tokenizer, []
        assert tokenizer is not None  # it comes with the head
        for each in frames:
            units = (
                head(each.to(self.device, self.dtype)[None]).argmax(-1)[0]
                if len(each)
                else torch.zeros(0, dtype=torch.long)
            )
            texts.append(tokenizer.decode(units.tolist()))
        return [" ".join(text.split()) for text in texts]
