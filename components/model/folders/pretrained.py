"""Checkpoints in HF form: a folder → settings, feature extractor, network; the architecture is what
the folder says.

Only safetensors are read, no code of a checkpoint is run, and a missing weight is an error:
transformers would draw it at random (``WhisperEncoder.from_pretrained`` on a complete Whisper does
so for all of them).
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import AutoConfig, AutoFeatureExtractor

from components.audio.sound import RATE
from components.config.network_sizes import check_network_sizes
from components.model.folders.description import read_config, unsupported_folder

# By their names in the catalogue.
DTYPES = {"float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16}
# May be drawn at random: only masking in training uses it, and checkpoints that were tuned without
# masking do not have it.
UNUSED = ("masked_spec_embed",)
FIXED = ("embed_positions.weight",)  # Whisper's sinusoids: training does not change them


def read_settings(folder: Path) -> Any:
    """``config.json`` as transformers reads it: with the architecture's defaults, which the file
    leaves out. Raises InputError where there is none, or sizes that no network has.
    """
    check_network_sizes(read_config(folder), str(folder / "config.json"))
    try:
        return AutoConfig.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
    except Exception as error:  # of any type: the classes of transformers check their settings
        raise unsupported_folder(folder, error) from None


def read_extractor(folder: Path) -> Any:
    """The feature extractor: waveforms (mono float32 at 16 kHz) → what the network takes. Raises
    InputError where there is none.
    """
    try:
        return AutoFeatureExtractor.from_pretrained(
            folder, local_files_only=True, trust_remote_code=False
        )
    except Exception as error:  # of any type, as above
        raise unsupported_folder(folder, error) from None


def extract_features(extractor: Any, waveforms: Sequence[np.ndarray], **options: Any) -> Any:
    """The features of waveforms (mono float32 at 16 kHz), by name: computed on the CPU, in fp32 in
    any training precision.
    """
    with torch.autocast("cpu", enabled=False):
        return extractor(list(waveforms), sampling_rate=RATE, return_tensors="pt", **options)


def read_network(
    folder: Path, loader: Any, dtype: torch.dtype, device: torch.device, part: str = ""
) -> Any:
    """The network that ``loader`` (a class of transformers) reads, frozen, on the device; raises
    InputError where weights of ``part`` (a prefix of their names) are not in the folder.
    """
    check_network_sizes(read_config(folder), str(folder / "config.json"))
    try:
        network, loading = loader.from_pretrained(
            folder,
            local_files_only=True,
            use_safetensors=True,
            dtype=dtype,
            output_loading_info=True,
        )
    except Exception as error:  # of any type: shapes, safetensors, settings
        raise unsupported_folder(folder, error) from None
    missing = sorted(
        name
        for name in loading["missing_keys"]
        if name.startswith(part) and not name.endswith(UNUSED)
    )
    if missing:
        raise unsupported_folder(
            folder, f"{len(missing)} of its weights are missing, '{missing[0]}' among them."
        )
    return network.eval().requires_grad_(False).to(device)
