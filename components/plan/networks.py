"""The networks of a run by their shape alone: parameters, widths and rates of encoder, bridge and
LLM.

In: names of the catalogue. Out: plain figures, counted on networks without weights. What a
catalogue entry does not say of a checkpoint is read from its ``config.json`` (a few kB: from the
local folder, or fetched as the stage would). Cost: seconds.
"""

from __future__ import annotations

import inspect
import json
import math
from dataclasses import dataclass, field, replace
from typing import Any

import torch

from components.audio.sound import RATE
from components.config import catalogue
from components.config.entries import LlmEntry
from components.config.errors import InputError, nearest
from components.config.model_sources import EncoderSource, LlmSource
from components.config.params import Params
from components.config.training import Train
from components.encoder.qwen_audio import whisper_shape
from components.model.bridges.bridge import Bridge
from components.model.bridges.projector import build_projector
from components.model.encoders.families import KNOWN
from components.model.folders.architecture import network_of, parameters
from components.model.matching import Matching
from components.optim.sharding import decoder_layers
from components.plan.tuned import Counts, by_module, lora_sizes_of, sizes_of, tuned_by
from components.runtime.settings import models_root

BYTES = {"float32": 4, "float16": 2, "bfloat16": 2}
# As a plan names the modules of components.model.trainable.
MODULES = {
    "encoder": "encoder",
    "encoder-lora": "encoder LoRA",
    "projector": "projector",
    "matching": "matching head",
    "llm": "LLM",
    "lora": "LoRA",
}
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
    ctc: bool = False  # whether a CTC head stands on it
    writer: int = 0  # parameters of the decoder of a whole Whisper, which writes beside the LLM


@dataclass(frozen=True)
class Llm:
    """A causal LLM."""

    parameters: int
    width: int
    layers: int
    vocabulary: int
    kv_width: int  # values that a token keeps of a layer, keys and values together
    layered: int  # parameters of its layers: what ranks can share
    packs: bool  # whether it takes positions, without which sequences in one row are not kept apart


@dataclass(frozen=True)
class Checkpoint:
    """Published files of one source."""

    stage: str
    what: str  # entry, and part of a joined one
    repo: str  # empty for a local folder
    files: tuple[str, ...]
    revision: str
    bytes: float  # of all files
    # what is written anew out of them: weights as safetensors, or the one part that is taken
    converted: float


@dataclass(frozen=True)
class Networks:
    """All networks of a run, and the parameters by module: name → (trained in some stage, never
    trained).
    """

    encoder: Encoder
    llm: Llm
    bridge: Bridge  # without weights
    modules: dict[str, tuple[int, int]]
    stages: tuple[
        Counts, ...
    ]  # trained in each stage of the curriculum, by module of components.model.trainable
    checkpoints: tuple[Checkpoint, ...]

    @property
    def trained(self) -> int:
        """Parameters that are trained."""
        return sum(trained for trained, _ in self.modules.values())

    @property
    def stride(self) -> float:
        """Frames of the encoder that one token stands for."""
        return self.bridge.stride

    def speech_tokens(self, seconds: float) -> int:
        """Tokens that the bridge makes of so many seconds (the most, where that hangs on what is
        heard).
        """
        return self.bridge.tokens_of(max(1, round(seconds * self.encoder.rate)))


def networks(params: Params) -> Networks:
    """The networks that the names in ``params`` stand for; raises InputError for a shape that makes
    none, for parts and patterns of the curriculum that do not fit them, and where a ``config.json``
    that is needed can't be had.
    """
    encoder_entry, llm_entry = catalogue.encoder(params.encoder), catalogue.llm(params.llm)
    projector_entry = catalogue.projector(params.projector)
    found = _Found(encoder_entry.lora.targets if encoder_entry.lora else [], params.train)
    encoder = _encoder(
        params.encoder, encoder_entry.source, encoder_entry.numerics.padding, found, "encoder.model"
    )
    llm = _llm(params.llm, llm_entry, found)
    with torch.device("meta"):
        bridge = build_projector(projector_entry, encoder.width, llm.width)
        found.sizes |= {
            **sizes_of("projector", bridge),
            **sizes_of("matching", Matching(llm.width)),
        }
    stages = (
        [tuned_by(found.sizes, stage) for stage in params.train.curriculum]
        if projector_entry.weights is None
        else []
    )
    if not params.train.matching.weight:
        stages = [{name for name in stage if not name.startswith("matching.")} for stage in stages]
    every, trained = by_module(found.sizes), by_module(found.sizes, set().union(*stages))
    modules = {
        said: (
            trained[name],
            every[name] - trained[name] if name in ("encoder", "projector", "llm") else 0,
        )
        for name, said in MODULES.items()
    }
    return Networks(
        encoder,
        llm,
        bridge,
        modules,
        tuple(by_module(found.sizes, stage) for stage in stages),
        tuple(found.checkpoints),
    )


