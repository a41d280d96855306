"""One shard under one system → its hypotheses, in the work cache: what a worker of the stage does.

In: a job, plain data. Out: ``hypotheses.parquet``, and beside it how long the search took. Models
are loaded once a process. Cost: loading, then the search.
"""

from __future__ import annotations

import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Any

from components.config.params import ConstraintSet
from components.decode.hypotheses import write_hypotheses
from components.model.folders.description import has_ctc_for_layer
from components.runtime.artifact import read_record
from components.runtime.settings import device
from components.runtime.unit_cache import cached_unit
from components.text.hypothesis import LLM_ONLY, WHISPER, Hypothesis

DATA, ENCODER, LLM, MODEL = (
    Path("data"),
    Path("models/encoder"),
    Path("models/llm"),
    Path("models/bridge"),
)
UNIT, CLOCK = "hypotheses.parquet", "throughput.json"


@dataclass(frozen=True, eq=False)
class Job:
    """One shard under one system; ``constraints`` is None for the encoder's CTC, Whisper's own
    decoder and the LLM alone.
    """

    role: str
    source: str
    shard: str  # name of the tar, whether of audio or of features
    system: str
    constraints: ConstraintSet | None
    batch_seconds: float
    threads: int
    exact: bool
    key: dict[str, Any]


def decode_shard(job: Job) -> Path:
    """The finished hypotheses of one shard under one system."""

    def make(folder: Path) -> None:
        import torch

        torch.set_num_threads(job.threads)
        clock = Clock()
        write_hypotheses(folder / UNIT, _rows(job, clock))
        (folder / CLOCK).write_text(json.dumps(vars(clock)))

    return cached_unit("decode", job.key, make, code=__name__)


@dataclass
class Clock:
    """Seconds of audio and of work, over the batches after the first, which warms everything up."""

    batches: int = 0
    audio: float = 0.0
    seconds: float = 0.0

    def add(self, audio: float, seconds: float) -> None:
        if self.batches:
            self.audio, self.seconds = self.audio + audio, self.seconds + seconds
        self.batches += 1


def throughput(units: Mapping[Job, Path]) -> dict[str, float]:
    """Seconds of audio that each system gets through in a second (RTFx), as it was when its units
    were made: frames read or computed, and the search, on one worker. A system whose shards hold
    one batch each has none.
    """
    sums: dict[str, list[float]] = {}
    for job, unit in units.items():
        clock = json.loads((unit / CLOCK).read_text())
        held = sums.setdefault(job.system, [0.0, 0.0])
        held[0], held[1] = held[0] + clock["audio"], held[1] + clock["seconds"]
    return {
        system: round(audio / seconds, 1) for system, (audio, seconds) in sums.items() if seconds
    }


@lru_cache(maxsize=1)
def _model(exact: bool) -> Any:
    from components.model.speech_llm import SpeechLLM

    return SpeechLLM.load(MODEL, ENCODER, LLM, device(), "float32" if exact else None)


def _tuned(exact: bool) -> Any:
    """The encoder of the bridge; None where it was not tuned."""
    from components.model.model_folder import read_model_config

    return _model(exact).encoder if read_model_config(MODEL).encoder_run else None


@lru_cache(maxsize=1)
def _encoder(exact: bool) -> Any:
    from components.model.encoders.encoder import SpeechEncoder

    return _tuned(exact) or SpeechEncoder(ENCODER, device())


@lru_cache(maxsize=4)
def _frames(role: str, exact: bool) -> Any:
    from components.features.frames import FrameSource

    return FrameSource(role, ENCODER, device(), DATA, _tuned(exact))


@lru_cache(maxsize=4)
def _languages(role: str) -> dict[tuple[str, str], str]:
    """Language of each utterance of a role, by source and id."""
    from components.shards.reader import description, entries

    return {
        (item.source, item.id): description(item)["language"]
        for item in entries(DATA / "shards" / role)
    }


