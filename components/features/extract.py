"""The stage: every shard of a role through the encoder → ``data/features/<role>``, one tar of
``.npy`` a shard.

Batches are formed inside one shard, by length, under a budget of padded seconds, so that a shard's
frames never hang on who computes it. Where training's audio is augmented, a shard is computed once
a view: ``<source>/view-1`` and so on have the layout of the source's folder, which holds the first
view. Mode ``live`` stores nothing: the folder then holds only its record. Cost at embedded size:
12,000 utterances in about 55 s on two cores.
"""

from __future__ import annotations

import io
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np

from components.config import catalogue
from components.config.augment import Augment
from components.config.entries import EncoderNumerics
from components.config.errors import InputError
from components.config.params import Features
from components.features.key import noise_inputs, shape_key
from components.features.waveforms import (
    UNAUGMENTED,
    AugmentedView,
    augment_of,
    augmentation_of,
    uses_noise,
    view_folder,
)
from components.runtime.artifact import empty_folder, recorded_digests, write_record
from components.runtime.hashing import file_digest
from components.runtime.pool import fan_out
from components.runtime.progress import progress
from components.runtime.settings import device
from components.runtime.stage import Stage
from components.shards.index import INDEX, read_index, write_index
from components.shards.order import by_length
from components.shards.reader import IndexedUtterance, prefetch, sources
from components.shards.store import cached_tar, digest_of, link_tar
from components.shards.writer import TarMember, write_tar

ENCODER, NOISE = Path("models/encoder"), Path("data/shards/noise")


@dataclass(frozen=True, eq=False)
class Job:
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
    settings, numerics = stage.params.features, catalogue.encoder(stage.params.encoder).numerics
    shards, out = Path("data/shards") / stage.role, empty_folder(Path("data/features") / stage.role)
    augment, noise = augment_of(settings.augment, stage.role), None
    if augment is not None:
        augmentation_of(augment, NOISE)  # stops here where it lacks something
        noise = noise_inputs(NOISE) if uses_noise(augment) else None
    key = shape_key(ENCODER, settings, numerics, augment, noise)
    outputs: dict[str, str] = {}
    for source in sources(shards) if settings.mode == "cached" else []:
        tars = {
            name.split("/")[1]: digest
            for name, digest in recorded_digests(shards).items()
            if name.startswith(f"{source}/") and name.endswith(".tar")
        }
        for view in range(augment.views if augment else 1):
            job_key = {**key, "view": view} if augment else key
            jobs = [
                Job(shards / source, name, digest, job_key, settings, numerics, augment, view)
                for name, digest in sorted(tars.items())
            ]
            place_of = Path(source, view_folder(view)).as_posix()
            outputs |= _source(stage, place_of, jobs, out / place_of)
    reason = (
        {}
        if settings.mode == "cached"
        else {"empty": "features.mode is live: train and decode run the encoder themselves"}
    )
    remote = (
        {"remote": True} if settings.remote and not reason else {}
    )  # where the tars lie is no part of what they are
    # Of augmentation the record says what holds for the role: where it is off, nothing.
    parameters = {
        name: value for name, value in asdict(settings).items() if name not in ("augment", "remote")
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
        **reason,
        **remote,
    )
    if reason:
        print(f"{stage.label()}: nothing stored, {reason['empty']}")


def _source(stage: Stage, source: str, jobs: list[Job], out: Path) -> dict[str, str]:
    out.mkdir()
    units = {}
    with progress(stage.label(), source, len(jobs), "shards") as shown:
        for job, unit in fan_out(extract_shard, jobs, gpu=True):
            units[job.name] = unit
            shown.advance()
    for job in jobs:
        link_tar(units[job.name], job.name, out)
    rows = [entry for job in jobs for entry in read_index(units[job.name] / INDEX)]
    write_index(out / INDEX, rows)
    print(
        f"{stage.label()}: {source}: {len(rows)} utterances, {sum(row.frames for row in rows)} "
        "frames"
    )
    tars = {f"{source}/{job.name}": digest_of(units[job.name], job.name) for job in jobs}
    return {**tars, f"{source}/{INDEX}": file_digest(out / INDEX)}


