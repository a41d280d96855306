"""The stage: dev, test and non-speech test sources through every constraint set → ``data/decode/<role>/<source>.parquet``.

The unit is one shard under one system; batches are formed inside it, by length. Cost at embedded size: 900 utterances
and clips under two beam-4 sets and CTC in about 20 s on two cores.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

from components.config import catalogue
from components.config.artifact import contents, fresh, read_record, write_record
from components.config.hashing import data_digest
from components.config.params import ConstraintSet
from components.config.pool import fan_out
from components.config.progress import progress
from components.config.settings import device
from components.config.stage import Stage
from components.config.work import made
from components.decode import RESULT_VERSION
from components.decode.hypotheses import ALONE, CTC, Row, read_hypotheses, write_hypotheses
from components.model.folders.description import has_ctc

DATA, ENCODER, LLM, MODEL, OUT = Path("data"), Path("models/encoder"), Path("models/llm"), Path("models/bridge"), Path("data/decode")
ROLES = ("dev", "test", "nonspeech-test")
UNIT = "hypotheses.parquet"


@dataclass(frozen=True, eq=False)
class Job:
    """One shard under one system; ``constraints`` is None for the encoder's CTC and the LLM alone."""

    role: str
    source: str
    shard: str  # name of the tar, whether of audio or of features
    system: str
    constraints: ConstraintSet | None
    batch_seconds: float
    threads: int
    key: dict[str, Any]


def work(stage: Stage) -> None:
    out, settings = fresh(OUT), stage.params.decode
    systems: dict[str, ConstraintSet | None] = {**settings.sets, **({CTC: None} if _writes_ctc() else {})}
    alone: dict[str, ConstraintSet | None] = {ALONE: None} if settings.perplexity else {}
    jobs = [job for role in ROLES for job in _jobs(role, systems | (alone if role in catalogue.SPEECH_ROLES else {}),
                                                   settings.batch_seconds, settings.threads)]  # fmt: skip
    units = {}
    with progress(stage.label(), "hypotheses", len(jobs), "shards") as shown:
        for job, unit in fan_out(decode, jobs, most=None if device() == "cpu" else 1):
            units[job] = unit
            shown.advance(1, f"{job.source}: {job.system}")
    for role, source in sorted({(job.role, job.source) for job in jobs}):
        rows = [row for job in jobs if (job.role, job.source) == (role, source) for row in read_hypotheses(units[job] / UNIT)]
        (out / role).mkdir(exist_ok=True)
        write_hypotheses(out / role / f"{source}.parquet", rows)
        print(f"{stage.label()}: {role}/{source}: {len(rows)} hypotheses, {len({row.id for row in rows})} utterances")
    inputs = {"model": _model_key(), "shards": {role: contents(DATA / "shards" / role) for role in ROLES}}
    # Off, it leaves the record as it was before there was such a setting.
    parameters = {key: value for key, value in asdict(settings).items() if key != "perplexity" or value}
    write_record(out, "decode", parameters=parameters, inputs=inputs, libraries=("torch", "transformers", "peft"))


def _writes_ctc() -> bool:
    """Whether the encoder has a CTC head that the stored layer serves."""
    record = read_record(DATA / "features" / "test")
    return record["key"]["layer"] == "last" and has_ctc(ENCODER)


def _model_key() -> dict[str, Any]:
    return {"bridge": contents(MODEL), "encoder": contents(ENCODER), "llm": contents(LLM)}


def _jobs(role: str, systems: dict[str, ConstraintSet | None], batch_seconds: float, threads: int) -> list[Job]:
    record = read_record(DATA / "features" / role)
    tars = {name: digest for name, digest in (record["outputs"] or record["inputs"]["shards"]).items() if name.endswith(".tar")}
    model, frames = data_digest(_model_key()), data_digest(record["key"])
    jobs = []
    for system, constraints in systems.items():
        for name, digest in sorted(tars.items()):
            source, _, shard = name.partition("/")
            key = {"version": RESULT_VERSION, "model": model, "frames": frames, "shard": digest, "batch_seconds": batch_seconds,
                   "system": system, "constraints": constraints and asdict(constraints)}  # fmt: skip
            jobs.append(Job(role, source, shard, system, constraints, batch_seconds, threads, key))
    return jobs


def decode(job: Job) -> Path:
    """The finished hypotheses of one shard under one system."""

    def make(folder: Path) -> None:
        import torch

        torch.set_num_threads(job.threads)
        write_hypotheses(folder / UNIT, _rows(job))

    return made("decode", job.key, make)


@lru_cache(maxsize=1)
def _model() -> Any:
    from components.model.joined import SpeechLLM

    return SpeechLLM.load(MODEL, ENCODER, LLM, device())


def _tuned() -> Any:
    """The encoder of the bridge; None where it was not tuned."""
    from components.model.joined import read_shape

    return _model().encoder if read_shape(MODEL).hearing else None


@lru_cache(maxsize=1)
def _encoder() -> Any:
    from components.model.encoders.encoder import SpeechEncoder

    return _tuned() or SpeechEncoder(ENCODER, device())


@lru_cache(maxsize=4)
def _frames(role: str) -> Any:
    from components.features.frames import FrameSource

    return FrameSource(role, ENCODER, device(), DATA, _tuned())


@lru_cache(maxsize=1)
def _alone() -> Any:
    """The LLM as it was before the training, its prompt builder and BOS."""
    from components.model.joined import read_shape
    from components.model.llms.causal import load_llm
    from components.model.llms.prompt import PromptBuilder

    shape = read_shape(MODEL)
    llm, tokenizer = load_llm(LLM, shape.llm_dtype, device())
    return llm, PromptBuilder(tokenizer, shape.prompt, shape.text_case), tokenizer.bos_token_id


def _rows(job: Job) -> list[Row]:
    from components.shards.order import by_length

    source = _frames(job.role)
    items = [item for item in source.items if item.source == job.source and item.entry.shard == job.shard]
    if job.system == ALONE:
        from components.model.llms.causal import log_probability

        llm, builder, bos = _alone()
        targets = [builder.target(item.entry.text) for item in items]
        return [Row(ALONE, item.entry.id, item.entry.speaker, item.entry.text, "", ids, log_probability(llm, bos, ids), item.entry.seconds)
                for item, ids in zip(items, targets)]  # fmt: skip
    found: dict[str, Row] = {}
    for batch in by_length(items, [item.entry.seconds for item in items], job.batch_seconds):
        seconds = [item.entry.seconds for item in batch]
        for item, (text, tokens, score) in zip(batch, _texts(job, source.frames(batch), seconds), strict=True):
            entry = item.entry
            found[entry.id] = Row(job.system, entry.id, entry.speaker, entry.text, text, tokens, score, entry.seconds)
    return [found[item.entry.id] for item in items]


def _texts(job: Job, frames: Sequence[Any], seconds: Sequence[float]) -> list[tuple[str, list[int], float]]:
    if job.constraints is None:
        return [(text, [], float("nan")) for text in _encoder().ctc_text(frames)]
    from components.model.search import search

    return [(each.text, each.tokens, each.score) for each in search(_model(), frames, seconds, job.constraints)]