@lru_cache(maxsize=4)
def _recordings(role: str) -> dict[tuple[str, str], Any]:
    """Where the audio of each utterance of a role lies."""
    from components.shards.reader import entries

    return {(item.source, item.id): item for item in entries(DATA / "shards" / role)}


@lru_cache(maxsize=1)
def _whisper() -> Any:
    from components.decode.whisper import WhisperDecoder

    return WhisperDecoder(ENCODER, device())


@lru_cache(maxsize=1)
def _alone() -> Any:
    """The LLM as it was before the training, its prompt builder and BOS."""
    from components.model.llms.causal import load_llm
    from components.model.llms.prompt import PromptBuilder
    from components.model.model_folder import read_model_config

    shape = read_model_config(MODEL)
    llm, tokenizer = load_llm(LLM, shape.llm_dtype, device())
    return llm, PromptBuilder(tokenizer, shape.prompt, shape.text_case), tokenizer.bos_token_id


def forget() -> None:
    """Drops what is held for the length of a process."""
    for held in (_model, _encoder, _frames, _languages, _recordings, _whisper, _alone):
        held.cache_clear()


def _rows(job: Job, clock: Clock) -> list[Hypothesis]:
    from components.shards.order import by_length
    from components.shards.reader import prefetch

    source = _frames(job.role, job.exact)
    items = [
        item for item in source.items if item.source == job.source and item.entry.shard == job.shard
    ]
    prefetch([source.located(item) for item in items])
    found: dict[str, Hypothesis] = {}
    for batch in by_length(items, [item.duration_s for item in items], job.batch_seconds):
        started = time.perf_counter()
        for item, each in zip(batch, _said(job, source, batch), strict=True):
            found[item.id] = each
        clock.add(sum(item.duration_s for item in batch), time.perf_counter() - started)
    rows = []
    for item in items:
        entry, said = item.entry, found[item.id]
        language = _languages(job.role)[job.source, entry.id]
        rows.append(
            replace(
                said,
                system=job.system,
                utterance_id=entry.id,
                speaker=entry.speaker,
                language=language,
                reference=entry.text,
                duration_s=entry.duration_s,
            )
        )
    return rows


def _said(job: Job, source: Any, batch: Sequence[Any]) -> list[Hypothesis]:
    """What the system of a job says of each utterance of a batch."""
    if job.system == LLM_ONLY:
        return [_alone_of(item.text) for item in batch]
    if job.system == WHISPER:
        from components.shards.reader import audio

        recordings = _recordings(job.role)
        return [
            Hypothesis(text)
            for text in _whisper()([audio(recordings[job.source, item.id]) for item in batch])
        ]
    frames = source.frames(batch)
    if job.constraints is None:
        return [Hypothesis(text) for text in _encoder(job.exact).ctc_text(frames)]
    return _searched(job, job.constraints, frames, [item.duration_s for item in batch])


def _alone_of(text: str) -> Hypothesis:
    from components.model.llms.causal import log_probability

    llm, builder, bos = _alone()
    ids = builder.target(text)
    return Hypothesis("", ids, log_probability(llm, bos, ids))


def _searched(
    job: Job, constraints: ConstraintSet, frames: Sequence[Any], seconds: Sequence[float]
) -> list[Hypothesis]:
    from components.search.beam import search

    return search(
        _model(job.exact),
        frames,
        seconds,
        constraints,
        _evidence(job, frames) if constraints.needs_acoustic_evidence else None,
    )


def _evidence(job: Job, frames: Sequence[Any]) -> Any:
    """What was heard by CTC; None where the frames are not those of a CTC head."""
    from components.search.acoustic_evidence import ctc_evidence

    if not has_ctc_for_layer(ENCODER, read_record(DATA / "features" / job.role)["key"]["layer"]):
        return None
    return ctc_evidence(_encoder(job.exact), frames, _model(job.exact).builder.text)
