"""Folders of encoders without weights of their own, in the form that ``SpeechEncoder`` reads.

``fbank``: the settings of a log-mel front end, 100 frames a second, whose frames the bridge reads
directly. ``joined``: the names of encoders in subfolders, whose frames are concatenated; the first
one sets the frame rate.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from components.config.errors import InputError

FILTERBANK_SETTINGS = ("feature_size",)  # number of mel bands


def check_filterbank(where: str, config: dict[str, Any]) -> None:
    """Raises InputError, which names the catalogue entry ``where``, for settings that a log-mel
    front end does not have.
    """
    if set(config) != set(FILTERBANK_SETTINGS):
        raise InputError(
            f"{where}: a source of kind 'fbank' has the settings "
            f"{', '.join(FILTERBANK_SETTINGS)}, not {', '.join(config)}.",
            subject=where,
            hint="Correct source.config of the entry.",
        )
    feature_size = config["feature_size"]
    if type(feature_size) is not int or feature_size < 1:
        raise InputError(
            f"{where}: source.config: 'feature_size' is {feature_size}.",
            subject="feature_size",
            hint="Set it to the number of mel bands, such as 80.",
        )


def write_filterbank(folder: Path, config: dict[str, Any]) -> None:
    """Writes a folder of the family ``fbank``; ``config`` holds ``feature_size``, the number of mel
    bands.
    """
    from transformers import ParakeetFeatureExtractor

    from components.model.encoders.traits import FBANK

    # The extractor of the encoders that are trained here: windows of 25 ms every 10 ms.
    ParakeetFeatureExtractor(**config).save_pretrained(folder)
    (folder / "config.json").write_text(json.dumps({"model_type": FBANK}) + "\n")


def write_joined(folder: Path, parts: Sequence[str]) -> None:
    """Writes the ``config.json`` of a folder whose subfolders ``parts`` are the joined encoders."""
    from components.model.encoders.traits import JOINED

    config = {"model_type": JOINED, "parts": list(parts)}
    (folder / "config.json").write_text(json.dumps(config) + "\n")
