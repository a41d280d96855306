"""The networks of a run by their shape alone: parameters, widths and rates of encoder, bridge and LLM.

In: names of the catalogue. Out: plain figures, counted on networks without weights. What a catalogue entry does not say of a
checkpoint is read from its ``config.json`` (a few kB: from the local folder, or fetched as the stage would). Cost: seconds.
"""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import nn

from components.audio.sound import RATE
from components.config import catalogue
from components.config.catalogue import EncoderSource, LlmSource
from components.config.errors import InputError, nearest
from components.config.params import Params
from components.config.settings import models_root
from components.encoder.qwen_audio import whisper_shape
from components.model.architecture import network_of, parameters
from components.model.families import KNOWN
from components.model.matching import Matching
from components.model.projector import build_projector

BYTES = {"float32": 4, "float16": 2, "bfloat16": 2}
CHARACTERS = 32  # units of a CTC head over characters: the alphabet, blank, delimiter


@dataclass(frozen=True)
class Encoder:
    """A speech encoder: what of it runs."""

    parameters: int
    width: int  # values a frame
    rate: float  # frames a second
    tokens: float  # that its layers compute a second of audio
    window: float = 0.0  # seconds of audio that are computed at least, and in multiples of
    layers: int = 0
    lora: int = 0  # parameters that LoRA adds at the rank asked for


@dataclass(frozen=True)
class Llm:
    """A causal LLM."""

    parameters: int
    width: int
    layers: int
    vocabulary: int
    kv_width: int  # values that a token keeps of a layer, keys and values together
    lora: int  # parameters that LoRA adds at the rank asked for


@dataclass(frozen=True)
class Checkpoint:
    """Published files of one source."""

    stage: str
    what: str  # entry, and part of a joined one
    repo: str  # empty for a local folder
    files: tuple[str, ...]
    revision: str
    bytes: float  # of all files
    converted: float  # what is written anew out of them: weights as safetensors, or the one part that is taken


@dataclass(frozen=True)
class Networks:
    """All networks of a run, and the parameters by module: name → (trained, frozen)."""

    encoder: Encoder
    llm: Llm
    stride: float  # frames of the encoder that one token stands for
    modules: dict[str, tuple[int, int]]
    checkpoints: tuple[Checkpoint, ...]

    @property
    def trained(self) -> int:
        """Parameters that are trained."""
        return sum(trained for trained, _ in self.modules.values())


def networks(params: Params) -> Networks:
    """The networks that the names in ``params`` stand for; raises InputError for a shape that makes none, and where a
    ``config.json`` that is needed can't be had."""
    encoder_entry, llm_entry = catalogue.encoder(params.encoder), catalogue.llm(params.llm)
    projector_entry = catalogue.projector(params.projector)
    padding = encoder_entry.numerics.padding
    checkpoints: list[Checkpoint] = []
    adapted = Adapted(encoder_entry.lora.targets if encoder_entry.lora else [], params.train.encoder_lora.rank)
    encoder = _encoder(params.encoder, encoder_entry.source, padding, adapted, checkpoints)
    llm = _llm(params.llm, llm_entry, params.train.lora.rank, checkpoints)
    with torch.device("meta"):
        bridge = build_projector(projector_entry, encoder.width, llm.width)
        projector = parameters(bridge)
        matching = parameters(Matching(llm.width))
    tuned = {part for stage in params.train.curriculum for part in stage.tune} if projector_entry.weights is None else set()
    modules = {
        "encoder": _tuned("encoder" in tuned, encoder.parameters),
        "encoder LoRA": (encoder.lora if "encoder-lora" in tuned else 0, 0),
        "projector": (projector, 0) if "projector" in tuned else (0, projector),
        "matching head": (matching if "projector" in tuned and params.train.matching.weight else 0, 0),
        "LLM": _tuned("llm" in tuned, llm.parameters),
        "LoRA": (llm.lora if "lora" in tuned else 0, 0),
    }
    return Networks(encoder, llm, bridge.stride, modules, tuple(checkpoints))


@dataclass(frozen=True)
class Adapted:
    """What LoRA adapts of an encoder."""

    targets: list[str]
    rank: int


def _tuned(whole: bool, count: int) -> tuple[int, int]:
    """(trained, frozen) of a base; patterns that freeze some of it are not read here."""
    return (count, 0) if whole else (0, count)


def _encoder(name: str, source: EncoderSource, padding: str, adapted: Adapted, found: list[Checkpoint]) -> Encoder:
    if source.kind == "fbank":
        return Encoder(0, int(source.config["feature_size"]), 100.0, 0.0)
    if source.kind == "joined":
        parts = [_encoder(f"{name}.{part}", each, padding, adapted, found) for part, each in source.parts.items()]
        return Encoder(sum(part.parameters for part in parts), sum(part.width for part in parts), parts[0].rate,
                       sum(part.tokens * part.parameters for part in parts) / sum(part.parameters for part in parts),
                       max(part.window for part in parts), max(part.layers for part in parts),
                       sum(part.lora for part in parts))  # fmt: skip
    shape = _shape("encoder", name, source)
    kind = shape.get("model_type", "")
    qwen = kind == "qwen" and "audio" in shape
    if not qwen and kind not in KNOWN:
        raise InputError(f"encoder '{name}': its model_type '{kind}' is of no known family.", unit=name, way_out=nearest(kind, KNOWN))
    network = network_of(_whisper(shape) if qwen else shape)
    sizes = sized(network, padding)
    heard = network.get_encoder() if network.config.model_type == "whisper" else network  # its decoder has layers of the same names
    sizes = replace(sizes, lora=lora_parameters(heard, adapted.targets, adapted.rank))
    if source.kind != "ctc":
        checkpoint = _checkpoint("encoder", name, source, shape, parameters(network))
        found.append(replace(checkpoint, converted=sizes.parameters * BYTES["float32"]) if qwen else checkpoint)
    return sizes


