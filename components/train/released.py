"""A projector that SLAM-LLM released → a model folder of this project, without any training.

In: the flat state dict that its ``torch.save`` wrote, ``encoder_projector.linear1.{weight,bias}``
and ``encoder_projector.linear2.{weight,bias}`` (X-LANCE/SLAM-LLM, the linear projector of
SLAM-ASR), and for the kind ``conv1d-mlp`` ``encoder_projector.conv1d.{weight,bias}`` before them
(that of MaLa-ASR), read as plain tensors. Out: ``bridge/`` and a curve without steps. The order of
the prompt comes from the catalogue entry of the LLM: use the entry with the order of the released
code. Cost: seconds; neither encoder nor LLM is loaded, their widths come from their
configurations.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

import torch
from safetensors.torch import load_file, save_file
from transformers import AutoConfig

from components.config.entries import LlmEntry
from components.config.errors import InputError
from components.config.projector import Projector, ReleasedWeights
from components.config.schema import non_default_fields
from components.model.bridges.registry import build_projector
from components.model.encoders.registry import read_traits
from components.model.folders.conversion import convert_weights
from components.model.model_folder import CONFIG, ModelConfig, folder_digest
from components.runtime.settings import models_root
from components.train.curve import write_curve

PREFIX = "encoder_projector."


@dataclass(frozen=True)
class ReleasedBridge:
    """A released file, and the encoder and LLM that it connects."""

    file: Path
    encoder: Path
    llm: Path
    projector: Projector
    entry: LlmEntry
    text_case: str

    def model_config(self) -> ModelConfig:
        """The configuration of the model folder."""
        width, dtype = read_traits(self.encoder).width, self.entry.numerics.dtype
        return ModelConfig(
            folder_digest(self.encoder),
            width,
            folder_digest(self.llm),
            dtype,
            self.projector,
            self.entry.prompt,
            self.text_case,
        )


def find_weights(name: str, weights: ReleasedWeights) -> Path:
    """The released file of the projector ``name``; raises InputError where it is missing."""
    path = models_root() / weights.file
    if not path.is_file():
        raise InputError(
            f"projector '{name}': {path} is missing.",
            subject=weights.file,
            hint="Copy the released model.pt to that path.",
        )
    return path


def convert_released(source: ReleasedBridge, folder: Path) -> None:
    """Writes ``bridge/`` and ``curve.csv`` to ``folder``; raises InputError for tensors or widths
    that differ from those of the entries.
    """
    bridge, config = folder / "bridge", source.model_config()
    bridge.mkdir(parents=True)
    llm_width = AutoConfig.from_pretrained(
        source.llm, local_files_only=True, trust_remote_code=False
    ).hidden_size
    tensors = read_projector(source.file, source.projector, config.encoder_width, llm_width)
    save_file(tensors, bridge / "projector.safetensors")
    (bridge / CONFIG).write_text(
        json.dumps(non_default_fields(config), indent=1, sort_keys=True) + "\n"
    )
    write_curve(folder / "curve.csv")


def read_projector(
    path: Path, projector: Projector, encoder_width: int, llm_width: int
) -> dict[str, torch.Tensor]:
    """The tensors of a released projector under the names of this project, in fp32; raises
    InputError for tensors or widths that differ from those of the entries.
    """
    with TemporaryDirectory() as scratch:
        convert_weights(path, Path(scratch) / "plain.safetensors", str(path))
        file_tensors = load_file(Path(scratch) / "plain.safetensors")
    foreign = sorted(name for name in file_tensors if not name.startswith(PREFIX))
    if foreign:
        raise InputError(
            f"{path} has more than a projector: {foreign[0]} and {len(foreign) - 1} more.",
            subject=foreign[0],
            hint="Only projectors that were trained with a frozen LLM can be converted.",
        )
    tensors = {
        name.removeprefix(PREFIX): tensor.float().contiguous()
        for name, tensor in file_tensors.items()
    }
    with torch.device("meta"):
        bridge = build_projector(projector, encoder_width, llm_width)
    expected = bridge.state_dict()
    if tensors.keys() != expected.keys():
        raise InputError(
            f"{path} has {', '.join(sorted(tensors))}; a projector of kind "
            f"'{projector.kind}' has {', '.join(sorted(expected))}.",
            subject=str(path),
            hint="Name the kind of projector that it was trained as.",
        )
    for name, tensor in sorted(expected.items()):
        if tensors[name].shape != tensor.shape:
            raise InputError(
                f"{path}: {name} has the shape {tuple(tensors[name].shape)}; "
                f"encoder ({encoder_width} wide), stride {bridge.stride:g} and LLM "
                f"({llm_width} wide) need {tuple(tensor.shape)}.",
                subject=name,
                hint="Name the encoder and the LLM that it was trained with.",
            )
    return tensors
