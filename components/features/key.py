"""The key of a features folder: all that its frames depend on. A reader refuses a folder with
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
    """What shapes the frames of any audio: encoder weights, layer, dtypes and batching, and the
    augmentation if there is one. The number of views is left out: it does not change a view.
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
    """What augmentation reads from the shards of the role noise: digests of the files, and which
    sources are rooms.
    """
    record = read_record(noise)
    return {"files": record["outputs"], "rooms": record.get("rooms", [])}


def frame_files(record: dict[str, Any]) -> dict[str, str]:
    """Digests of the files that frames come from, by their names, of the record of a features
    folder: of stored frames their tars, of live ones the shards.
    """
    files: dict[str, str] = record["outputs"] or record["inputs"]["shards"]
    return files


def digest_frames(folder: Path) -> dict[str, Any]:
    """What the frames of the features folder ``folder`` depend on: their key and their files."""
    record = read_record(folder)
    return {"key": record["key"], "files": frame_files(record)}


def check_key(features: Path, encoder: Path, shards: Path, noise: Path) -> dict[str, Any]:
    """The record of a features folder; raises InputError if encoder, shards or (if used) noise are
    not those that it was computed from.
    """
    record = read_record(features)
    inputs = record["inputs"]
    sources = {
        "encoder": (encoder, recorded_digests),
        "shards": (shards, recorded_digests),
        "noise": (noise, noise_inputs),
    }
    for name, (folder, read) in sources.items():
        if name in inputs and read(folder) != inputs[name]:
            raise InputError(
                f"{features} was computed from other files ({name}) than {folder} contains now.",
                subject=str(features),
                hint="Run 'dvc repro features'.",
            )
    return record
