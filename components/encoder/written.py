"""Encoder folders that hold no weights of their own, written here in the form that
``SpeechEncoder`` reads.

``fbank``: the settings of a log-mel front end, 100 frames a second; the LLM then hears no encoder
at all. ``joined``: which encoders below the folder stand side by side, the first one setting the
frame rate.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from components.config.errors import InputError

SETTINGS = ("feature_size",)  # mel bands


def check_filterbank(where: str, config: dict[str, Any]) -> None:
    """Raises InputError, which names the catalogue entry ``where``, for settings that a log-mel
    front end does not have.
    """
    if set(config) != set(SETTINGS):
        raise InputError(
            f"{where}: a source of kind 'fbank' takes {', '.join(SETTINGS)}, not "
            f"{', '.join(config)}.",
            subject=where,
            hint="Correct source.config of the entry.",
        )
    if type(config["feature_size"]) is not int or config["feature_size"] < 1:
        raise InputError(
            f"{where}: source.config: 'feature_size' is {config['feature_size']}.",
            subject="feature_size",
            hint="Set it to the number of mel bands, such as 80.",
        )


def write_filterbank(folder: Path, config: dict[str, Any]) -> None:
    """Writes a folder of the family ``fbank``; ``config`` holds ``feature_size``, the number of mel
    bands.
    """
    from transformers import ParakeetFeatureExtractor

    from components.model.encoders.families import FBANK

    ParakeetFeatureExtractor(**config).save_pretrained(
        folder
    )  # that of the encoders trained here: 25 ms every 10 ms
    (folder / "config.json").write_text(json.dumps({"model_type": FBANK}) + "\n")


def write_joined(folder: Path, parts: Sequence[str]) -> None:
    """Writes the ``config.json`` of a folder whose subfolders ``parts`` are encoders
    side by side.
    """
    from components.model.encoders.families import JOINED

    (folder / "config.json").write_text(
        json.dumps({"model_type": JOINED, "parts": list(parts)}) + "\n"
    )
