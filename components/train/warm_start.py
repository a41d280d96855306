"""A trained bridge as the start of a training, in place of random weights.

In: a name below ``LIBRETTO_MODELS``: the folder of a bridge, of an exported model (its ``bridge``
is taken), or a ``model.pt`` of SLAM-LLM. Out: its weights in a model that is built over its base
checkpoints. The encoder may be another one of the same width, and the LLM another one of the same
width and vocabulary: a bridge then starts nearer to them than at random. Discrete units need the
same encoder and layer, and what was tuned of the base checkpoints themselves needs the same ones.
Cost: reading the files.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from pathlib import Path

import torch
from safetensors import safe_open
from safetensors.torch import load_file

from components.config.errors import InputError
from components.config.projector import CtcEmbeddings, DiscreteUnits, Projector
from components.config.training import Lora
from components.model.bridges.registry import build_projector
from components.model.folders.description import PROJECTOR
from components.model.model_folder import (
    CONFIG,
    LORA,
    ModelConfig,
    read_model_config,
    read_trained,
)
from components.model.speech_llm import SpeechLLM
from components.runtime.artifact import RECORD
from components.runtime.hashing import file_digest, folder_digests
from components.runtime.json_files import read_json
from components.runtime.settings import models_root
from components.train.released import read_projector


def find_start(name: str) -> Path:
    """The bridge folder or the released file of that name; raises InputError where there is
    none.
    """
    path = models_root() / name
    for folder in (path / "bridge", path):
        if (folder / CONFIG).is_file():
            return folder
    if path.is_file():
        return path
    raise InputError(
        f"train.start: {path} is no bridge, exported model or model.pt of SLAM-LLM.",
        subject="train.start",
        hint="Name one below LIBRETTO_MODELS, or set train.start to null.",
    )


def digest_start(name: str) -> dict[str, str]:
    """Digests of the files that a training starts from, by their names."""
    path = find_start(name)
    if path.is_file():
        return {path.name: file_digest(path)}
    return {file: digest for file, digest in folder_digests(path).items() if file != RECORD}


@dataclass(frozen=True)
class StartedModel:
    """What a bridge must fit that a training starts from."""

    projector: Projector
    encoder_width: int
    llm_width: int
    vocabulary_size: int  # of the LLM
    text_case: str
    encoder: str = ""  # digest of its files; empty where they are not there yet
    layer: int | str | None = None  # of the frames that become units; None: none do


def check_start(path: Path, model: StartedModel) -> None:
    """Raises InputError where a bridge folder or a released file can't start this model. Cost:
    headers; a released file is read.
    """
    if path.is_file():
        read_projector(path, model.projector, model.encoder_width, model.llm_width)
        return
    start = read_model_config(path)
    before = replace(
        model,
        projector=_plain(start.projector),
        encoder_width=start.encoder_width,
        vocabulary_size=start.vocabulary_size or model.vocabulary_size,
        text_case=start.text_case,
    )
    if isinstance(model.projector, DiscreteUnits | CtcEmbeddings):
        _check_units(path, start, model)
    now = replace(model, projector=_plain(model.projector))
    for field in fields(StartedModel):
        own, other = getattr(now, field.name), getattr(before, field.name)
        if own != other:
            raise _differs(path, field.name.replace("_", " "), other, own)
    _check_shapes(path, model)


def _check_units(path: Path, start: ModelConfig, model: StartedModel) -> None:
    """Raises InputError where the centroids or the CTC head of a start are of the frames of another
    encoder or layer: they are taken from the start.
    """
    for name, before, now in (
        ("encoder", start.encoder, model.encoder),
        ("layer", start.units_layer, model.layer),
    ):
        if now not in ("", None) and before is not None and before != now:
            raise InputError(
                f"train.start: {path} has the units of another {name}: {before}, not {now}.",
                subject="train.start",
                hint="Name a bridge that was trained on frames of this encoder and this layer, or "
                "set train.start to null.",
            )


def _check_shapes(path: Path, model: StartedModel) -> None:
    """Raises InputError where a tensor of the start's projector has another shape: of one with the
    same entry and the same encoder width, the LLM is of another width. Of each tensor the header is
    read.
    """
    with torch.device("meta"):
        bridge = build_projector(model.projector, model.encoder_width, model.llm_width)
    expected = bridge.state_dict()
    with safe_open(path / PROJECTOR, "pt") as weights:
        for name in sorted(expected.keys() & set(weights.keys())):
            shape = tuple(weights.get_slice(name).get_shape())
            if shape != tuple(expected[name].shape):
                raise InputError(
                    f"train.start: {path} was trained for an LLM of another width: {name} has the "
                    f"shape {shape}; an LLM {model.llm_width} wide needs "
                    f"{tuple(expected[name].shape)}.",
                    subject="train.start",
                    hint="Name a bridge for an LLM of this width, or set train.start to null.",
                )


@dataclass(frozen=True)
class Adapter:
    """LoRA as a training asks for it."""

    settings: Lora
    targets: list[str]


ADAPTER = {
    "r": int,
    "lora_alpha": int | float,
    "lora_dropout": int | float,
    "target_modules": list[str],
}
RECOPY = "Take another copy of the start."


def _check_adapter(path: Path, folder: Path, adapter: Adapter) -> None:
    """Raises InputError where a start has an adapter that is not as the training asks."""
    if not folder.is_dir():
        return
    config = read_json(folder / "adapter_config.json", keys=ADAPTER, hint=RECOPY)
    settings = adapter.settings
    for name, before, now in (
        ("LoRA rank", config["r"], settings.rank),
        ("LoRA alpha", config["lora_alpha"], settings.alpha),
        ("LoRA dropout", config["lora_dropout"], settings.dropout),
        ("LoRA targets", sorted(config["target_modules"]), sorted(adapter.targets)),
    ):
        if before != now:
            raise _differs(path, name, before, now)


def _differs(path: Path, name: str, before: object, now: object) -> InputError:
    return InputError(
        f"train.start: {path} has another {name}: {before}, not {now}.",
        subject="train.start",
        hint="Name a bridge that was trained with the same, or set train.start to null.",
    )


def _plain(projector: Projector) -> Projector:
    """The entry without what says where its weights come from."""
    return replace(projector, weights=None, card={})


def load_start(model: SpeechLLM, path: Path, adapters: Mapping[str, Adapter]) -> None:
    """Gives ``model`` the weights of a bridge folder or of a released file; the matching head keeps
    its own where the start has none.

    ``adapters`` are those that the training tunes, by the side they are on (llm, encoder). Raises
    InputError for weights that do not fit, and for LoRA of another size, scale or other layers.
    """
    config, width = model.config, model.llm.config.hidden_size
    if path.is_file():
        tensors = read_projector(path, config.projector, config.encoder_width, width)
        model.projector.load_state_dict(tensors)
        return
    size = model.llm.get_input_embeddings().num_embeddings
    own = StartedModel(
        config.projector,
        config.encoder_width,
        width,
        size,
        config.text_case,
        config.encoder,
        config.units_layer,
    )
    check_start(path, own)
    if config.units_layer is not None and read_model_config(path).units_layer is None:
        _check_centroids(path, model)
    _check_tuned(path, config, has_encoder=model.encoder is not None)
    for side, adapter in adapters.items():
        _check_adapter(path, path / LORA[side], adapter)
    try:
        read_trained(model, path)
    except RuntimeError as error:  # torch's own, of a tensor with another shape
        raise InputError(
            f"train.start: the weights of {path} do not fit: {error}",
            subject="train.start",
            hint="Name a bridge for an encoder and an LLM of these widths.",
        ) from None


def _check_centroids(path: Path, model: SpeechLLM) -> None:
    """Raises InputError where a start that does not say of which layer its units are has other
    centroids than the model.
    """
    own = model.projector.state_dict()["centroids"].cpu()
    if not torch.equal(load_file(path / PROJECTOR)["centroids"], own):
        raise InputError(
            f"train.start: {path} does not say of which layer its discrete units are, and its "
            "centroids are not those of models/units.",
            subject="train.start",
            hint="Name a bridge whose config.json has units_layer, or set train.start to null.",
        )


def _check_tuned(path: Path, config: ModelConfig, *, has_encoder: bool) -> None:
    """Raises InputError where the start tuned a base checkpoint that the model does not have."""
    start = read_model_config(path)
    for base, digest, own in (
        ("llm", start.llm, config.llm),
        ("encoder", start.encoder, config.encoder),
    ):
        is_tuned = (path / f"{base}.safetensors").is_file() or (path / LORA[base]).is_dir()
        if is_tuned and digest != own:
            raise _differs(path, f"{base} that it tuned", digest, own)
        if is_tuned and base == "encoder" and not has_encoder:
            raise InputError(
                f"train.start: {path} has a tuned encoder, and no stage tunes it.",
                subject="train.start",
                hint="Tune the encoder, or start from a bridge with a frozen one.",
            )
