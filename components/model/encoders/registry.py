"""All families of speech encoders: the ``model_type`` of a folder's ``config.json`` → its family.

Width, layers and the rule for batches follow from the configuration of a checkpoint, without its
weights (``read_traits``), the rate of a loaded encoder from its feature extractor too; what a user
chooses (dtype, layer, Whisper's padding) comes from outside. A new family is a module of this
package and a line here.
"""

from __future__ import annotations

from pathlib import Path

import torch

from components.config.errors import InputError, nearest
from components.model.encoders.convolutional import ParakeetFamily, WaveformFamily
from components.model.encoders.events import SpectrogramTransformerFamily
from components.model.encoders.family import CheckpointFamily, Family
from components.model.encoders.filterbank import FilterbankFamily
from components.model.encoders.joined import JoinedFamily
from components.model.encoders.traits import FBANK, JOINED, EncoderTraits, join_traits
from components.model.encoders.whisper import WhisperFamily
from components.model.folders.description import read_config, unsupported_folder

FAMILIES: dict[str, type[CheckpointFamily]] = {
    model_type: family
    for family in (WhisperFamily, WaveformFamily, ParakeetFamily, SpectrogramTransformerFamily)
    for model_type in family.model_types
}
MODEL_TYPES = (*FAMILIES, FBANK, JOINED)


def family_of(model_type: str, where: str) -> type[CheckpointFamily]:
    """The family of checkpoints of a ``model_type``; raises InputError, which names ``where``, for
    an unknown one.
    """
    if model_type not in FAMILIES:
        raise InputError(
            f"{where}: its model_type '{model_type}' is of no known family.",
            subject=where,
            hint=nearest(model_type, FAMILIES),
        )
    return FAMILIES[model_type]


def _model_type(folder: Path) -> str:
    model_type = read_config(folder).get("model_type", "")
    if model_type not in MODEL_TYPES:
        raise unsupported_folder(
            folder,
            f"its model_type '{model_type}' is of no known family. "
            f"{nearest(model_type, MODEL_TYPES)}",
        )
    return str(model_type)


def _parts(folder: Path) -> list[Path]:
    """The folders of joined encoders."""
    return [folder / part for part in read_config(folder)["parts"]]


def read_traits(folder: Path, padding: str = "window") -> EncoderTraits:
    """The traits of the encoder in a folder by its configuration, without its weights: those of a
    checkpoint as ``CheckpointFamily.read_traits`` gives them. ``padding`` is Whisper's. Raises
    InputError where the folder is none or of no known family.
    """
    model_type = _model_type(folder)
    if model_type == JOINED:
        return join_traits([read_traits(part, padding) for part in _parts(folder)])
    if model_type == FBANK:
        return FilterbankFamily.read_traits(folder)
    return FAMILIES[model_type].read_traits(folder, padding)


def load_family(folder: Path, device: torch.device, dtype: torch.dtype, padding: str) -> Family:
    """The encoder of a folder, frozen, on the device; raises InputError as ``read_traits`` does."""
    model_type = _model_type(folder)
    if model_type == JOINED:
        return JoinedFamily([load_family(part, device, dtype, padding) for part in _parts(folder)])
    if model_type == FBANK:
        return FilterbankFamily(folder, device, dtype)
    return FAMILIES[model_type](folder, device, dtype, padding)
