"""The plan of a run: downloads, disk, parameters, memory and hours, put together; and the check
that it will do.

In: parameters, and cards by name where it is not to run here. Out: plain figures; ``check`` raises
where a disk or the memory is too small. Cost: as components.plan.networks.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from components.config import catalogue
from components.config.errors import InputError
from components.config.heads import check_heads
from components.config.params import Params
from components.corpus.fetch.archive import Archive
from components.corpus.fetch.provision import needed
from components.corpus.source import build_source
from components.plan.disk import Room, Written, existing, links, output_places, rooms
from components.plan.disk import check as check_rooms
from components.plan.load import Gpu, Load, decode_load, features_load, gpu_of
from components.plan.networks import BYTES, Checkpoint, Networks, networks
from components.plan.speech import RATES, Audio, audio_of, speech_of
from components.plan.stage_status import up_to_date_stages
from components.plan.training import train_load
from components.runtime.settings import device, models_root, root_setting, workers
from components.train.engine import ranks

SPARING = (
    ", raise train.micro_batches, switch train.gradient_checkpointing on, share the LLM "
    "among GPUs (LIBRETTO_ENGINE=fsdp)"
)
# bytes of an utterance beside its audio or frames: headers and padding of two members, JSON
TAR = 2_000


@dataclass(frozen=True)
class Download:
    """What will be fetched; 0 bytes where the size is not known."""

    what: str
    origin: str
    bytes: float


@dataclass(frozen=True)
class Memory:
    """What a stage may use: a card, or this machine."""

    name: str
    bytes: float
    processes: int = 1  # that hold the weights side by side


@dataclass(frozen=True)
class Plan:
    """Figures of one run."""

    params: Params
    audio: list[Audio]
    networks: Networks
    downloads: list[Download]
    written: list[Written]
    rooms: list[Room]
    stands: dict[str, int]  # bytes of outputs that are there, by stage
    loads: list[Load]
    memory: list[Memory]
    gpus: dict[str, Gpu]
    engine: str  # torchrun's, that trains here; empty where it trains without
    ranks: int


def plan_of(params: Params, gpus: Sequence[str] = ()) -> Plan:
    """The plan of these parameters, on the cards ``gpus`` or (none named) on this machine."""
    cards = {name: gpu_of(name) for name in gpus or catalogue.names("gpu")}
    nets, audio, stands = networks(params), audio_of(params.corpus), up_to_date_stages(params)
    check_networks(params, nets)
    archives = (
        [] if all(f"corpus@{role}" in stands for role in catalogue.ROLES) else _archives(params)
    )
    checkpoints = [
        each
        for each in nets.checkpoints
        if each.repo and each.stage not in stands and not _cached(each)
    ]
    downloads = [Download(each.folder, each.url, each.packed.bytes or 0) for each in archives]
    downloads += [Download(each.what, each.repo, each.bytes) for each in checkpoints]
    written = [*_fetched(archives, checkpoints), *_outputs(params, nets, audio, stands)]
    memory = [Memory(name, cards[name].memory * 1e9) for name in gpus] or [_machine(params)]
    return Plan(
        params,
        audio,
        nets,
        downloads,
        written,
        rooms(written),
        stands,
        loads_of(params, nets, audio, stands),
        memory,
        cards,
        *training_ranks(params, nets, stands),
    )


def check(plan: Plan) -> None:
    """Raises InputError where a disk, or the memory of all that it may run on, is too small."""
    check_rooms(plan.rooms)
    peak = max(plan.loads, key=lambda load: load.memory, default=None)
    if peak and not any(fits(peak, each) for each in plan.memory):
        largest = max(plan.memory, key=lambda each: each.bytes)
        raise InputError(
            f"The stage '{peak.stage}' needs about {peak.memory * largest.processes / 1e9:,.1f} GB of memory, {largest.name} has "
            f"{largest.bytes / 1e9:,.1f} GB.",
            subject=peak.stage,
            hint=f"Lower {peak.stage}.batch_seconds{SPARING if peak.stage == 'train' else ''}, take a smaller encoder or LLM, or plan "
            "for another card with --gpu.",
        )


def check_networks(params: Params, nets: Networks) -> None:
    """Raises InputError where the networks can't do what the parameters ask; the stage ``train``
    would say it hours later.
    """
    check_heads(params, nets.encoder.ctc)
    if nets.stages and params.train.packing and not nets.llm.packs:
        raise InputError(
            f"llm '{params.llm}' takes no positions: it would mix up sequences that are packed "
            "into one row.",
            subject="train.packing",
            hint="Set train.packing to false.",
        )


def loads_of(
    params: Params, nets: Networks, audio: Sequence[Audio], stands: dict[str, int]
) -> list[Load]:
    """What the stages compute that use an accelerator and whose outputs do not stand."""
    encoder, llm = (
        catalogue.encoder(params.encoder).numerics.dtype,
        catalogue.llm(params.llm).numerics.dtype,
    )
    found = []
    if (
        params.features.mode == "cached"
        and not {f"features@{role}" for role in catalogue.ROLES if role != "noise"} <= stands.keys()
    ):
        found.append(features_load(params, nets, audio, encoder))
    # What is tuned whole is held in fp32.
    encoder, llm = (
        "float32" if nets.modules[name][0] else dtype
        for name, dtype in (("encoder", encoder), ("LLM", llm))
    )
    if _trains(nets, stands):
        name, count = training_ranks(params, nets, stands)
        found.append(train_load(params, nets, audio, llm, encoder, count if name == "fsdp" else 1))
    if "decode" not in stands:
        found.append(decode_load(params, nets, audio, llm, encoder))
    return found


def _trains(nets: Networks, stands: dict[str, int]) -> bool:
    """Whether a training is to come: a released projector has none, and one may stand."""
    return bool(nets.stages) and "train" not in stands


def training_ranks(params: Params, nets: Networks, stands: dict[str, int]) -> tuple[str, int]:
    """torchrun's engine and its ranks; no name and one rank where it trains without, or
    not at all.
    """
    chosen, processes = ranks(params.train) if _trains(nets, stands) else (None, 1)
    return (chosen.name, processes * chosen.nodes) if chosen else ("", 1)


def fits(load: Load, memory: Memory) -> bool:
    """Whether a stage fits into a memory."""
    return load.memory * memory.processes <= memory.bytes


def _archives(params: Params) -> list[Archive]:
    """The archives of the corpus whose folders are not in their data roots."""
    listed = [
        (name, build_source(name, role, settings))
        for role, sources in catalogue.corpus(params.corpus).sources.items()
        for name, settings in sources.items()
    ]
    return [
        each
        for each in needed(listed)
        if not any((root / each.folder).is_dir() for root in _place(each))
    ]


def _place(archive: Archive) -> tuple[Path, ...]:
    """The data root of an archive; none where it is not set."""
    _, value = root_setting(archive.root)
    return (Path(value).expanduser(),) if value else ()


def _cached(checkpoint: Checkpoint) -> bool:
    """Whether all files of a checkpoint lie in the cache of the hub's library."""
    from huggingface_hub import try_to_load_from_cache

    if not checkpoint.revision:
        return False
    found = [
        try_to_load_from_cache(checkpoint.repo, file, revision=checkpoint.revision)
        for file in checkpoint.files
    ]
    return bool(found) and all(isinstance(path, str) for path in found)


