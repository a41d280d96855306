"""The key of a features folder: what its frames hang on. A reader refuses a folder of
another key.
"""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Any

from components.config.augment import Augment
from components.config.entries import EncoderNumerics
from components.config.errors import InputError
from components.config.params import Features
from components.config.schema import non_default_fields
from components.features import RESULT_VERSION
from components.runtime.artifact import read_record, recorded_digests
from components.runtime.hashing import data_digest


def shape_key(
    encoder: Path,
    settings: Features,
    numerics: EncoderNumerics,
    augment: Augment | None = None,
    noise: dict[str, Any] | None = None,
) -> dict[str, Any]:
    """What shapes the frames of any audio: encoder weights, layer, dtypes, batching; and how the
    audio is augmented, where it is. The number of views is no part of it: it shapes none of them.
    """
    key = {
        "version": RESULT_VERSION,
        "encoder": recorded_digests(encoder),
        "layer": settings.layer,
        "numerics": non_default_fields(numerics),
        "batch_seconds": settings.batch_seconds,
    }
    if augment is not None:
        key["augment"] = {name: value for name, value in asdict(augment).items() if name != "views"}
    return key if noise is None else {**key, "noise": data_digest(noise)}


def noise_inputs(noise: Path) -> dict[str, Any]:
    """What augmentation takes from the shards of the role noise: their digests, and which sources
    are rooms.
    """
    record = read_record(noise)
    return {"files": record["outputs"], "rooms": record.get("rooms", [])}


def check_key(features: Path, encoder: Path, shards: Path, noise: Path) -> dict[str, Any]:
    """The record of a features folder; raises InputError where encoder, shards or (if it was used)
    noise are not those that it was made from.
    """
    record = read_record(features)
    known = record["inputs"]
    held = {
        "encoder": (encoder, recorded_digests),
        "shards": (shards, recorded_digests),
        "noise": (noise, noise_inputs),
    }
    for what, (folder, read) in held.items():
        if what in known and read(folder) != known[what]:
            raise InputError(
                f"{features} was made from other {what} than {folder} holds.",
                subject=str(features),
                hint="Run 'dvc repro features'.",
            )
    return record
