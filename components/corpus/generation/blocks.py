"""Sources whose audio is made here: blocks of utterances are made into the work cache, the same
bytes each time.

A block is a unit of the work cache; within it, each chunk of utterances is made by a process of its
own, so that what a library remembers of earlier utterances never reaches another chunk.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict
from multiprocessing import get_context
from pathlib import Path
from typing import Any, TypeVar

from components.audio.sound import RATE, encode_flac
from components.config.errors import InputError
from components.runtime.pool import fan_out
from components.runtime.progress import progress
from components.runtime.unit_cache import cached_unit, key_digest_of, unit_digests, unit_path_of
from components.text.utterance import Utterance

Plan = TypeVar("Plan")
BLOCK = 500  # utterances in a unit of the work cache: a second or two of work
Maker = Callable[[Sequence[Any]], list]  # plans of one chunk → their samples at 16 kHz


def generate_blocks(
    stage_name: str, name: str, plans: Sequence[Any], chunk: int, make: Maker, key: dict[str, Any]
) -> list[Path]:
    """The folder of each block of ``plans`` (dataclasses with an ``id``), made where it is not
    there.
    """
    jobs = [
        (plans[start : start + BLOCK], chunk, make, key) for start in range(0, len(plans), BLOCK)
    ]
    with progress(stage_name, name, len(plans), "utterances") as shown:
        folders = {}
        for job, folder in fan_out(_block, [_Job(*job) for job in jobs], is_local=True):
            folders[job.plans[0].id] = folder
            shown.advance(len(job.plans))
    return [folders[job[0][0].id] for job in jobs]


class _Job:
    """One block; hashable by identity, so that the fan-out can name it."""

    def __init__(self, plans: Sequence[Any], chunk: int, make: Maker, key: dict[str, Any]) -> None:
        self.plans, self.chunk, self.make, self.key = plans, chunk, make, key


def _block(job: _Job) -> Path:
    key = {**job.key, "chunk": job.chunk, "plans": [asdict(plan) for plan in job.plans]}

    def fill(folder: Path) -> None:
        context = get_context("fork")
        for start in range(0, len(job.plans), job.chunk):
            process = context.Process(
                target=_chunk, args=(job.plans[start : start + job.chunk], job.make, folder)
            )
            process.start()
            process.join()
            if process.exitcode != 0:
                raise RuntimeError(
                    f"making {job.plans[start].id} and those after it failed (exit code "
                    f"{process.exitcode})"
                )

    return cached_unit("audio", key, fill, code=job.make.__module__)


def _chunk(plans: Sequence[Any], make: Maker, folder: Path) -> None:
    for plan, samples in zip(plans, make(plans), strict=True):
        (folder / f"{plan.id}.flac").write_bytes(encode_flac(samples))


def list_block_utterances(
    folders: Sequence[Path], describe: Callable[[str], dict[str, Any]]
) -> list[Utterance]:
    """The manifest rows of finished blocks; ``describe(id)`` gives split, speaker, language and
    text.
    """
    import soundfile

    found = []
    for folder in folders:
        for file, digest in unit_digests(folder).items():
            name = Path(file).stem
            facts = soundfile.info(folder / file)
            row = Utterance(
                id=name,
                path=f"{key_digest_of(folder)}/{file}",
                sample_rate=RATE,
                samples=facts.frames,
                sha256=digest,
                **describe(name),
            )
            found.append(row)
    return sorted(found, key=lambda row: row.id)


def locate_generated(path: str, remake: Callable[[], Any], *, code: str) -> Path:
    """The file of a manifest path ``<unit>/<id>.flac``; ``remake`` is called where the work cache
    has lost it.
    """
    unit, _, name = path.partition("/")
    file = unit_path_of("audio", unit, code) / name
    if not file.is_file():
        remake()
    if not file.is_file():
        raise InputError(
            f"{path} is not among the audio made by its source.",
            subject=path,
            hint="Run 'dvc repro -f corpus'.",
        )
    return file
