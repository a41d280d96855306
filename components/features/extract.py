"""The stage: every shard of a role through the encoder → ``data/features/<role>``, one tar of
``.npy`` files for each shard.

Batches are formed inside one shard, by length, under a budget of padded seconds, so that the frames
of a shard do not depend on the worker that computes it. If training audio is augmented, a shard is
computed once for each view: ``<source>/view-1`` and so on have the layout of the source's folder,
which holds the first view. Mode ``live`` stores nothing: the folder then holds only its record.
Cost at embedded size: 12,000 utterances in about 55 s on two cores.
"""

from __future__ import annotations

import io
import logging
from dataclasses import asdict, dataclass
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from components.config import catalogue
from components.config.augment import Augment
from components.config.entries import EncoderNumerics
from components.config.errors import InputError
from components.config.params import Features
from components.features.encoding import (
    encode_utterances,
    is_storable,
    largest_magnitude,
    to_stored_dtype,
)
from components.features.key import noise_inputs, shape_key
from components.features.waveforms import (
    UNAUGMENTED,
    AugmentedView,
    build_augmentation,
    role_augment,
    uses_noise,
    view_folder,
)
from components.model.folders.linked_checkpoint import open_checkpoint
from components.runtime.artifact import empty_folder, recorded_digests, write_record
from components.runtime.hashing import data_digest, file_digest
from components.runtime.pool import fan_out
from components.runtime.progress import progress
from components.runtime.settings import device
from components.runtime.stage import Stage
from components.shards.index import INDEX, read_index, write_index
from components.shards.reader import IndexedUtterance, list_sources, prefetch
from components.shards.store import cached_tar, digest_of, link_tar
from components.shards.writer import TarMember, write_tar

if TYPE_CHECKING:  # the stage starts without torch
    import torch

    from components.model.encoders.encoder import SpeechEncoder

ENCODER, NOISE = Path("models/encoder"), Path("data/shards/noise")
log = logging.getLogger(__name__)


@dataclass(frozen=True, eq=False)
class FeatureJob:
    """One shard to encode, at one view."""

    shards: Path  # folder of the source
    name: str  # of the tar
    digest: str  # of the tar
    key: dict[str, Any]
    settings: Features
    numerics: EncoderNumerics
    augment: Augment | None = None
    view: int = 0


def work(stage: Stage) -> None:
    """Writes the features of a role, or the record alone in mode ``live``; raises InputError for an
    utterance shorter than a frame and for a value that the stored dtype cannot hold.
    """
    settings = stage.params.features
    numerics = settings.numerics(catalogue.encoder(stage.params.encoder))
    shards, out = Path("data/shards") / stage.role, empty_folder(Path("data/features") / stage.role)
    augment, noise = role_augment(settings.augment, stage.role), None
    if augment is not None:
        build_augmentation(augment, NOISE)  # raises InputError here if noise or rooms are missing
        noise = noise_inputs(NOISE) if uses_noise(augment) else None
    key = shape_key(ENCODER, settings, numerics, augment, noise)
    outputs: dict[str, str] = {}
    if settings.mode == "cached":
        for source, jobs in _jobs(shards, settings, numerics, augment, key).items():
            outputs |= _extract_source(stage, source, jobs, out / source)
    facts: dict[str, Any] = {}
    if settings.mode == "live":
        facts["empty"] = "features.mode is live: train and decode run the encoder themselves"
    elif settings.remote:
        facts["remote"] = True  # not a parameter: where tars are does not change their content
    # The record holds the augmentation of this role: none for a role that is not augmented. The
    # key holds the padding.
    parameters = {
        name: value
        for name, value in asdict(settings).items()
        if name not in ("augment", "remote", "padding")
    }
    parameters |= {"augment": asdict(augment)} if augment else {}
    inputs = {
        "encoder": key["encoder"],
        "shards": recorded_digests(shards),
        **({"noise": noise} if noise else {}),
    }
    write_record(
        out,
        "features",
        parameters=parameters,
        inputs=inputs,
        outputs=outputs,
        key=key,
        libraries=("torch", "transformers"),
        **facts,
    )
    if settings.mode == "live":
        log.info("%s: nothing stored, %s", stage.label(), facts["empty"])


def _jobs(
    shards: Path,
    settings: Features,
    numerics: EncoderNumerics,
    augment: Augment | None,
    key: dict[str, Any],
) -> dict[str, list[FeatureJob]]:
    """The jobs of a role by the folder of their source and view, relative to the role's folder."""
    jobs: dict[str, list[FeatureJob]] = {}
    for source in list_sources(shards):
        tars = {
            name.split("/")[1]: digest
            for name, digest in recorded_digests(shards).items()
            if name.startswith(f"{source}/") and name.endswith(".tar")
        }
        for view in range(augment.views if augment else 1):
            job_key = {**key, "view": view} if augment else key
            jobs[Path(source, view_folder(view)).as_posix()] = [
                FeatureJob(
                    shards / source, name, digest, job_key, settings, numerics, augment, view
                )
                for name, digest in sorted(tars.items())
            ]
    return jobs


