"""A projector that SLAM-LLM released → a model folder of ours, without any training.

In: the flat state dict that its ``torch.save`` wrote, ``encoder_projector.linear1.{weight,bias}``
and ``encoder_projector.linear2.{weight,bias}`` (X-LANCE/SLAM-LLM, the linear projector of
SLAM-ASR), and for the kind ``conv1d-mlp`` ``encoder_projector.conv1d.{weight,bias}`` before them
(that of MaLa-ASR), read as plain tensors. Out: ``bridge/`` and a curve without steps. The prompt's
order is that of the LLM's catalogue entry: take the entry of the released code's order. Cost:
seconds; neither encoder nor LLM is loaded, their widths come from their configurations.
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
from components.model.encoders.families import width_of
from components.model.folders.conversion import convert
from components.model.model_folder import CONFIG, ModelConfig, folder_digest
from components.runtime.settings import models_root

PREFIX = "encoder_projector."
COLUMNS = "step,stage,loss,matching,accuracy,dev_wer\n"


@dataclass(frozen=True)
class Job:
    """A released file and what it is to be joined with."""

    file: Path
    encoder: Path
    llm: Path
    projector: Projector
    entry: LlmEntry
    text_case: str

    def shape(self) -> ModelConfig:
        """What the model folder's configuration will say."""
        width, dtype = width_of(self.encoder), self.entry.numerics.dtype
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
    """The released file of the projector ``name``; raises InputError where it is not."""
    path = models_root() / weights.file
    if not path.is_file():
        raise InputError(
            f"projector '{name}': {path} is missing.",
            subject=weights.file,
            hint="Put the released model.pt there.",
        )
    return path


def convert_released(job: Job, folder: Path) -> None:
    """Writes ``bridge/`` and ``curve.csv``; raises InputError for other tensors or widths than the
    entries'.
    """
    bridge, shape = folder / "bridge", job.shape()
    bridge.mkdir(parents=True)
    save_file(_checked(job, shape), bridge / "projector.safetensors")
    (bridge / CONFIG).write_text(
        json.dumps(non_default_fields(shape), indent=1, sort_keys=True) + "\n"
    )
    (folder / "curve.csv").write_text(COLUMNS)


def _checked(job: Job, shape: ModelConfig) -> dict[str, torch.Tensor]:
    """The projector's tensors under our names, in fp32."""
    with TemporaryDirectory() as scratch:
        convert(job.file, Path(scratch) / "plain.safetensors", str(job.file))
        released = load_file(Path(scratch) / "plain.safetensors")
    foreign = sorted(name for name in released if not name.startswith(PREFIX))
    if foreign:
        raise InputError(
            f"{job.file} holds more than a projector: {foreign[0]} and {len(foreign) - 1} more.",
            subject=foreign[0],
            hint="Only projectors trained with a frozen LLM can be taken over.",
        )
    found = {
        name.removeprefix(PREFIX): tensor.float().contiguous() for name, tensor in released.items()
    }
    llm_width = AutoConfig.from_pretrained(
        job.llm, local_files_only=True, trust_remote_code=False
    ).hidden_size
    with torch.device("meta"):
        bridge = build_projector(job.projector, shape.encoder_width, llm_width)
    wanted = bridge.state_dict()
    if found.keys() != wanted.keys():
        raise InputError(
            f"{job.file} holds {', '.join(sorted(found))}; a projector of kind '{job.projector.kind}' has "
            f"{', '.join(sorted(wanted))}.",
            subject=str(job.file),
            hint="Name the projector's kind that it was trained as.",
        )
    for name, tensor in sorted(wanted.items()):
        if found[name].shape != tensor.shape:
            raise InputError(
                f"{job.file}: {name} has the shape {tuple(found[name].shape)}; encoder ({shape.encoder_width} wide), "
                f"stride {bridge.stride:g} and LLM ({llm_width} wide) want {tuple(tensor.shape)}.",
                subject=name,
                hint="Name the encoder and the LLM that it was trained with.",
            )
    return found
