"""Encoder folders that hold no weights of their own, written here in the form that ``SpeechEncoder`` reads.

``fbank``: the settings of a log-mel front end, 100 frames a second; the LLM then hears no encoder at all. ``joined``: which
encoders below the folder stand side by side, the first one setting the frame rate.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from components.config.errors import InputError

SETTINGS = ("feature_size",)  # mel bands


def write_filterbank(folder: Path, config: dict[str, Any]) -> None:
    """Writes a folder of the family ``fbank``; ``config`` holds ``feature_size``, the number of mel bands."""
    from transformers import ParakeetFeatureExtractor

    from components.model.families import FBANK

    if set(config) != set(SETTINGS):
        raise InputError(f"A source of kind 'fbank' takes {', '.join(SETTINGS)}, not {', '.join(config)}.", unit="encoder")
    ParakeetFeatureExtractor(**config).save_pretrained(folder)  # that of the encoders trained here: 25 ms every 10 ms
    (folder / "config.json").write_text(json.dumps({"model_type": FBANK}) + "\n")


def write_joined(folder: Path, parts: Sequence[str]) -> None:
    """Writes the ``config.json`` of a folder whose subfolders ``parts`` are encoders side by side."""
    from components.model.families import JOINED

    (folder / "config.json").write_text(json.dumps({"model_type": JOINED, "parts": list(parts)}) + "\n")