def _extract_source(stage: Stage, source: str, jobs: list[FeatureJob], out: Path) -> dict[str, str]:
    """Writes one view of a source to ``out``; returns the digest of each file, by its path in the
    role's folder.
    """
    out.mkdir()
    units = {}
    with progress(stage.label(), source, len(jobs), "shards") as bar:
        for job, unit in fan_out(extract_shard, jobs, uses_gpu=True):
            units[job.name] = unit
            bar.advance()
    for job in jobs:
        link_tar(units[job.name], job.name, out)
    entries = [entry for job in jobs for entry in read_index(units[job.name] / INDEX)]
    write_index(out / INDEX, entries)
    num_frames = sum(entry.frames for entry in entries)
    log.info("%s: %s: %d utterances, %d frames", stage.label(), source, len(entries), num_frames)
    tars = {f"{source}/{job.name}": digest_of(units[job.name], job.name) for job in jobs}
    return {**tars, f"{source}/{INDEX}": file_digest(out / INDEX)}


def extract_shard(job: FeatureJob) -> Path:
    """The finished shard of features in the work cache: one tar and its index."""

    def fill(folder: Path) -> None:
        import torch

        torch.set_num_threads(job.settings.threads)
        utterances = [
            IndexedUtterance(entry, job.shards.name, job.shards)
            for entry in read_index(job.shards / INDEX)
            if entry.shard == job.name
        ]
        prefetch(utterances)
        frames = compute_frames(job, utterances)
        members = (_member(utterance, frames[utterance.id]) for utterance in utterances)
        write_index(folder / INDEX, write_tar(folder / job.name, members, "npy"))

    return cached_tar(
        "features",
        {**job.key, "shard": job.digest},
        job.name,
        job.settings.remote,
        fill,
        code=__name__,
    )


@lru_cache(maxsize=1)
def _encoder(
    folder: Path, _digest: str, device_name: str, layer: int | str, numerics: EncoderNumerics
) -> SpeechEncoder:
    """The encoder of this worker process; ``_digest`` of its files loads another one anew."""
    from components.model.encoders.encoder import SpeechEncoder

    return SpeechEncoder.load(folder, device_name, numerics, layer)


def compute_frames(job: FeatureJob, utterances: list[IndexedUtterance]) -> dict[str, np.ndarray]:
    """Frames of each utterance of a job by its id, shape (frames, width), in the stored dtype."""
    settings, numerics = job.settings, job.numerics
    digest = data_digest(job.key["encoder"])
    folder = open_checkpoint(ENCODER)
    encoder = _encoder(folder, digest, device(), settings.layer, numerics)
    view = (
        AugmentedView(build_augmentation(job.augment, NOISE), job.view)
        if job.augment
        else UNAUGMENTED
    )
    encoded = encode_utterances(
        encoder, utterances, settings.batch_seconds, numerics.batching, view
    )
    return {
        utterance.id: stored_frames(frames, utterance.id, numerics, settings.layer)
        for utterance, frames in encoded
    }


def stored_frames(
    frames: torch.Tensor, utterance_id: str, numerics: EncoderNumerics, layer: int | str
) -> np.ndarray:
    """Frames as they are stored, shape (frames, width).

    Raises InputError if there is none, or if a value is not finite or over ``numerics.max_abs``.
    """
    if len(frames) == 0:
        raise InputError(
            f"Utterance '{utterance_id}' is shorter than one frame of the encoder.",
            subject=utterance_id,
            hint="Leave it out of its source.",
        )
    magnitude = largest_magnitude(frames)
    if not is_storable(magnitude, numerics):
        raise InputError(
            f"Utterance '{utterance_id}', layer {layer}: the largest value is {magnitude:g}, over "
            f"{numerics.max_abs:g}.",
            subject=utterance_id,
            hint="Set numerics.dtype and numerics.features of the encoder's catalogue entry to "
            "float32, and max_abs to the largest value that is right.",
        )
    return to_stored_dtype(frames, numerics).cpu().numpy()


def _member(utterance: IndexedUtterance, frames: np.ndarray) -> TarMember:
    stream = io.BytesIO()
    np.save(stream, frames, allow_pickle=False)
    return TarMember(
        utterance.id,
        stream.getvalue(),
        utterance.num_samples,
        len(frames),
        utterance.text,
        utterance.speaker,
        "",
    )