def _whisper(shape: dict[str, Any]) -> dict[str, Any]:
    """The shape of a Whisper for that of a Qwen-Audio; the decoder, which is not counted, has heads that fit its width."""
    audio = whisper_shape(shape["audio"])
    return {"model_type": "whisper", "decoder_attention_heads": audio["encoder_attention_heads"], **audio}


def sized(network: Any, padding: str) -> Encoder:
    """What a network (of components.model.architecture) gives as an encoder; see components.model.families for the reasons."""
    config = network.config
    if config.model_type == "whisper":
        encoder = network.get_encoder()
        return Encoder(
            parameters(encoder), int(config.d_model), 50.0, 50.0, 30.0 if padding == "window" else 0.0, int(config.encoder_layers)
        )
    if config.model_type in ("parakeet_ctc", "parakeet_encoder"):
        encoder = network.encoder if config.model_type == "parakeet_ctc" else network
        rate = 100.0 / encoder.config.subsampling_factor
        return Encoder(parameters(encoder), int(encoder.config.hidden_size), rate, rate, layers=int(encoder.config.num_hidden_layers))
    body = getattr(network, network.base_model_prefix, network)  # below a head
    if config.model_type == "audio-spectrogram-transformer":
        bands = (config.num_mel_bins - config.patch_size) // config.frequency_stride + 1
        rate = 100.0 / config.time_stride
        return Encoder(parameters(body), int(config.hidden_size), rate, bands * rate, 10.0, int(config.num_hidden_layers))
    rate = RATE / math.prod(config.conv_stride)
    return Encoder(parameters(body), int(config.hidden_size), rate, rate, layers=int(config.num_hidden_layers))


def _llm(name: str, entry: catalogue.Llm, rank: int, found: list[Checkpoint]) -> Llm:
    shape = _shape("llm", name, entry.source)
    network = network_of(shape, causal=True)
    if entry.source.kind != "copying":
        found.append(_checkpoint("llm", name, entry.source, shape, parameters(network)))
    config = network.config
    heads = int(config.num_attention_heads)
    head = getattr(config, "head_dim", None) or config.hidden_size // heads
    return Llm(
        parameters(network),
        int(config.hidden_size),
        int(config.num_hidden_layers),
        int(config.vocab_size),
        2 * int(getattr(config, "num_key_value_heads", None) or heads) * head,
        lora_parameters(network, entry.lora.targets, rank),
    )


def lora_parameters(network: nn.Module, targets: Sequence[str], rank: int) -> int:
    """Parameters of LoRA (Hu et al. 2021, arXiv 2106.09685): a down- and an up-projection beside each linear layer adapted."""
    layers = [module for name, module in network.named_modules() if isinstance(module, nn.Linear) and name.split(".")[-1] in targets]
    return sum(rank * (layer.in_features + layer.out_features) for layer in layers)


def _shape(kind: str, name: str, source: EncoderSource | LlmSource) -> dict[str, Any]:
    """What a ``config.json`` says, or will say, of the network of a source."""
    if isinstance(source, EncoderSource) and source.kind == "ctc":
        assert source.training is not None  # checked by the catalogue
        return {"model_type": "parakeet_ctc", "encoder_config": source.config, "vocab_size": source.training.units or CHARACTERS,
                "pad_token_id": 0}  # fmt: skip
    if isinstance(source, LlmSource) and source.kind == "copying":
        assert source.training is not None
        return {"model_type": source.model_type, "vocab_size": source.training.units, **source.config}
    return source.shape or _config(kind, name, source)


def _config(kind: str, name: str, source: EncoderSource | LlmSource) -> dict[str, Any]:
    """``config.json`` itself: of the local folder, or fetched alone."""
    if source.kind == "folder":
        path = models_root() / source.folder / "config.json"
    else:
        from components.model.hub import Entry, fetch

        catalogue.check_pinned(kind, name.partition(".")[0])
        path = fetch(Entry(kind, name, replace(source, files=["config.json"])))["config.json"]
    try:
        return json.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise InputError(f"{kind} '{name}': {path} can't be read: {error}.", unit=name, way_out="Put the checkpoint there.") from None


def _checkpoint(stage: str, name: str, source: EncoderSource | LlmSource, shape: dict[str, Any], count: int) -> Checkpoint:
    stored = str(shape.get("dtype") or shape.get("torch_dtype") or "float32")
    size = source.gigabytes * 1e9 or count * BYTES.get(stored, 4)
    files = source.files if source.kind == "hub" else [path.name for path in (models_root() / source.folder).glob("*")]
    formats = {file.rpartition(".")[2] for file in files}
    pickled = "bin" in formats and (source.kind == "hub" or "safetensors" not in formats)  # of a folder's the safe ones are taken
    return Checkpoint(stage, f"{stage} {name}", source.repo, tuple(source.files), source.revision, size, size if pickled else 0.0)
