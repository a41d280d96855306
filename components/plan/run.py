"""The plan of a run: downloads, disk, parameters, memory and hours, put together; and the check
that it fits.

In: parameters, and cards by name where it is not to run here. Out: plain figures; ``check_plan``
raises where a disk or the memory is too small. Cost: as components.plan.size_reader.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal

from components.config import catalogue
from components.config.bridge_rules import check_curriculum, check_llm_fit
from components.config.errors import InputError
from components.config.heads import check_ctc_heads
from components.config.params import Params
from components.corpus.fetch.archive import Archive
from components.corpus.fetch.installation import required_archives
from components.corpus.source import build_source
from components.model.folders.package import is_converted
from components.plan.ctc_training import plan_encoder
from components.plan.discrete_units import estimate_units
from components.plan.disk import (
    DiskSpace,
    DiskUse,
    archive_folders,
    check_space,
    hub_folder,
    list_disk_uses,
    list_downloaded,
    sum_by_disk,
)
from components.plan.head import estimate_head
from components.plan.length import StageLength, list_stage_lengths
from components.plan.load import (
    Gpu,
    StageLoad,
    estimate_decode,
    estimate_features,
    read_gpu,
)
from components.plan.machine import Machine, Memory, find_output_folders, read_machine
from components.plan.networks import CheckpointFiles, Networks, read_networks
from components.plan.speech import AudioAmount, list_audio
from components.plan.stage_status import up_to_date_stages
from components.plan.training import estimate_train
from components.runtime.stage import list_trained_here
from components.runtime.world_size import choose_ranks, count_gpus

SIZE_PARAMETERS = {  # by which the memory of a stage grows, where it is not its batch_seconds
    "encoder": "source.training.batch_seconds of its entry",
    "units": "hours of the projector's entry",
}
LESS_TRAINING_MEMORY = (
    ", raise train.micro_batches, switch train.gradient_checkpointing on, share the LLM among GPUs "
    "(LIBRETTO_ENGINE=fsdp)"
)


@dataclass(frozen=True)
class Download:
    """A file or checkpoint that will be fetched."""

    name: str
    origin: str  # address, or repository of the hub
    num_bytes: float  # 0 where the size is not known


@dataclass(frozen=True)
class RunPlan:
    """Figures of one run."""

    params: Params
    audio: list[AudioAmount]
    networks: Networks
    downloads: list[Download]
    disk_uses: list[DiskUse]
    disk_spaces: list[DiskSpace]
    up_to_date: dict[str, int]  # bytes of existing outputs by stage
    loads: list[StageLoad]
    memories: list[Memory]
    gpus: dict[str, Gpu]
    engine: str  # torchrun's, that trains here; empty where it trains without
    num_ranks: int
    num_gpus: int  # of this machine that may train
    encoder_lengths: list[StageLength]  # of the encoders that are trained here
    lengths: list[StageLength]  # of the training's stages
    other_loads: list[StageLoad]  # with frames live instead of cached, or cached instead of live


def plan_run(params: Params, gpus: Sequence[str] = (), machine: Machine | None = None) -> RunPlan:
    """The plan of these parameters, on the cards ``gpus`` or (none named) on ``machine``, by
    default this one.

    Raises InputError for an unknown card, for networks that can't do what the parameters ask, and
    as ``choose_ranks`` does for each network that is trained here.
    """
    cards = {name: read_gpu(name) for name in gpus or catalogue.names("gpu")}
    networks, audio = read_networks(params), list_audio(params.corpus)
    up_to_date = up_to_date_stages(params)
    check_networks(params, networks)
    ranks = training_ranks(params, networks, up_to_date)
    for kind, settings, section in list_trained_here(params):
        if kind not in up_to_date:
            choose_ranks(settings, section)
    archives = [] if _is_complete("corpus", up_to_date) else _archives(params)
    checkpoints = [
        checkpoint
        for checkpoint in networks.checkpoints
        if checkpoint.stage not in up_to_date and not _is_here(checkpoint)
    ]
    if machine is None:
        roots = [folder for archive in archives for folder in archive_folders(archive)]
        machine = read_machine(find_output_folders(), [*roots, hub_folder()])
    folders = machine.output_folders
    uses = list_downloaded(archives, checkpoints, folders[0])
    uses += list_disk_uses(params, networks, audio, up_to_date, folders)
    downloads = [
        Download(archive.folder, archive.url, archive.entry.bytes or 0) for archive in archives
    ]
    downloads += [
        Download(checkpoint.name, checkpoint.origin, checkpoint.num_bytes)
        for checkpoint in checkpoints
    ]
    num_processes = max(1, machine.num_workers)
    return RunPlan(
        params,
        audio,
        networks,
        downloads,
        uses,
        sum_by_disk(uses, machine),
        up_to_date,
        estimate_loads(params, networks, audio, up_to_date),
        [Memory(name, cards[name].memory * 1e9) for name in gpus]
        or [Memory(machine.name, machine.memory_bytes, num_processes, machine.is_processor)],
        cards,
        *ranks,
        count_gpus(),
        [
            plan_encoder(encoder, audio).length
            for encoder in networks.trained_encoders
            if "encoder" not in up_to_date
        ],
        list_stage_lengths(params.train, networks, audio),
        _loads_of_other_mode(params, networks, audio, up_to_date),
    )


def check_plan(plan: RunPlan) -> None:
    """Raises InputError where a disk, or the memory of all that it may run on, is too small."""
    check_space(plan.disk_spaces)
    largest = max(plan.memories, key=lambda memory: memory.num_bytes)
    peak = max(
        plan.loads,
        key=lambda load: load.peak_bytes * count_processes(load, largest),
        default=None,
    )
    if peak and not any(has_memory(peak, memory) for memory in plan.memories):
        needed_bytes = peak.peak_bytes * count_processes(peak, largest)
        raise InputError(
            f"The stage '{peak.stage}' needs about {needed_bytes / 1e9:,.1f} GB of memory, "
            f"{largest.name} has {largest.num_bytes / 1e9:,.1f} GB.",
            subject=peak.stage,
            hint=f"Lower {SIZE_PARAMETERS.get(peak.stage, f'{peak.stage}.batch_seconds')}"
            f"{LESS_TRAINING_MEMORY if peak.stage == 'train' else ''}, use a smaller encoder or "
            "LLM, or plan for another card with --gpu.",
        )


def check_networks(params: Params, networks: Networks) -> None:
    """Raises InputError where the networks can't do what the parameters ask: the stage ``train``
    would find it hours later.
    """
    check_ctc_heads(params, networks.encoder.has_ctc)
    check_curriculum(catalogue.projector(params.projector), params.train)
    if networks.stages and params.train.start:
        from components.train.warm_start import StartedModel, check_start, find_start

        sizes = networks.encoder.width, networks.llm.width, networks.llm.vocabulary_size
        projector = catalogue.projector(params.projector)
        model = StartedModel(projector, *sizes, params.train.text_case, layer=params.features.layer)
        check_start(find_start(params.train.start), model)
    check_llm_fit(
        catalogue.projector(params.projector),
        networks.llm.num_layers,
        is_packed=bool(networks.stages) and params.train.packing,
    )
    if networks.stages and params.train.packing and not networks.llm.has_position_ids:
        raise InputError(
            f"llm '{params.llm}' has no position ids: it would mix up sequences that are packed "
            "into one row.",
            subject="train.packing",
            hint="Set train.packing to false.",
        )


def estimate_loads(
    params: Params,
    networks: Networks,
    audio: Sequence[AudioAmount],
    up_to_date: Mapping[str, int],
) -> list[StageLoad]:
    """What the stages compute that use an accelerator and are not up to date."""
    encoder_dtype = catalogue.encoder(params.encoder).numerics.dtype
    dtype = catalogue.llm(params.llm).numerics.dtype
    loads = []
    if "encoder" not in up_to_date:
        loads += [
            replace(plan_encoder(encoder, audio).load, max_processes=encoder.settings.micro_batches)
            for encoder in networks.trained_encoders
        ]
    if params.features.mode == "cached" and not _is_complete("features", up_to_date, ("noise",)):
        loads.append(estimate_features(params, networks, audio, encoder_dtype))
    head = None if "ctc" in up_to_date else estimate_head(params, networks, audio, encoder_dtype)
    if head is not None:
        loads.append(replace(head, max_processes=params.ctc.micro_batches))
    units = estimate_units(params, networks, audio, encoder_dtype)
    if units is not None and "units" not in up_to_date:
        loads.append(replace(units, max_processes=1))  # k-means is one process
    # What is tuned as a whole has fp32 weights.
    encoder_dtype = "float32" if networks.modules["encoder"][0] else encoder_dtype
    dtype = "float32" if networks.modules["LLM"][0] else dtype
    if _has_training(networks, up_to_date):
        engine, num_ranks = training_ranks(params, networks, up_to_date)
        num_sharing = num_ranks if engine == "fsdp" else 1
        load = estimate_train(params, networks, audio, dtype, encoder_dtype, num_sharing)
        loads.append(replace(load, max_processes=params.train.micro_batches))
    if "decode" not in up_to_date:
        loads.append(estimate_decode(params, networks, audio, dtype, encoder_dtype))
    return loads


def _loads_of_other_mode(
    params: Params,
    networks: Networks,
    audio: Sequence[AudioAmount],
    up_to_date: Mapping[str, int],
) -> list[StageLoad]:
    """What the stages would compute with the other ``features.mode``; none where only one is
    possible, or where it would change nothing.
    """
    if params.train.tuned_encoder_part or not _has_training(networks, up_to_date):
        return []
    mode: Literal["cached", "live"] = "live" if params.features.mode == "cached" else "cached"
    other = replace(params, features=replace(params.features, mode=mode))
    return estimate_loads(other, networks, audio, up_to_date)


def _is_complete(stage: str, up_to_date: Mapping[str, int], without: tuple[str, ...] = ()) -> bool:
    """Whether a stage is up to date for all roles but those of ``without``."""
    return all(f"{stage}@{role}" in up_to_date for role in catalogue.ROLES if role not in without)


def _has_training(networks: Networks, up_to_date: Mapping[str, int]) -> bool:
    """Whether a training will run: none where the projector is a released one, or is trained."""
    return bool(networks.stages) and "train" not in up_to_date


def training_ranks(
    params: Params, networks: Networks, up_to_date: Mapping[str, int]
) -> tuple[str, int]:
    """torchrun's engine and its number of ranks; no name and one rank where it trains without, or
    not at all.
    """
    if not _has_training(networks, up_to_date):
        return "", 1
    engine, num_processes = choose_ranks(params.train)
    return engine.name, num_processes * engine.nodes


def has_memory(load: StageLoad, memory: Memory) -> bool:
    """Whether a memory is large enough for a stage, in all processes."""
    return load.peak_bytes * count_processes(load, memory) <= memory.num_bytes


def count_processes(load: StageLoad, memory: Memory) -> int:
    """Processes of a stage that share a memory: ranks of a training are no more than its
    micro-batches.
    """
    return min(memory.num_processes, load.max_processes or memory.num_processes)


def _archives(params: Params) -> list[Archive]:
    """The archives of the corpus whose folders are not in their data roots."""
    sources = [
        (name, build_source(name, role, settings))
        for role, entries in catalogue.corpus(params.corpus).sources.items()
        for name, settings in entries.items()
    ]
    return [
        archive
        for archive in required_archives(sources)
        if not any((root / archive.folder).is_dir() for root in archive_folders(archive))
    ]


def _is_here(checkpoint: CheckpointFiles) -> bool:
    """Whether nothing of a checkpoint is to be fetched: of a local folder, all files in the cache
    of the hub's library, or a package that is converted already.
    """
    if checkpoint.package:
        return is_converted(checkpoint.stage, checkpoint.package)
    if not checkpoint.repo:
        return True
    from huggingface_hub import try_to_load_from_cache

    if not checkpoint.revision or not checkpoint.files:
        return False
    paths = [
        try_to_load_from_cache(checkpoint.repo, file, revision=checkpoint.revision)
        for file in checkpoint.files
    ]
    return all(isinstance(path, str) for path in paths)