@dataclass
class _Found:
    """What is come upon while networks are made: checkpoints, and parameters by the names that they
    have in training.
    """

    targets: list[str]  # of the encoder's LoRA
    settings: Train
    checkpoints: list[Checkpoint] = field(default_factory=list)
    sizes: dict[str, int] = field(default_factory=dict)


def _encoder(name: str, source: EncoderSource, padding: str, found: _Found, side: str) -> Encoder:
    """The encoder of a source, which ``side`` of the joined model holds."""
    if source.kind == "fbank":
        return Encoder(0, int(source.config["feature_size"]), 100.0, 0.0)
    if source.kind == "joined":
        parts = [
            _encoder(f"{name}.{part}", each, padding, found, f"{side}.{number}")
            for number, (part, each) in enumerate(source.parts.items())
        ]
        return Encoder(
            sum(part.parameters for part in parts),
            sum(part.width for part in parts),
            parts[0].rate,
            sum(part.tokens * part.parameters for part in parts)
            / sum(part.parameters for part in parts),
            max(part.window for part in parts),
            max(part.layers for part in parts),
        )
    shape = _shape("encoder", name, source)
    kind = shape.get("model_type", "")
    qwen = kind == "qwen" and "audio" in shape
    if not qwen and kind not in KNOWN:
        raise InputError(
            f"encoder '{name}': its model_type '{kind}' is of no known family.",
            subject=name,
            hint=nearest(kind, KNOWN),
        )
    network = network_of(_whisper(shape) if qwen else shape)
    sizes = sized(network, padding)
    kind = network.config.model_type
    # As it is loaded: Whisper's encoder half, AST below its classes, others with the head that they
    # have.
    heard = (
        network.get_encoder()
        if kind == "whisper"
        else _body(network)
        if kind == "audio-spectrogram-transformer"
        else network
    )
    found.sizes |= sizes_of(side, heard, _body(heard)) | lora_sizes_of(
        side, heard, found.targets, found.settings.encoder_lora.rank
    )
    sizes = replace(
        sizes, ctc=type(network).__name__.endswith("ForCTC"), writer=_writer(network, source)
    )
    if source.kind != "ctc":
        checkpoint = _checkpoint("encoder", name, source, shape, parameters(network))
        found.checkpoints.append(
            replace(checkpoint, converted=sizes.parameters * BYTES["float32"])
            if qwen
            else checkpoint
        )
    return sizes


def _writer(network: Any, source: EncoderSource) -> int:
    """Parameters of the decoder of a Whisper whose files hold a tokenizer too: components.decode
    then hears it.
    """
    heard = network.config.model_type == "whisper" and {"tokenizer.json", "vocab.json"} & set(
        source.files
    )
    return parameters(network.get_decoder()) if heard else 0


def _whisper(shape: dict[str, Any]) -> dict[str, Any]:
    """The shape of a Whisper for that of a Qwen-Audio; the decoder, which is not counted, has heads
    that fit its width.
    """
    audio = whisper_shape(shape["audio"])
    return {
        "model_type": "whisper",
        "decoder_attention_heads": audio["encoder_attention_heads"],
        **audio,
    }


def _body(network: Any) -> Any:
    """What stands below a head, by the name of its family, or plainly ``encoder`` (Parakeet)."""
    if network.config.model_type == "parakeet_ctc":
        return network.encoder
    return getattr(network, network.base_model_prefix, network)