def extract_shard(job: Job) -> Path:
    """The finished shard of features: one tar and its index."""

    def make(folder: Path) -> None:
        import torch

        torch.set_num_threads(job.settings.threads)
        items = [
            IndexedUtterance(entry, job.shards.name, job.shards)
            for entry in read_index(job.shards / INDEX)
            if entry.shard == job.name
        ]
        prefetch(items)
        frames = _frames(job, items)
        write_index(
            folder / INDEX,
            write_tar(
                folder / job.name, (_sample(item, frames[item.entry.id]) for item in items), "npy"
            ),
        )

    return cached_tar(
        "features",
        {**job.key, "shard": job.digest},
        job.name,
        job.settings.remote,
        make,
        code=__name__,
    )


@lru_cache(maxsize=1)
def _encoder(folder: Path, name: str, dtype: str, layer: int | str, padding: str) -> Any:
    from components.model.encoders.encoder import SpeechEncoder

    return SpeechEncoder(folder, name, dtype, layer, padding)


def _frames(job: Job, items: list[IndexedUtterance]) -> dict[str, np.ndarray]:
    encoder = _encoder(
        ENCODER, device(), job.numerics.dtype, job.settings.layer, job.numerics.padding
    )
    take = (
        AugmentedView(augmentation_of(job.augment, NOISE), job.view) if job.augment else UNAUGMENTED
    )
    return {
        item.entry.id: check_frames(
            frames.float().cpu().numpy(), item.entry.id, job.numerics, job.settings.layer
        )
        for item, frames in encode_utterances(
            encoder, items, job.settings.batch_seconds, job.numerics.batching, take
        )
    }


def encode_utterances(
    encoder: Any,
    items: list[IndexedUtterance],
    batch_seconds: float,
    batching: str,
    take: AugmentedView = UNAUGMENTED,
) -> Iterator[tuple[IndexedUtterance, Any]]:
    """Each utterance and its frames on the encoder's device, batches formed by length under
    ``batch_seconds`` of audio, what the encoder pads counted; raises InputError before any work
    where one is shorter than a frame.
    """
    check_lengths(encoder, [(item.entry.id, take.samples(item)) for item in items])
    seconds = [encoder.padded_seconds(take.samples(item)) for item in items]
    for batch in by_length(items, seconds, batch_seconds):
        for group in [batch] if batching == "padded" else equal_lengths(batch, take):
            yield from zip(group, encoder([take.waveform(item) for item in group]), strict=True)


def check_lengths(encoder: Any, samples: Iterable[tuple[str, int]]) -> None:
    """Raises InputError where an utterance, given by its id, has too few samples for a frame."""
    for name, count in samples:
        if encoder.frames_of(count) < 1:
            raise InputError(
                f"Utterance '{name}' is shorter than one frame of the encoder: {count} samples, {encoder.least_samples} are "
                "needed.",
                subject=name,
                hint="Leave it out of its source; features.augment.speed shortens too.",
            )


def equal_lengths(
    batch: list[IndexedUtterance], take: AugmentedView = UNAUGMENTED
) -> list[list[IndexedUtterance]]:
    """The batch cut into groups of equal length: group norm over time takes in padding."""
    groups: dict[int, list[IndexedUtterance]] = {}
    for item in batch:
        groups.setdefault(take.samples(item), []).append(item)
    return list(groups.values())


def check_frames(
    frames: np.ndarray, name: str, numerics: EncoderNumerics, layer: int | str
) -> np.ndarray:
    """Frames in the dtype that is stored; raises InputError for a value that it can't hold."""
    if len(frames) == 0:
        raise InputError(
            f"Utterance '{name}' is shorter than one frame of the encoder.",
            subject=name,
            hint="Leave it out of its source.",
        )
    largest = float(np.abs(frames).max())
    if not np.isfinite(largest) or largest > numerics.max_abs:
        raise InputError(
            f"Utterance '{name}', layer {layer}: the largest value is {largest:g}, over "
            f"{numerics.max_abs:g}.",
            subject=name,
            hint="Set numerics.dtype and numerics.features of the encoder's catalogue entry to float32, and max_abs "
            "to the largest value that is right.",
        )
    return frames.astype(numerics.features)


def _sample(item: IndexedUtterance, frames: np.ndarray) -> TarMember:
    stream = io.BytesIO()
    np.save(stream, frames, allow_pickle=False)
    entry = item.entry
    return TarMember(
        entry.id, stream.getvalue(), entry.samples, len(frames), entry.text, entry.speaker, ""
    )
