"""The stage: dev, test and non-speech test sources through every constraint set →
``data/decode/<role>/<source>.parquet``.

The unit is one shard under one system; batches are formed inside it, by length. An utterance is
decoded as it stands in its source, however long it is: only components.transcribe cuts at pauses.
Beside the constraint sets stand the encoder's own CTC and, where the encoder is a whole Whisper,
its own decoder. Cost at embedded size: 900 utterances and clips under two beam-4 sets and CTC in
about 25 s on two cores.
"""

from __future__ import annotations

from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from components.config import catalogue
from components.config.params import ConstraintSet, Decode
from components.decode import RESULT_VERSION
from components.decode.hypotheses import read_hypotheses, write_hypotheses
from components.decode.shard import DATA, ENCODER, LLM, MODEL, UNIT, Job, decode_shard, throughput
from components.model.folders.description import (
    has_acoustic_evidence,
    has_ctc_for_layer,
    has_own_decoder,
)
from components.runtime.artifact import empty_folder, read_record, recorded_digests, write_record
from components.runtime.hashing import data_digest
from components.runtime.pool import fan_out
from components.runtime.progress import progress
from components.runtime.stage import Stage
from components.text.hypothesis import CTC, LLM_ONLY, WHISPER

OUT = Path("data/decode")
ROLES = ("dev", "test", "nonspeech-test")


def work(stage: Stage) -> None:
    out, settings = empty_folder(OUT), stage.params.decode
    settings = replace(
        settings,
        sets=enforceable_sets(settings.sets, has_acoustic_evidence(ENCODER, _layer(), MODEL)),
    )
    systems: dict[str, ConstraintSet | None] = {
        **settings.sets,
        **({CTC: None} if _writes_ctc() else {}),
    }
    if has_own_decoder(ENCODER):
        systems[WHISPER] = None
    alone: dict[str, ConstraintSet | None] = {LLM_ONLY: None} if settings.perplexity else {}
    jobs = [
        job
        for role in ROLES
        for job in _jobs(
            role, systems | (alone if role in catalogue.SPEECH_ROLES else {}), settings
        )
    ]
    units = {}
    with progress(stage.label(), "hypotheses", len(jobs), "shards") as shown:
        for job, unit in fan_out(decode_shard, jobs, gpu=True):
            units[job] = unit
            shown.advance(1, f"{job.source}: {job.system}")
    for role, source in sorted({(job.role, job.source) for job in jobs}):
        rows = [
            row
            for job in jobs
            if (job.role, job.source) == (role, source)
            for row in read_hypotheses(units[job] / UNIT)
        ]
        (out / role).mkdir(exist_ok=True)
        write_hypotheses(out / role / f"{source}.parquet", rows)
        print(
            f"{stage.label()}: {role}/{source}: {len(rows)} hypotheses, "
            f"{len({row.utterance_id for row in rows})} utterances"
        )
    stage.facts["seconds_of_audio_a_second"] = throughput(units)
    inputs = {
        "model": _model_key(),
        "shards": {role: recorded_digests(DATA / "shards" / role) for role in ROLES},
    }
    # Off, it leaves the record as it was before there was such a setting.
    parameters = {
        key: value for key, value in asdict(settings).items() if key != "perplexity" or value
    }
    write_record(
        out,
        "decode",
        parameters=parameters,
        inputs=inputs,
        libraries=("torch", "transformers", "peft"),
    )


def enforceable_sets(sets: dict[str, ConstraintSet], heard: bool) -> dict[str, ConstraintSet]:
    """The constraint sets as they act here. Where nothing tells what was ``heard``, limits that ask
    for it are off, and it is said.
    """
    if heard:
        return sets
    for name in (name for name, each in sets.items() if each.needs_acoustic_evidence):
        print(
            f"decode: {name}: max_unsupported_units and silence_gate are off: the encoder gives no CTC for these frames, and the bridge has no "
            "matching head that was trained"
        )
    return {name: each.without_acoustic_limits() for name, each in sets.items()}


def _writes_ctc() -> bool:
    """Whether the encoder has a CTC head that the stored layer serves."""
    return has_ctc_for_layer(ENCODER, _layer())


def _layer() -> int | str:
    return read_record(DATA / "features" / "test")["key"]["layer"]


def _model_key() -> dict[str, Any]:
    return {
        "bridge": recorded_digests(MODEL),
        "encoder": recorded_digests(ENCODER),
        "llm": recorded_digests(LLM),
    }


def _jobs(role: str, systems: dict[str, ConstraintSet | None], settings: Decode) -> list[Job]:
    record = read_record(DATA / "features" / role)
    tars = {
        name: digest
        for name, digest in (record["outputs"] or record["inputs"]["shards"]).items()
        if name.endswith(".tar")
    }
    model, frames = data_digest(_model_key()), data_digest(record["key"])
    jobs = []
    for system, constraints in systems.items():
        for name, digest in sorted(tars.items()):
            source, _, shard = name.partition("/")
            key = {
                "version": RESULT_VERSION,
                "model": model,
                "frames": frames,
                "shard": digest,
                "batch_seconds": settings.batch_seconds,
                "exact": settings.exact,
                "system": system,
                "constraints": constraints and asdict(constraints),
            }
            jobs.append(
                Job(
                    role,
                    source,
                    shard,
                    system,
                    constraints,
                    settings.batch_seconds,
                    settings.threads,
                    settings.exact,
                    key,
                )
            )
    return jobs
