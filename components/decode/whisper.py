"""Whisper's own decoder (Radford et al. 2022): the baseline beside the LLM, where the encoder is a
whole Whisper checkpoint.

In: waveforms, mono float32 at 16 kHz. Out: a text each. Greedy, as transcription, in the language
that the checkpoint finds where it knows several; audio over 30 s in windows, their texts joined.
Each window is decoded by itself. Cost: the checkpoint's.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import WhisperForConditionalGeneration, WhisperTokenizerFast

from components.audio.sound import RATE
from components.model.encoders.whisper import windows
from components.model.folders.description import unsupported_folder
from components.model.folders.pretrained import read_extractor

LONGEST = 224  # tokens of a window: half of the decoder's positions, as in Whisper's own code


class WhisperDecoder:
    """A Whisper checkpoint on one device, in fp32; raises InputError for a folder that does not
    load as one.
    """

    def __init__(self, folder: Path, device: str) -> None:
        self._extractor, self._device = read_extractor(folder), device
        try:
            self._tokenizer: Any = WhisperTokenizerFast.from_pretrained(
                folder, local_files_only=True
            )
            network = WhisperForConditionalGeneration.from_pretrained(
                folder, local_files_only=True, use_safetensors=True, dtype=torch.float32
            )
        except (OSError, ValueError) as error:
            raise unsupported_folder(folder, error) from None
        self._network: Any = network.eval().requires_grad_(False).to(device)
        self._network.generation_config.max_length = (
            None  # of checkpoints without one of their own: it fights max_new_tokens
        )

    @torch.inference_mode()
    def __call__(self, waveforms: Sequence[np.ndarray]) -> list[str]:
        """The text of each waveform; empty for an empty one."""
        window = (
            int(self._network.config.max_source_positions) * 2 * int(self._extractor.hop_length)
        )
        return [
            " ".join(" ".join(self._window(piece) for piece in windows(waveform, window)).split())
            for waveform in waveforms
        ]

    def _window(self, waveform: np.ndarray) -> str:
        features = self._extractor(
            waveform, sampling_rate=RATE, return_tensors="pt"
        ).input_features.to(self._device)
        asked = (
            {"task": "transcribe"}
            if getattr(self._network.generation_config, "is_multilingual", False)
            else {}
        )
        tokens = self._network.generate(
            input_features=features,
            do_sample=False,
            num_beams=1,
            max_new_tokens=self._most(),
            **asked,
        )
        return self._tokenizer.decode(tokens[0].tolist(), skip_special_tokens=True)

    def _most(self) -> int:
        return min(LONGEST, int(self._network.config.max_target_positions) - 8)
