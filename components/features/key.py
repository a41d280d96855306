"""The key of a features folder: what its frames hang on. A reader refuses a folder of another key."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from components.config.artifact import contents, read_record
from components.config.catalogue import EncoderNumerics
from components.config.errors import InputError
from components.config.params import Features
from components.config.typed import stated
from components.features import RESULT_VERSION


def shape_key(encoder: Path, settings: Features, numerics: EncoderNumerics) -> dict[str, Any]:
    """What shapes the frames of any audio: encoder weights, layer, dtypes, batching."""
    return {
        "version": RESULT_VERSION,
        "encoder": contents(encoder),
        "layer": settings.layer,
        "numerics": stated(numerics),
        "batch_seconds": settings.batch_seconds,
    }


def check_key(features: Path, encoder: Path, shards: Path) -> dict[str, Any]:
    """The record of a features folder; raises InputError where encoder or shards are not those that it was made from."""
    record = read_record(features)
    for what, folder, known in (("encoder", encoder, record["inputs"]["encoder"]), ("shards", shards, record["inputs"]["shards"])):
        if contents(folder) != known:
            raise InputError(f"{features} was made from other {what} than {folder} holds.", unit=str(features),
                             way_out="Run 'dvc repro features'.")  # fmt: skip
    return record
