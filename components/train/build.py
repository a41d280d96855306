"""The stage: features (or shards) and LLM → ``models/bridge``, the training curve
``metrics/curve.csv`` and what it says, ``metrics/train.json`` (kept in git).
"""

from __future__ import annotations

import os
import shutil
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from components.config import catalogue
from components.config.entries import EncoderEntry, EncoderNumerics, LlmEntry
from components.config.errors import InputError
from components.config.heads import check_ctc_weight
from components.config.projector import CtcCompressor, Projector, ReleasedWeights
from components.config.schema import non_default_fields, parse_as
from components.config.training import Train, needs_live_features
from components.model.folders.description import has_ctc
from components.optim.ranks import Ranks
from components.runtime.artifact import empty_folder, read_record, recorded_digests, write_record
from components.runtime.hashing import file_digest
from components.runtime.settings import device
from components.runtime.stage import Stage
from components.runtime.unit_cache import cached_unit, link_files, unit_digests
from components.train import RESULT_VERSION, emergence, engine
from components.train.stage_cache import stage_keys
from components.train.throughput import read_throughput

if TYPE_CHECKING:  # a stage starts without torch
    from components.model.model_folder import EncoderRunConfig

DATA, ENCODER, LLM = Path("data"), Path("models/encoder"), Path("models/llm")
OUT, CURVE = Path("models/bridge"), Path("metrics/curve.csv")
METRICS = Path("metrics/train.json")
ROLES = ("train", "dev", "nonspeech-train")


@dataclass(frozen=True)
class Task:
    """What the ranks train; plain data. Entries of the catalogue are read by their names."""

    folder: Path  # absolute: of the unit that is made
    settings: Train
    encoder: str
    projector: str
    llm: str
    ends: list[dict[str, Any]]  # keys of the stages' ends in the work cache

    @property
    def scratch(self) -> Path:
        """Checkpoints, and what the ranks tell each other."""
        return self.folder / "resume"


def work(stage: Stage) -> None:
    settings, llm, projector = (
        stage.params.train,
        catalogue.llm(stage.params.llm),
        catalogue.projector(stage.params.projector),
    )
    parameters = {
        "train": asdict(settings),
        "projector": non_default_fields(projector),
        "prompt": non_default_fields(llm.prompt),
        "lora": llm.lora.targets,
        "llm_dtype": llm.numerics.dtype,
    }
    targets = _lora_targets(catalogue.encoder(stage.params.encoder), llm)
    tuned = settings.tuned_encoder_part if projector.weights is None else None
    if tuned:
        _check_encoder(stage.params.encoder, settings, targets["encoder-lora"])
        parameters["encoder_lora"] = targets["encoder-lora"]
    inputs = _inputs()
    if isinstance(projector, CtcCompressor):
        _check_units()

    def make(folder: Path) -> None:
        ends = stage_keys(RESULT_VERSION, parameters, inputs)
        task = Task(
            folder, settings, stage.params.encoder, stage.params.projector, stage.params.llm, ends
        )
        engine.run(train, task)
        stage.facts["throughput"] = read_throughput(task.scratch)

    if projector.weights is None:
        unit = cached_unit(
            "train",
            {"version": RESULT_VERSION, "parameters": parameters, "inputs": inputs},
            make,
            code="components.train.curriculum",
        )
    else:
        inputs, unit = _released(
            stage.params.projector, settings, projector, llm, projector.weights
        )
    link_files(unit, empty_folder(OUT.with_name(".bridge-unit")))
    _lay_out(OUT.with_name(".bridge-unit"))
    emergence.write(
        CURVE, METRICS
    )  # of the curve and not of the unit: those made earlier have it too
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


def _released(
    name: str, settings: Train, projector: Projector, llm: LlmEntry, weights: ReleasedWeights
) -> tuple[dict[str, Any], Path]:
    """What a released projector hangs on, and its unit; nothing is trained."""
    from components.train import released

    file = released.find_weights(name, weights)
    inputs = {
        "encoder": recorded_digests(ENCODER),
        "llm": recorded_digests(LLM),
        "released": file_digest(file),
    }
    job = released.Job(file, ENCODER, LLM, projector, llm, settings.text_case)
    key = {"version": RESULT_VERSION, "shape": non_default_fields(job.shape()), "inputs": inputs}
    return inputs, cached_unit(
        "train",
        key,
        lambda folder: released.convert_released(job, folder),
        code="components.train.released",
    )


def _inputs() -> dict[str, Any]:
    """Digests of what the weights hang on: frames where they are cached, else shards; and both base
    checkpoints.
    """
    found: dict[str, Any] = {"encoder": recorded_digests(ENCODER), "llm": recorded_digests(LLM)}
    for role in ROLES:
        record = read_record(DATA / "features" / role)
        found[role] = {
            "key": record["key"],
            "files": record["outputs"] or record["inputs"]["shards"],
        }
    return found


def _lora_targets(encoder: EncoderEntry, llm: LlmEntry) -> dict[str, list[str]]:
    """What LoRA adapts, by the part that a curriculum names."""
    return {"lora": llm.lora.targets, "encoder-lora": encoder.lora.targets if encoder.lora else []}


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
    check_ctc_weight(f"encoder '{name}'", has_ctc(ENCODER), settings.ctc_weight)


def _hearing(settings: Train) -> EncoderRunConfig | None:
    """How the encoder is run where it is tuned: as the features say; whole in fp32, since AdamW
    would lose small steps in half precision.
    """
    from components.model.model_folder import EncoderRunConfig

    key = read_record(DATA / "features" / "train")["key"]
    numerics = parse_as(EncoderNumerics, key["numerics"], "data/features/train: numerics")
    whole = any("encoder" in stage.tune for stage in settings.curriculum)
    return (
        EncoderRunConfig(key["layer"], "float32" if whole else numerics.dtype, numerics.padding)
        if settings.tuned_encoder_part
        else None
    )


def _check_units() -> None:
    """Raises InputError where the frames at hand can't be read as CTC units."""
    from components.model.encoders.ctc_head import check_ctc

    check_ctc(ENCODER, read_record(DATA / "features" / "train")["key"]["layer"])


def train(ranks: Ranks, task: Task, place: str = "") -> None:
    """Trains as one of the ranks, on the device ``place`` (default: that of the runtime
    settings).
    """
    from components.model.encoders.families import width_of
    from components.model.model_folder import ModelConfig, folder_digest
    from components.train import curriculum

    llm, settings = catalogue.llm(task.llm), task.settings
    # As the encoder: a whole LLM is tuned in fp32.
    dtype = (
        "float32"
        if any("llm" in stage.tune for stage in settings.curriculum)
        else llm.numerics.dtype
    )
    shape = ModelConfig(
        folder_digest(ENCODER),
        width_of(ENCODER),
        folder_digest(LLM),
        dtype,
        catalogue.projector(task.projector),
        llm.prompt,
        settings.text_case,
        _hearing(settings),
    )
    targets = _lora_targets(catalogue.encoder(task.encoder), llm)
    curriculum.train(
        ranks,
        curriculum.BridgeTraining(
            DATA,
            ENCODER,
            LLM,
            task.folder,
            task.scratch,
            place or device(),
            settings,
            shape,
            targets,
            task.ends,
        ),
    )


def _lay_out(unit: Path) -> None:
    """Moves the linked unit's two outputs to where DVC expects them."""
    shutil.rmtree(OUT, ignore_errors=True)
    (unit / "bridge").rename(OUT)
    CURVE.parent.mkdir(exist_ok=True)
    os.replace(unit / "curve.csv", CURVE)
    shutil.rmtree(unit)
