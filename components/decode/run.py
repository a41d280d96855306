"""The stage: dev, test and non-speech test sources through every constraint set →
``data/decode/<role>/<source>.parquet``.

The unit is one shard under one system; batches are formed inside it, by length. An utterance is
decoded in one piece, however long it is; only components.transcribe cuts at pauses. Beside the
constraint sets there is the system of the CTC head (the encoder's own, or the one of the stage
``ctc``) and, if the encoder is a complete Whisper, that of its own decoder. Cost at embedded size:
900 utterances and clips under two beam-4 sets and CTC in about 25 s on two cores.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from components.config import catalogue
from components.config.decoding import ConstraintSet, Decode
from components.decode import RESULT_VERSION
from components.decode.decoder import HEAD, WORKSPACE
from components.decode.hypotheses import read_hypotheses, write_hypotheses
from components.decode.shard import DATA, UNIT, DecodeJob, decode_shard, speed_by_system
from components.features.key import frame_files
from components.model.folders.description import (
    AcousticLimits,
    evidence_files,
    has_acoustic_evidence,
    has_head,
    has_own_decoder,
    read_limits,
)
from components.model.folders.linked_checkpoint import open_checkpoint
from components.runtime.artifact import (
    RECORD,
    checked_digests,
    empty_folder,
    read_record,
    recorded_digests,
    write_record,
)
from components.runtime.hashing import data_digest
from components.runtime.pool import fan_out
from components.runtime.progress import progress
from components.runtime.stage import Stage
from components.text.hypothesis import CTC, LLM_ONLY, WHISPER

OUT = Path("data/decode")
ROLES = ("dev", "test", "nonspeech-test")
log = logging.getLogger(__name__)


def work(stage: Stage) -> None:
    """Decodes all sources; raises InputError if a part of the model is not the one that the bridge
    was trained on.
    """
    out, settings, layer = empty_folder(OUT), stage.params.decode, _layer()
    encoder = open_checkpoint(WORKSPACE.encoder)
    has_evidence = has_acoustic_evidence(encoder, layer, WORKSPACE.bridge, HEAD)
    has_ctc = has_head(encoder, layer, HEAD)
    sets = enforceable_sets(settings.sets, has_evidence, read_limits(HEAD), has_ctc)
    settings = replace(settings, sets=sets)
    jobs = _jobs(settings, encoder, layer)
    units = {}
    with progress(stage.label(), "hypotheses", len(jobs), "shards") as bar:
        for job, unit in fan_out(decode_shard, jobs, uses_gpu=True):
            units[job] = unit
            bar.advance(1, f"{job.source}: {job.system}")
    for role, source in sorted({(job.role, job.source) for job in jobs}):
        hypotheses = [
            hypothesis
            for job in jobs
            if (job.role, job.source) == (role, source)
            for hypothesis in read_hypotheses(units[job] / UNIT)
        ]
        (out / role).mkdir(exist_ok=True)
        write_hypotheses(out / role / f"{source}.parquet", hypotheses)
        log.info(
            "%s: %s/%s: %d hypotheses, %d utterances",
            stage.label(),
            role,
            source,
            len(hypotheses),
            len({hypothesis.utterance_id for hypothesis in hypotheses}),
        )
    stage.facts["seconds_of_audio_a_second"] = speed_by_system(units)
    # A record without perplexity is the same as before that setting existed.
    parameters = {
        name: value for name, value in asdict(settings).items() if name != "perplexity" or value
    }
    write_record(
        out,
        "decode",
        parameters=parameters,
        inputs={
            "model": _model_digests(),
            "shards": {role: recorded_digests(DATA / "shards" / role) for role in ROLES},
        },
        libraries=("torch", "transformers", "peft"),
    )


def enforceable_sets(
    sets: Mapping[str, ConstraintSet],
    has_evidence: bool,
    limits: AcousticLimits | None = None,
    has_ctc: bool = True,
) -> dict[str, ConstraintSet]:
    """The constraint sets with figures, as they can be enforced: ``limits`` in place of limits that
    are to be calibrated. Without acoustic evidence the limits that need it are switched off, as are
    those to be calibrated without ``limits``, and ``ctc_weight`` without a CTC head; a log message
    says so.
    """
    enforceable = {}
    for name, constraints in sets.items():
        if limits is not None:
            constraints = constraints.calibrate(limits.max_unsupported_units, limits.silence_gate)
        if (constraints.ctc_weight or constraints.ctc_texts) and not has_ctc:
            log.warning(
                "decode: %s: ctc_weight and ctc_texts are off: no CTC head reads these frames", name
            )
            constraints = constraints.without_ctc()
        if not has_evidence and constraints.needs_acoustic_evidence:
            log.warning(
                "decode: %s: max_unsupported_units and silence_gate are off: there is no CTC head "
                "for these frames, and the bridge has no trained matching head",
                name,
            )
            constraints = constraints.without_acoustic_limits()
        elif constraints.needs_calibration:
            log.warning(
                "decode: %s: limits that are 'calibrated' are off: they need a CTC head", name
            )
            constraints = constraints.calibrate(0, 0)
        enforceable[name] = constraints
    return enforceable


def _layer() -> int | str:
    """The encoder layer of the frames."""
    layer: int | str = read_record(DATA / "features" / "test")["key"]["layer"]
    return layer


def _model_digests() -> dict[str, Any]:
    """Digests of the parts of the model; of the stage ``ctc`` what the search depends on beside the
    constraint sets.
    """
    digests = {
        "bridge": checked_digests(WORKSPACE.bridge),
        "encoder": recorded_digests(WORKSPACE.encoder),
        "llm": recorded_digests(WORKSPACE.llm),
    }
    if (HEAD / RECORD).is_file():
        checked_digests(HEAD)  # the search reads its files
    if files := evidence_files(WORKSPACE.bridge, HEAD):
        digests["ctc"] = files
    return digests


def _jobs(settings: Decode, encoder: Path, layer: int | str) -> list[DecodeJob]:
    """All jobs of the stage, by role, system, source and shard."""
    systems: dict[str, ConstraintSet | None] = dict(settings.sets)
    if has_head(encoder, layer, HEAD):
        systems[CTC] = None
    if has_own_decoder(encoder):
        systems[WHISPER] = None
    model = data_digest(_model_digests())
    features = {role: read_record(DATA / "features" / role) for role in ROLES}
    shards = {role: recorded_digests(DATA / "shards" / role) for role in ROLES}
    inputs = data_digest({"model": model, "features": features, "shards": shards})
    jobs = []
    for role in ROLES:
        role_systems = dict(systems)
        if settings.perplexity and role in catalogue.SPEECH_ROLES:
            role_systems[LLM_ONLY] = None
        key = {
            "version": RESULT_VERSION,
            "model": model,
            "frames": data_digest(features[role]["key"]),
            "batch_seconds": settings.batch_seconds,
            "exact": settings.exact,
        }
        files = frame_files(features[role])
        tars = sorted((name, digest) for name, digest in files.items() if name.endswith(".tar"))
        for system, constraints in role_systems.items():
            key |= {"system": system, "constraints": constraints and asdict(constraints)}
            for name, digest in tars:
                source, _, shard = name.partition("/")
                shard_key = {**key, "shard": digest}
                jobs.append(
                    DecodeJob(
                        role, source, shard, system, constraints, layer, settings, inputs, shard_key
                    )
                )
    return jobs
