"""The stage: features (or shards) and LLM → ``models/bridge``, the training curve
``metrics/curve.csv`` and its summary ``metrics/train.json`` (in git).
"""

from __future__ import annotations

import os
import shutil
from dataclasses import asdict
from pathlib import Path
from typing import Any

from components.config import catalogue
from components.config.bridge_rules import check_curriculum
from components.config.entries import LlmEntry
from components.config.errors import InputError
from components.config.heads import check_ctc_weight
from components.config.projector import (
    CtcCompressor,
    CtcEmbeddings,
    DiscreteUnits,
    Projector,
    ReleasedWeights,
)
from components.config.schema import non_default_fields
from components.config.training import Train, needs_live_features
from components.features.key import digest_frames
from components.model.folders.description import has_ctc
from components.model.folders.linked_checkpoint import open_checkpoint
from components.optim.engine import run_ranks
from components.runtime.artifact import (
    checked_digests,
    empty_folder,
    read_record,
    recorded_digests,
    write_record,
)
from components.runtime.hashing import file_digest
from components.runtime.stage import Stage
from components.runtime.unit_cache import cached_unit, link_files, unit_digests
from components.train import RESULT_VERSION, emergence
from components.train.stage_cache import CODE, stage_keys
from components.train.task import CTC, DATA, ENCODER, LLM, UNITS, BridgeTask, lora_targets
from components.train.throughput import read_throughput

OUT, CURVE = Path("models/bridge"), Path("metrics/curve.csv")
METRICS = Path("metrics/train.json")
ROLES = ("train", "dev", "nonspeech-train")


def work(stage: Stage) -> None:
    """Runs the stage; raises InputError where parameters, encoder, LLM and frames do not fit
    together.
    """
    settings = stage.params.train
    encoder = catalogue.encoder_in_training(stage.params.encoder, settings)
    llm = catalogue.llm_in_training(stage.params.llm, settings)
    projector = catalogue.projector(stage.params.projector)
    parameters = {
        "train": asdict(settings),
        "projector": non_default_fields(projector),
        "prompt": non_default_fields(llm.prompt),
        "lora": llm.lora.targets,
        "llm_dtype": llm.numerics.dtype,
    }
    targets = lora_targets(encoder, llm)
    if projector.weights is None and settings.tuned_encoder_part:
        _check_encoder(stage.params.encoder, settings, targets["encoder-lora"])
        parameters["encoder_lora"] = targets["encoder-lora"]
    inputs = _input_digests()
    if settings.start:
        from components.train.warm_start import digest_start

        inputs["start"] = digest_start(settings.start)
    check_curriculum(projector, settings)
    if isinstance(projector, CtcCompressor):
        _check_ctc_frames()
    if isinstance(projector, DiscreteUnits):
        inputs["units"] = checked_digests(UNITS)
    if isinstance(projector, CtcEmbeddings):
        inputs["ctc"] = checked_digests(CTC)
    if projector.weights is None:
        unit = _trained_bridge(stage, parameters, inputs)
    else:
        inputs, unit = _released_bridge(
            stage.params.projector, settings, projector, llm, projector.weights
        )
    _link_outputs(unit)
    # From the curve and not from the unit, so that older units have it too.
    emergence.write_summary(CURVE, METRICS)
    outputs = {
        name.removeprefix("bridge/"): digest
        for name, digest in unit_digests(unit).items()
        if name.startswith("bridge/")
    }
    write_record(
        OUT,
        "train",
        parameters=parameters,
        inputs=inputs,
        outputs=outputs,
        libraries=("torch", "transformers", "peft"),
    )


def _trained_bridge(stage: Stage, parameters: dict[str, Any], inputs: dict[str, Any]) -> Path:
    """The unit of the trained bridge."""
    params = stage.params

    def run(folder: Path) -> None:
        keys = stage_keys(RESULT_VERSION, parameters, inputs)
        task = BridgeTask(folder, params.train, params.encoder, params.projector, params.llm, keys)
        run_ranks(task)
        stage.facts["throughput"] = read_throughput(task.scratch)

    return cached_unit(
        "train",
        {"version": RESULT_VERSION, "parameters": parameters, "inputs": inputs},
        run,
        code=CODE,
    )


def _released_bridge(
    name: str, settings: Train, projector: Projector, llm: LlmEntry, weights: ReleasedWeights
) -> tuple[dict[str, Any], Path]:
    """The inputs of a released projector and its unit; nothing is trained."""
    from components.train import released

    path = released.find_weights(name, weights)
    inputs = {
        "encoder": recorded_digests(ENCODER),
        "llm": recorded_digests(LLM),
        "released": file_digest(path),
    }
    encoder_folder, llm_folder = open_checkpoint(ENCODER), open_checkpoint(LLM)
    source = released.ReleasedBridge(
        path, encoder_folder, llm_folder, projector, llm, settings.text_case
    )
    config = non_default_fields(source.model_config())
    return inputs, cached_unit(
        "train",
        {"version": RESULT_VERSION, "shape": config, "inputs": inputs},
        lambda folder: released.convert_released(source, folder),
        code="components.train.released",
    )


def _input_digests() -> dict[str, Any]:
    """Digests of what the weights depend on: frames where they are cached, else shards; and both
    base checkpoints.
    """
    digests: dict[str, Any] = {"encoder": recorded_digests(ENCODER), "llm": recorded_digests(LLM)}
    return digests | {role: digest_frames(DATA / "features" / role) for role in ROLES}


def _check_encoder(name: str, settings: Train, targets: list[str]) -> None:
    """Raises InputError for an encoder that can't be tuned as the curriculum says."""
    if "empty" not in read_record(DATA / "features" / "train"):
        message, hint = needs_live_features(settings.tuned_encoder_part)
        raise InputError(f"train: {message}", subject="features.mode", hint=hint)
    if any("encoder-lora" in stage.tune for stage in settings.curriculum) and not targets:
        raise InputError(
            f"encoder '{name}' has no lora.targets, and 'encoder-lora' is to be tuned.",
            subject="lora.targets",
            hint="Name them in its entry of catalogue/encoder.yaml, or tune 'encoder'.",
        )
    check_ctc_weight(f"encoder '{name}'", has_ctc(open_checkpoint(ENCODER)), settings.ctc_weight)


def _check_ctc_frames() -> None:
    """Raises InputError where the CTC head can't read the layer of the frames."""
    from components.model.encoders.ctc_head import check_ctc

    layer = read_record(DATA / "features" / "train")["key"]["layer"]
    check_ctc(open_checkpoint(ENCODER), layer)


def _link_outputs(unit: Path) -> None:
    """Links the two outputs of the unit to where DVC expects them."""
    folder = OUT.with_name(".bridge-unit")
    link_files(unit, empty_folder(folder))
    shutil.rmtree(OUT, ignore_errors=True)
    (folder / "bridge").rename(OUT)
    CURVE.parent.mkdir(exist_ok=True)
    os.replace(folder / "curve.csv", CURVE)
    shutil.rmtree(folder)
