"""The speech encoder: a folder in HF form → frames of each waveform, and the text of its CTC head where it has one.

Real checkpoints and those trained here take the same path: the Auto classes read architecture, feature extractor and
tokenizer from the folder; only safetensors are read and no code of a checkpoint is run.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from transformers import AutoConfig, AutoFeatureExtractor, AutoModel, AutoModelForCTC, AutoTokenizer

from components.audio.sound import RATE
from components.config.errors import InputError

LEAST_SAMPLES = 400  # 25 ms at 16 kHz: the window of every family's front end
DTYPES = {"float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16}


class SpeechEncoder:
    """A frozen encoder on one device."""

    def __init__(self, folder: Path, device: str = "cpu", dtype: str = "float32", layer: int | str = "last") -> None:
        self.folder, self.device, self.dtype, self.layer = folder, torch.device(device), DTYPES[dtype], layer
        try:
            config = AutoConfig.from_pretrained(folder, local_files_only=True)
            self.extractor = AutoFeatureExtractor.from_pretrained(folder, local_files_only=True)
            self.has_ctc = any(name.endswith("ForCTC") for name in config.architectures or ())
            loader = AutoModelForCTC if self.has_ctc else AutoModel
            model = loader.from_pretrained(folder, local_files_only=True, use_safetensors=True, dtype=self.dtype)
            self.tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True) if self.has_ctc else None
        except (OSError, ValueError) as error:
            raise InputError(f"{folder} does not load as an encoder: {error}", unit=str(folder),
                             way_out="A folder in HF form with safetensors is needed.") from None  # fmt: skip
        self.model = model.eval().requires_grad_(False).to(self.device)
        # Below a CTC head lies the encoder, by the name of its family, or plainly ``encoder`` (Parakeet).
        self.body = getattr(model, model.base_model_prefix, None) or model.encoder if self.has_ctc else model
        # Group-norm checkpoints say return_attention_mask = false: they were trained on zero padding without a mask.
        self.takes_mask = bool(getattr(self.extractor, "return_attention_mask", True))

    @property
    def width(self) -> int:
        """Values a frame."""
        return int(self.body.config.hidden_size)

    def inputs(self, waveforms: Sequence[np.ndarray]) -> dict[str, torch.Tensor]:
        """What the model takes, padded to the longest of ``waveforms`` (each mono float32 at 16 kHz)."""
        batch = self.extractor(list(waveforms), sampling_rate=RATE, return_tensors="pt", padding=True,
                               return_attention_mask=True)  # fmt: skip
        return {name: batch[name] for name in batch if name in ("input_features", "input_values", "attention_mask")}

    def frame_counts(self, mask: torch.Tensor) -> torch.Tensor:
        """Frames of each utterance, shape (batch,), from the mask of its inputs, shape (batch, time)."""
        lengths = mask.sum(-1)
        for name in ("_get_subsampling_output_length", "_get_feat_extract_output_lengths"):
            if hasattr(self.body, name):
                return getattr(self.body, name)(lengths).to(torch.long)
        raise InputError(f"{self.folder}: how many frames '{type(self.body).__name__}' gives is not known.", unit=str(self.folder))

    @torch.inference_mode()
    def __call__(self, waveforms: Sequence[np.ndarray]) -> list[torch.Tensor]:
        """Frames of each waveform, shape (frames, width), on the device; padding is cut off."""
        inputs = self.inputs(waveforms)
        counts = self.frame_counts(inputs["attention_mask"])
        moved = {name: tensor.to(self.device) for name, tensor in inputs.items()}
        for name in ("input_features", "input_values"):
            if name in moved:
                moved[name] = moved[name].to(self.dtype)
        if not self.takes_mask:
            del moved["attention_mask"]
        wants_all = self.layer != "last"
        output = self.body(**moved, output_hidden_states=wants_all)
        hidden = output.hidden_states[int(self.layer)] if wants_all else output.last_hidden_state
        return [frames[:count] for frames, count in zip(hidden, counts.tolist(), strict=True)]

    @torch.inference_mode()
    def ctc_text(self, frames: Sequence[torch.Tensor]) -> list[str]:
        """Greedy CTC text of last-layer frames: best unit of each frame, repeats joined, blanks dropped."""
        if not self.has_ctc or self.tokenizer is None:
            raise InputError(f"{self.folder} has no CTC head.", unit=str(self.folder))
        head = getattr(self.model, "ctc_head", None) or self.model.lm_head
        texts = []
        for each in frames:
            units = head(each.to(self.device, self.dtype)[None]).argmax(-1)[0] if len(each) else torch.zeros(0, dtype=torch.long)
            texts.append(self.tokenizer.decode(units.tolist()))
        return [" ".join(text.split()) for text in texts]
