"""The folder of a trained model: what training changed, and nothing else.

``projector.safetensors``, ``matching.safetensors``, LoRA in PEFT's format (``lora`` of the LLM,
``encoder-lora``), ``llm.safetensors`` and ``encoder.safetensors`` with those parameters of a base
checkpoint that were tuned themselves, and ``config.json``, which pins encoder and LLM by digest. An
export has a few of their values, too (``base-weights.json``).
Costs reading or writing these files.
"""

from __future__ import annotations

import json
import logging
from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from safetensors.torch import load_file, save_file

from components.config.entries import Prompt
from components.config.errors import InputError, damaged_file
from components.config.projector import Projector, parse_projector
from components.config.schema import non_default_fields, parse_as
from components.model import lora
from components.model.base_record import measure_base_deviation
from components.model.folders.description import BASES_HINT, MATCHING, PROJECTOR
from components.model.folders.linked_checkpoint import open_checkpoint
from components.model.folders.weight_samples import MAX_DEVIATION
from components.model.trainable import plain_name
from components.optim.ranks import gather_tensors
from components.runtime.artifact import recorded_digests
from components.runtime.hashing import data_digest
from components.runtime.json_files import read_json

if TYPE_CHECKING:
    from components.model.speech_llm import SpeechLLM

log = logging.getLogger(__name__)
CONFIG = "config.json"
KEYS = {
    "encoder": str,
    "encoder_width": int,
    "llm": str,
    "llm_dtype": str,
    "text_case": str,
    "projector": dict[str, Any],
    "prompt": dict[str, Any],
}
LORA = {"llm": "lora", "encoder": "encoder-lora"}  # folders of adapters, by the base they adapt


@dataclass(frozen=True)
class EncoderRunConfig:
    """How a tuned encoder was run in training, and must be run afterwards."""

    layer: int | str
    dtype: str
    padding: str


@dataclass(frozen=True)
class ModelConfig:
    """What the ``config.json`` of a model folder says."""

    encoder: str  # digest of its files
    encoder_width: int  # values per frame
    llm: str  # digest of its files
    llm_dtype: str
    projector: Projector
    prompt: Prompt
    text_case: str
    # Only where the encoder is tuned; the frames of a frozen one may come from anywhere.
    encoder_run: EncoderRunConfig | None = None
    vocabulary_size: int = 0  # of the LLM's embeddings; folders of earlier versions do not say
    # Of the frames that become discrete units; None for bridges of other kinds.
    units_layer: int | str | None = None
    # Whether the LLM's LoRA has read transcripts alone: it then scores texts in rescoring.
    has_text_adapter: bool = False


def folder_digest(folder: Path) -> str:
    """One digest of all files of an encoder or LLM folder."""
    return data_digest(recorded_digests(folder))


def read_model_config(folder: Path) -> ModelConfig:
    """What the ``config.json`` of a model folder says; raises InputError where it is missing,
    damaged or not valid.
    """
    path = folder / CONFIG
    data = read_json(path, keys=KEYS)
    # Names of older folders: hearing for encoder_run, others for the variants of the prompt.
    encoder_run = data.pop("hearing", None) or data.pop("encoder_run", None)
    prompt = data["prompt"]
    if "others" in prompt:
        prompt["variants"] = prompt.pop("others")
    data |= {
        "projector": parse_projector(data["projector"], f"{path}: projector"),
        "prompt": parse_as(Prompt, prompt, f"{path}: prompt"),
        "encoder_run": encoder_run
        and parse_as(EncoderRunConfig, encoder_run, f"{path}: encoder_run"),
    }
    unknown = sorted(data.keys() - {field.name for field in fields(ModelConfig)})
    if unknown:
        raise damaged_file(path, f"unknown key '{unknown[0]}'")
    return ModelConfig(**data)


def check_base(folder: Path, config: ModelConfig, encoder: Path, llm: Path) -> None:
    """Raises InputError where the model of ``folder`` was trained on other base checkpoints than
    the folders ``encoder`` and ``llm``. The same weights in another rounding, with the same
    settings and tokenizer, are accepted, and a log message says so.
    """
    for name, base, digest in (("encoder", encoder, config.encoder), ("llm", llm, config.llm)):
        if folder_digest(base) == digest:
            continue
        deviation = measure_base_deviation(folder, name, open_checkpoint(base))
        if deviation > MAX_DEVIATION:
            raise InputError(
                f"{folder} was trained on another {name} than {base}.",
                subject=str(folder),
                hint=BASES_HINT,
            )
        log.warning(
            "%s: the weights of %s are those of its %s in another rounding: they differ by %.2g %%",
            folder,
            base,
            name,
            100 * deviation,
        )


def write_trained(model: SpeechLLM, folder: Path, *, is_writer: bool) -> None:
    """Writes what was trained of ``model`` and its configuration. With a sharded LLM all ranks call
    it, and the one that ``is_writer`` writes.
    """
    parameters = (
        (plain_name(name), parameter)
        for name, parameter in model.named_parameters()
        if plain_name(name) in model.tuned_names
    )
    tuned = gather_tensors(parameters, is_writer=is_writer)
    if not is_writer:
        return
    folder.mkdir(parents=True, exist_ok=True)
    _write_weights(model.projector, folder / PROJECTOR)
    if model.has_matching_head:
        _write_weights(model.matching, folder / MATCHING)
    for side, adapter in LORA.items():
        own = {
            name.removeprefix(f"{side}."): tuned[name]
            for name in sorted(model.tuned_names)
            if name.startswith(f"{side}.")
        }
        if own:
            save_file(own, folder / f"{side}.safetensors")
        if side in model.lora_wrappers:
            lora.write_adapter(model.lora_wrappers[side], folder / adapter)
    config = json.dumps(non_default_fields(model.config), indent=1, sort_keys=True)
    (folder / CONFIG).write_text(config + "\n")


def _write_weights(module: torch.nn.Module, path: Path) -> None:
    weights = module.state_dict().items()
    save_file({name: tensor.detach().cpu().contiguous() for name, tensor in weights}, path)


def read_trained(model: SpeechLLM, folder: Path) -> None:
    """Gives ``model``, built over its base checkpoints, the weights that ``folder`` has."""
    model.projector.load_state_dict(load_file(folder / PROJECTOR))
    # A released projector has no matching head, nor has a model that was trained without the loss.
    model.has_matching_head = (folder / MATCHING).is_file()
    if model.has_matching_head:
        model.matching.load_state_dict(load_file(folder / MATCHING))
    for side, adapter in LORA.items():
        if (folder / f"{side}.safetensors").is_file():
            _copy_tuned(model, side, folder / f"{side}.safetensors")
        if (folder / adapter).is_dir():
            model.lora_wrappers[side] = lora.read_adapter(
                model.base_network(side), folder / adapter
            )


@torch.no_grad()
def _copy_tuned(model: SpeechLLM, side: str, path: Path) -> None:
    parameters = dict(model.named_parameters())
    for name, tensor in load_file(path).items():
        parameters[f"{side}.{name}"].copy_(tensor)
        model.tuned_names.add(f"{side}.{name}")
