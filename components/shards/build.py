"""The stage: the manifests of a role → tars and index in ``data/shards/<role>``.

FLAC at 16 kHz mono goes in as it is; anything else is decoded, averaged to mono, resampled and
written as 16-bit FLAC.
"""

from __future__ import annotations

import io
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import soundfile

from components.audio.sound import RATE, encode_flac, read_waveform
from components.config import catalogue
from components.config.errors import InputError
from components.corpus.manifest import read_manifest
from components.corpus.source import build_source
from components.runtime.artifact import empty_folder, read_record, write_record
from components.runtime.hashing import file_digest
from components.runtime.pool import fan_out
from components.runtime.progress import progress
from components.runtime.s3 import RemotePath, read_verified
from components.runtime.stage import Stage
from components.shards import RESULT_VERSION
from components.shards.index import INDEX, read_index, write_index
from components.shards.store import bytes_of, cached_tar, digest_of, link_tar
from components.shards.writer import TarMember, write_tar
from components.text.utterance import Utterance


@dataclass(frozen=True, eq=False)
class Job:
    """One shard to write."""

    name: str  # file name of the tar
    source: str
    role: str
    settings: dict
    rows: list[Utterance]
    remote: bool

    def key(self) -> dict:
        return {
            "version": RESULT_VERSION,
            "rows": [
                [row.id, row.sha256, row.text, row.speaker, row.language] for row in self.rows
            ],
        }


def split_into_shards(
    rows: list[Utterance], utterances: int, seconds: float
) -> list[list[Utterance]]:
    """Rows in manifest order, cut so that no shard holds more than so many utterances
    or seconds.
    """
    shards: list[list[Utterance]] = []
    held = 0.0
    for row in rows:
        length = row.duration_s
        if not shards or len(shards[-1]) == utterances or held + length > seconds:
            shards.append([])
            held = 0.0
        shards[-1].append(row)
        held += length
    return shards


def write(job: Job) -> Path:
    """The finished shard: one tar and its index."""

    def make(folder: Path) -> None:
        origin = build_source(job.source, job.role, job.settings)
        samples = (_sample(row, origin.locate(row.path)) for row in job.rows)
        write_index(folder / INDEX, write_tar(folder / job.name, samples, "flac"))

    return cached_tar("shards", job.key(), job.name, job.remote, make, code=__name__)


def _sample(row: Utterance, path: Path | RemotePath) -> TarMember:
    try:
        data = read_verified(path, row.sha256)
    except (FileNotFoundError, IsADirectoryError):
        data = None
    if data is None:
        raise InputError(
            f"{path} is gone or changed since the manifest was made.",
            subject=row.id,
            hint="Run 'python -m components.corpus scan', then 'dvc repro'.",
        )
    facts = soundfile.info(io.BytesIO(data))
    if (facts.format, facts.samplerate, facts.channels) == ("FLAC", RATE, 1):
        count = facts.frames
    else:
        samples = read_waveform(data)
        data, count = encode_flac(samples), len(samples)
    return TarMember(row.id, data, count, 0, row.text, row.speaker, row.language)


def work(stage: Stage) -> None:
    out = empty_folder(Path("data/shards") / stage.role)
    manifests = Path("data/corpus") / stage.role
    limits = stage.params.shards
    outputs = {}
    for name, settings in catalogue.corpus(stage.params.corpus).sources[stage.role].items():
        shards = split_into_shards(
            read_manifest(manifests / name), limits.utterances, limits.seconds
        )
        jobs = [
            Job(f"{name}-{number:06d}.tar", name, stage.role, settings, rows, limits.remote)
            for number, rows in enumerate(shards)
        ]
        units = _all(stage, name, jobs)
        (out / name).mkdir()
        for job in jobs:
            link_tar(units[job.name], job.name, out / name)
            outputs[f"{name}/{job.name}"] = digest_of(units[job.name], job.name)
        write_index(
            out / name / INDEX,
            [entry for job in jobs for entry in read_index(units[job.name] / INDEX)],
        )
        outputs[f"{name}/{INDEX}"] = file_digest(out / name / INDEX)
    inputs = {"corpus": read_record(manifests)["outputs"]}
    libraries = ("soundfile", "soxr", "pyarrow")
    rooms = catalogue.rooms_of(catalogue.corpus(stage.params.corpus).sources[stage.role])
    facts: dict[str, Any] = (
        {"rooms": rooms} if rooms else {}
    )  # who adds noise knows by it what is none
    facts |= (
        {"remote": True} if limits.remote else {}
    )  # where the tars lie is no part of what they are
    parameters = {key: value for key, value in asdict(limits).items() if key != "remote"}
    write_record(
        out,
        "shards",
        parameters=parameters,
        inputs=inputs,
        outputs=outputs,
        libraries=libraries,
        **facts,
    )


def _all(stage: Stage, name: str, jobs: list[Job]) -> dict[str, Path]:
    units = {}
    with progress(stage.label(), name, len(jobs), "shards") as shown:
        for job, unit in fan_out(write, jobs):
            units[job.name] = unit
            shown.advance()
    stored = sum(bytes_of(units[job.name], job.name) for job in jobs)
    print(
        f"{stage.label()}: {name}: {sum(len(job.rows) for job in jobs)} utterances in "
        f"{len(jobs)} shards, {stored / 1e6:.1f} MB"
    )
    return units
