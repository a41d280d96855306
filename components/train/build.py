"""The stage: features (or shards) and LLM → ``models/bridge`` and the training curve ``metrics/curve.csv``."""

from __future__ import annotations

import os
import shutil
from dataclasses import asdict
from pathlib import Path
from typing import Any

from components.config import catalogue
from components.config.artifact import contents, fresh, read_record, write_record
from components.config.settings import device, workers
from components.config.stage import Stage
from components.config.work import digests, made, place
from components.train import RESULT_VERSION

DATA, ENCODER, LLM = Path("data"), Path("models/encoder"), Path("models/llm")
OUT, CURVE = Path("models/bridge"), Path("metrics/curve.csv")
ROLES = ("train", "dev", "nonspeech-train")


def work(stage: Stage) -> None:
    from components.model.encoder import SpeechEncoder
    from components.model.joined import Shape, folder_digest

    params = stage.params
    llm, projector = catalogue.llm(params.llm), catalogue.projector(params.projector)
    width = SpeechEncoder(ENCODER).width
    shape = Shape(folder_digest(ENCODER), width, folder_digest(LLM), llm.numerics.dtype, projector, llm.prompt, params.train.text_case)
    inputs = _inputs()
    key = {"version": RESULT_VERSION, "train": asdict(params.train), "shape": asdict(shape), "lora": llm.lora.targets, "inputs": inputs}
    unit = made("train", key, lambda folder: _make(folder, stage, shape, llm.lora.targets))
    place(unit, fresh(OUT.with_name(".bridge-unit")))
    _lay_out(OUT.with_name(".bridge-unit"))
    outputs = {name.removeprefix("bridge/"): digest for name, digest in digests(unit).items() if name.startswith("bridge/")}
    parameters = {"train": asdict(params.train), "lora": llm.lora.targets, "shape": asdict(shape)}
    write_record(OUT, "train", parameters=parameters, inputs=inputs, outputs=outputs, libraries=("torch", "transformers", "peft"))


def _inputs() -> dict[str, Any]:
    """Digests of what the weights hang on: frames where they are cached, else shards; and both base checkpoints."""
    found: dict[str, Any] = {"encoder": contents(ENCODER), "llm": contents(LLM)}
    for role in ROLES:
        record = read_record(DATA / "features" / role)
        found[role] = {"key": record["key"], "files": record["outputs"] or record["inputs"]["shards"]}
    return found


def _make(folder: Path, stage: Stage, shape: Any, targets: list[str]) -> None:
    from components.model.ranks import train_together
    from components.train.loop import Job, train

    settings = stage.params.train
    # Data parallelism over GPUs comes with its own engine; here the ranks are processes of one machine's processor.
    processes = min(workers(), settings.micro_batches) if device() == "cpu" else 1
    job = Job(DATA, ENCODER, LLM, folder, folder / "resume", device(), settings, shape, targets)
    train_together(train, (job,), processes, settings.threads)


def _lay_out(unit: Path) -> None:
    """Moves the linked unit's two outputs to where DVC expects them."""
    shutil.rmtree(OUT, ignore_errors=True)
    (unit / "bridge").rename(OUT)
    CURVE.parent.mkdir(exist_ok=True)
    os.replace(unit / "curve.csv", CURVE)
    shutil.rmtree(unit)