def sized(network: Any, padding: str) -> Encoder:
    """What a network on the meta device gives as an encoder; see components.model.encoders.families
    for the reasons.
    """
    config = network.config
    if config.model_type == "whisper":
        encoder = network.get_encoder()
        return Encoder(
            parameters(encoder),
            int(config.d_model),
            50.0,
            50.0,
            30.0 if padding == "window" else 0.0,
            int(config.encoder_layers),
        )
    if config.model_type in ("parakeet_ctc", "parakeet_encoder"):
        encoder = _body(network)
        rate = 100.0 / encoder.config.subsampling_factor
        return Encoder(
            parameters(encoder),
            int(encoder.config.hidden_size),
            rate,
            rate,
            layers=int(encoder.config.num_hidden_layers),
        )
    body = _body(network)
    if config.model_type == "audio-spectrogram-transformer":
        bands = (config.num_mel_bins - config.patch_size) // config.frequency_stride + 1
        rate = 100.0 / config.time_stride
        return Encoder(
            parameters(body),
            int(config.hidden_size),
            rate,
            bands * rate,
            10.0,
            int(config.num_hidden_layers),
        )
    rate = RATE / math.prod(config.conv_stride)
    return Encoder(
        parameters(body), int(config.hidden_size), rate, rate, layers=int(config.num_hidden_layers)
    )


def _llm(name: str, entry: LlmEntry, found: _Found) -> Llm:
    shape = _shape("llm", name, entry.source)
    network = network_of(shape, causal=True)
    if entry.source.kind != "copying":
        found.checkpoints.append(_checkpoint("llm", name, entry.source, shape, parameters(network)))
    found.sizes |= sizes_of("llm", network) | lora_sizes_of(
        "llm", network, entry.lora.targets, found.settings.lora.rank
    )
    config = network.config
    heads = int(config.num_attention_heads)
    head = getattr(config, "head_dim", None) or config.hidden_size // heads
    return Llm(
        parameters(network),
        int(config.hidden_size),
        int(config.num_hidden_layers),
        int(config.vocab_size),
        2 * int(getattr(config, "num_key_value_heads", None) or heads) * head,
        parameters(decoder_layers(network.base_model)),
        "position_ids" in inspect.signature(network.base_model.forward).parameters,
    )


def _shape(kind: str, name: str, source: EncoderSource | LlmSource) -> dict[str, Any]:
    """What a ``config.json`` says, or will say, of the network of a source."""
    if isinstance(source, EncoderSource) and source.kind == "ctc":
        assert source.training is not None  # checked by the catalogue
        return {
            "model_type": "parakeet_ctc",
            "encoder_config": source.config,
            "vocab_size": source.training.units or CHARACTERS,
            "pad_token_id": 0,
        }
    if isinstance(source, LlmSource) and source.kind == "copying":
        assert source.training is not None
        return {
            "model_type": source.model_type,
            "vocab_size": source.training.units,
            **source.config,
        }
    return source.shape or _config(kind, name, source)


def _config(kind: str, name: str, source: EncoderSource | LlmSource) -> dict[str, Any]:
    """``config.json`` itself: of the local folder, or fetched alone."""
    if source.kind == "folder":
        path = models_root() / source.folder / "config.json"
    else:
        from components.model.folders.hub import HubEntry, fetch

        catalogue.check_pinned(kind, name.partition(".")[0])
        path = fetch(HubEntry(kind, name, replace(source, files=["config.json"])))["config.json"]
    try:
        return json.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise InputError(
            f"{kind} '{name}': {path} can't be read: {error}.",
            subject=name,
            hint="Put the checkpoint there.",
        ) from None


def _checkpoint(
    stage: str, name: str, source: EncoderSource | LlmSource, shape: dict[str, Any], count: int
) -> Checkpoint:
    stored = str(shape.get("dtype") or shape.get("torch_dtype") or "float32")
    size = source.gigabytes * 1e9 or count * BYTES.get(stored, 4)
    files = (
        source.files
        if source.kind == "hub"
        else [path.name for path in (models_root() / source.folder).glob("*")]
    )
    formats = {file.rpartition(".")[2] for file in files}
    pickled = "bin" in formats and (
        source.kind == "hub" or "safetensors" not in formats
    )  # of a folder's the safe ones are taken
    return Checkpoint(
        stage,
        f"{stage} {name}",
        source.repo,
        tuple(source.files),
        source.revision,
        size,
        size if pickled else 0.0,
    )
