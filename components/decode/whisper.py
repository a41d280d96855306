"""Whisper's own decoder (Radford et al. 2022): the baseline beside the LLM, if the encoder is a
complete Whisper checkpoint.

In: waveforms, mono float32 at 16 kHz. Out: a text for each. Greedy, as transcription, in the
language that a multilingual checkpoint detects. Audio over 30 s is cut into windows and their texts
are joined; each window is decoded by itself. Cost: the checkpoint's.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import WhisperForConditionalGeneration, WhisperTokenizerFast

from components.audio.sound import RATE
from components.model.encoders.family import split_windows
from components.model.folders.description import unsupported_folder
from components.model.folders.pretrained import read_extractor
from components.text.hypothesis import drop_cut_letter

MAX_TOKENS = 224  # of a window: half of the decoder's positions, as in Whisper's own code


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
        # A default length of the checkpoint would conflict with max_new_tokens.
        self._network.generation_config.max_length = None

    @torch.inference_mode()
    def __call__(self, waveforms: Sequence[np.ndarray]) -> list[str]:
        """The text of each waveform; empty for an empty one."""
        config = self._network.config
        window = int(config.max_source_positions) * 2 * int(self._extractor.hop_length)  # samples
        texts = [
            " ".join(self._decode_window(samples) for samples in split_windows(waveform, window))
            for waveform in waveforms
        ]
        return [" ".join(text.split()) for text in texts]

    def _decode_window(self, waveform: np.ndarray) -> str:
        """The text of at most 30 s of audio."""
        features = self._extractor(
            waveform, sampling_rate=RATE, return_tensors="pt"
        ).input_features.to(self._device)  # (1, mel bins, mel frames)
        limit = min(MAX_TOKENS, int(self._network.config.max_target_positions) - 8)
        is_multilingual = getattr(self._network.generation_config, "is_multilingual", False)
        token_ids = self._network.generate(
            input_features=features,
            do_sample=False,
            num_beams=1,
            max_new_tokens=limit,
            **({"task": "transcribe"} if is_multilingual else {}),
        )  # (1, tokens)
        text: str = self._tokenizer.decode(token_ids[0].tolist(), skip_special_tokens=True)
        return drop_cut_letter(text) if token_ids.shape[1] >= limit else text
