"""The stage: the manifests of a role → tars and index in ``data/shards/<role>``.

FLAC at 16 kHz mono is copied unchanged; anything else is decoded, averaged to mono, resampled and
written as 16-bit FLAC. Cost: limited by decoding and resampling on the worker processes.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from components.audio.sound import read_stored
from components.config import catalogue
from components.config.errors import InputError
from components.corpus.manifest import read_manifest
from components.corpus.source import build_source
from components.runtime.artifact import empty_folder, read_record, write_record
from components.runtime.hashing import file_digest
from components.runtime.pool import fan_out
from components.runtime.progress import progress
from components.runtime.s3 import StoredFile, read_verified
from components.runtime.stage import Stage
from components.shards import RESULT_VERSION
from components.shards.index import INDEX, read_index, write_index
from components.shards.store import bytes_of, cached_tar, digest_of, link_tar
from components.shards.writer import TarMember, write_tar
from components.text.utterance import Utterance

log = logging.getLogger(__name__)


@dataclass(frozen=True, eq=False)
class ShardJob:
    """One shard to write."""

    name: str  # file name of the tar
    source: str
    role: str
    settings: dict[str, Any]  # of the source, as in the catalogue
    utterances: list[Utterance]
    remote: bool

    def key(self) -> dict[str, Any]:
        """What the content of the shard depends on."""
        return {
            "version": RESULT_VERSION,
            "rows": [
                [
                    utterance.id,
                    utterance.sha256,
                    utterance.text,
                    utterance.speaker,
                    utterance.language,
                ]
                for utterance in self.utterances
            ],
        }


def split_into_shards(
    utterances: Sequence[Utterance], max_utterances: int, max_duration_s: float
) -> list[list[Utterance]]:
    """Utterances in manifest order, split so that a shard has at most ``max_utterances`` of them
    and at most ``max_duration_s`` seconds; a longer utterance is a shard of its own.
    """
    shards: list[list[Utterance]] = []
    total_s = 0.0
    for utterance in utterances:
        duration_s = utterance.duration_s
        if not shards or len(shards[-1]) == max_utterances or total_s + duration_s > max_duration_s:
            shards.append([])
            total_s = 0.0
        shards[-1].append(utterance)
        total_s += duration_s
    return shards


def write_shard(job: ShardJob) -> Path:
    """The finished shard in the work cache: one tar and its index. Raises InputError if a recording
    is missing or has another content than the manifest says.
    """

    def fill(folder: Path) -> None:
        source = build_source(job.source, job.role, job.settings)
        members = (
            _member(job.role, utterance, source.locate(utterance.path))
            for utterance in job.utterances
        )
        write_index(folder / INDEX, write_tar(folder / job.name, members, "flac"))

    return cached_tar("shards", job.key(), job.name, job.remote, fill, code=__name__)


def _member(role: str, utterance: Utterance, file: StoredFile) -> TarMember:
    try:
        data = read_verified(file, utterance.sha256)
    except (FileNotFoundError, IsADirectoryError):
        data = None
    if data is None:
        raise InputError(
            f"{file} is missing, or changed since the manifest was written.",
            subject=utterance.id,
            hint=f"'dvc repro -f -s corpus@{role}' inspects the role anew; then 'dvc repro'.",
        )
    stored, num_samples = read_stored(data)
    return TarMember(
        utterance.id,
        stored or data,
        num_samples,
        0,
        utterance.text,
        utterance.speaker,
        utterance.language,
    )


def work(stage: Stage) -> None:
    """Writes the shards of a role; raises what ``write_shard`` raises."""
    out = empty_folder(Path("data/shards") / stage.role)
    manifests = Path("data/corpus") / stage.role
    limits = stage.params.shards
    sources = catalogue.corpus(stage.params.corpus).sources[stage.role]
    outputs = {}
    for name, settings in sources.items():
        shards = split_into_shards(
            read_manifest(manifests / name), limits.utterances, limits.seconds
        )
        jobs = [
            ShardJob(
                f"{name}-{number:06d}.tar", name, stage.role, settings, utterances, limits.remote
            )
            for number, utterances in enumerate(shards)
        ]
        units = _write_shards(stage, name, jobs)
        (out / name).mkdir()
        for job in jobs:
            link_tar(units[job.name], job.name, out / name)
            outputs[f"{name}/{job.name}"] = digest_of(units[job.name], job.name)
        entries = [entry for job in jobs for entry in read_index(units[job.name] / INDEX)]
        write_index(out / name / INDEX, entries)
        outputs[f"{name}/{INDEX}"] = file_digest(out / name / INDEX)
    rooms = catalogue.names_of_rooms(sources)
    facts: dict[str, Any] = {"rooms": rooms} if rooms else {}  # all other sources are noise
    facts |= {"remote": True} if limits.remote else {}  # where tars are is no parameter of theirs
    parameters = {name: value for name, value in asdict(limits).items() if name != "remote"}
    write_record(
        out,
        "shards",
        parameters=parameters,
        inputs={"corpus": read_record(manifests)["outputs"]},
        outputs=outputs,
        libraries=("soundfile", "soxr", "pyarrow"),
        **facts,
    )


def _write_shards(stage: Stage, source: str, jobs: list[ShardJob]) -> dict[str, Path]:
    """The unit of each job in the work cache, by the name of its tar."""
    units = {}
    with progress(stage.label(), source, len(jobs), "shards") as bar:
        for job, unit in fan_out(write_shard, jobs):
            units[job.name] = unit
            bar.advance()
    num_bytes = sum(bytes_of(units[job.name], job.name) for job in jobs)
    log.info(
        "%s: %s: %d utterances in %d shards, %.1f MB",
        stage.label(),
        source,
        sum(len(job.utterances) for job in jobs),
        len(jobs),
        num_bytes / 1e6,
    )
    return units