def _fetched(archives: Sequence[Archive], checkpoints: Sequence[Checkpoint]) -> list[Written]:
    from huggingface_hub import constants

    # FLAC and noise hardly shrink; an archive lies beside what comes out of it until that is whole.
    unset = "a data root that is not set"
    data = [Written(each.folder, each.packed.bytes or 0, _place(each), unset) for each in archives]
    if archives:
        largest = max(archives, key=lambda each: each.packed.bytes or 0)
        data.append(
            Written(
                f"{largest.file}, until it is unpacked",
                largest.packed.bytes or 0,
                _place(largest),
                unset,
            )
        )
    hub = Path(constants.HF_HUB_CACHE)
    return data + [Written(f"{each.what}, as fetched", each.bytes, (hub,)) for each in checkpoints]


def _outputs(
    params: Params, nets: Networks, audio: Sequence[Audio], stands: dict[str, int]
) -> list[Written]:
    """What the stages write that do not stand."""
    places = output_places()
    numerics = catalogue.encoder(params.encoder).numerics
    found = []
    for role in catalogue.ROLES:
        seconds = sum(each.seconds for each in audio if each.role == role)
        tars = TAR * sum(each.utterances for each in audio if each.role == role)
        if f"shards@{role}" not in stands:
            found.append(Written(f"shards, {role}", seconds * RATES[".flac"] + tars, places))
        if (
            params.features.mode == "cached"
            and role != "noise"
            and f"features@{role}" not in stands
        ):
            views, stretch = speech_of(params.features, role)
            size = (
                seconds
                * stretch
                * nets.encoder.rate
                * nets.encoder.width
                * BYTES[numerics.features]
            )
            found.append(Written(f"features, {role}", size + views * tars, places))
    for stage in ("encoder", "llm"):
        chosen = [each for each in nets.checkpoints if each.stage == stage]
        if stage not in stands:
            found += [
                Written(f"{each.what}, as safetensors", *_kept(each, places)) for each in chosen
            ]
    if "train" not in stands:
        found.append(Written("bridge", 4.0 * nets.trained, places))
        found.append(
            Written("checkpoint of its training", 12.0 * nets.trained, places[:1])
        )  # weights, AdamW's two moments
        found.append(
            Written(
                "ends of its stages",
                4.0 * sum(sum(tuned.values()) for tuned in nets.stages),
                places[:1],
            )
        )
    return [each for each in found if each.bytes]


def _kept(checkpoint: Checkpoint, places: tuple[Path, ...]) -> tuple[float, tuple[Path, ...]]:
    """Bytes and places of a checkpoint in the work cache and behind it: nothing new where it is
    linked from where it came.
    """
    from huggingface_hub import constants

    origin = Path(constants.HF_HUB_CACHE) if checkpoint.repo else models_root()
    if not checkpoint.converted and links(existing(origin), places[0]):
        places = places[1:]
    return checkpoint.converted or checkpoint.bytes, places


def _machine(params: Params) -> Memory:
    if device() != "cpu":
        found = torch.cuda.get_device_properties(device())
        return Memory(found.name, float(found.total_memory))
    total = float(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"))
    return Memory("this machine", total, max(1, min(workers(), params.train.micro_batches)))
