"""The stage: every shard of a role through the encoder → ``data/features/<role>``, one tar of ``.npy`` a shard.

Batches are formed inside one shard, by length, under a budget of padded seconds, so that a shard's frames never hang on
who computes it. Mode ``live`` stores nothing: the folder then holds only its record. Cost at embedded size: 12,000
utterances in about 55 s on two cores.
"""

from __future__ import annotations

import io
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np

from components.config import catalogue
from components.config.artifact import contents, fresh, write_record
from components.config.catalogue import EncoderNumerics
from components.config.errors import InputError
from components.config.hashing import file_digest
from components.config.params import Features
from components.config.pool import fan_out
from components.config.progress import progress
from components.config.settings import device
from components.config.stage import Stage
from components.config.work import digests, made, place
from components.features.key import shape_key
from components.shards.index import INDEX, read_index, write_index
from components.shards.order import by_length
from components.shards.reader import Located, audio, sources
from components.shards.writer import Sample, write_tar

ENCODER = Path("models/encoder")


@dataclass(frozen=True, eq=False)
class Job:
    """One shard to encode."""

    shards: Path  # folder of the source
    name: str  # of the tar
    digest: str  # of the tar
    key: dict[str, Any]
    settings: Features
    numerics: EncoderNumerics


def work(stage: Stage) -> None:
    settings, numerics = stage.params.features, catalogue.encoder(stage.params.encoder).numerics
    shards, out = Path("data/shards") / stage.role, fresh(Path("data/features") / stage.role)
    key = shape_key(ENCODER, settings, numerics)
    outputs: dict[str, str] = {}
    for source in sources(shards) if settings.mode == "cached" else []:
        tars = {
            name.split("/")[1]: digest
            for name, digest in contents(shards).items()
            if name.startswith(f"{source}/") and name.endswith(".tar")
        }
        jobs = [Job(shards / source, name, digest, key, settings, numerics) for name, digest in sorted(tars.items())]
        outputs |= _source(stage, source, jobs, out / source)
    reason = {} if settings.mode == "cached" else {"empty": "features.mode is live: train and decode run the encoder themselves"}
    write_record(out, "features", parameters=asdict(settings), inputs={"encoder": key["encoder"], "shards": contents(shards)},
                 outputs=outputs, key=key, libraries=("torch", "transformers"), **reason)  # fmt: skip
    if reason:
        print(f"{stage.label()}: nothing stored, {reason['empty']}")


def _source(stage: Stage, source: str, jobs: list[Job], out: Path) -> dict[str, str]:
    out.mkdir()
    units = {}
    with progress(stage.label(), source, len(jobs), "shards") as shown:
        # One process feeds a GPU; on CPUs each worker takes shards of its own.
        for job, unit in fan_out(encode, jobs, most=None if device() == "cpu" else 1):
            units[job.name] = unit
            shown.advance()
    for job in jobs:
        place(units[job.name], out)
    (out / INDEX).unlink(missing_ok=True)
    rows = [entry for job in jobs for entry in read_index(units[job.name] / INDEX)]
    write_index(out / INDEX, rows)
    print(f"{stage.label()}: {source}: {len(rows)} utterances, {sum(row.frames for row in rows)} frames")
    tars = {f"{source}/{job.name}": digests(units[job.name])[job.name] for job in jobs}
    return {**tars, f"{source}/{INDEX}": file_digest(out / INDEX)}


def encode(job: Job) -> Path:
    """The finished shard of features: one tar and its index."""

    def make(folder: Path) -> None:
        import torch

        torch.set_num_threads(job.settings.threads)
        items = [Located(entry, job.shards.name, job.shards) for entry in read_index(job.shards / INDEX) if entry.shard == job.name]
        frames = _frames(job, items)
        write_index(folder / INDEX, write_tar(folder / job.name, (_sample(item, frames[item.entry.id]) for item in items), "npy"))

    return made("features", {**job.key, "shard": job.digest, "name": job.name}, make)


@lru_cache(maxsize=1)
def _encoder(folder: Path, name: str, dtype: str, layer: int | str, padding: str) -> Any:
    from components.model.encoder import SpeechEncoder

    return SpeechEncoder(folder, name, dtype, layer, padding)


def _frames(job: Job, items: list[Located]) -> dict[str, np.ndarray]:
    encoder = _encoder(ENCODER, device(), job.numerics.dtype, job.settings.layer, job.numerics.padding)
    return {
        item.entry.id: checked(frames.float().cpu().numpy(), item.entry.id, job.numerics, job.settings.layer)
        for item, frames in encoded(encoder, items, job.settings.batch_seconds, job.numerics.batching)
    }


def encoded(encoder: Any, items: list[Located], batch_seconds: float, batching: str) -> Iterator[tuple[Located, Any]]:
    """Each utterance and its frames on the encoder's device, batches formed by length under ``batch_seconds`` of audio, what
    the encoder pads counted; raises InputError before any work where one is shorter than a frame."""
    for item in items:
        if encoder.frames_of(item.entry.samples) < 1:
            raise InputError(f"Utterance '{item.entry.id}' is shorter than one frame of the encoder: {item.entry.samples} samples, "
                             f"{encoder.least_samples} are needed.", unit=item.entry.id, way_out="Leave it out of its source.")  # fmt: skip
    seconds = [encoder.padded_seconds(item.entry.samples) for item in items]
    for batch in by_length(items, seconds, batch_seconds):
        for group in [batch] if batching == "padded" else equal_lengths(batch):
            yield from zip(group, encoder([audio(item) for item in group]), strict=True)


def equal_lengths(batch: list[Located]) -> list[list[Located]]:
    """The batch cut into groups of equal length: group norm over time takes in padding."""
    groups: dict[int, list[Located]] = {}
    for item in batch:
        groups.setdefault(item.entry.samples, []).append(item)
    return list(groups.values())


def checked(frames: np.ndarray, name: str, numerics: EncoderNumerics, layer: int | str) -> np.ndarray:
    """Frames in the dtype that is stored; raises InputError for a value that it can't hold."""
    if len(frames) == 0:
        raise InputError(f"Utterance '{name}' is shorter than one frame of the encoder.", unit=name, way_out="Leave it out of its source.")
    largest = float(np.abs(frames).max())
    if not np.isfinite(largest) or largest > numerics.max_abs:
        raise InputError(f"Utterance '{name}', layer {layer}: the largest value is {largest:g}, over {numerics.max_abs:g}.", unit=name,
                         way_out="Set numerics.dtype and numerics.features of the encoder's catalogue entry to float32, and max_abs "
                                 "to the largest value that is right.")  # fmt: skip
    return frames.astype(numerics.features)


def _sample(item: Located, frames: np.ndarray) -> Sample:
    stream = io.BytesIO()
    np.save(stream, frames, allow_pickle=False)
    entry = item.entry
    return Sample(entry.id, stream.getvalue(), entry.samples, len(frames), entry.text, entry.speaker, "")
