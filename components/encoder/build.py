"""The stage: the encoder that ``params.yaml`` names → ``models/encoder``."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Any

from components.config import catalogue
from components.config.artifact import contents, fresh, write_record
from components.config.settings import workers
from components.config.stage import Stage
from components.config.work import digests, made, place
from components.encoder import RESULT_VERSION
from components.model.folder import checkpoint_unit
from components.model.ranks import Ranks, train_together

OUT = Path("models/encoder")
SHARDS, NONSPEECH = Path("data/shards/train"), Path("data/shards/nonspeech-train")


def work(stage: Stage) -> None:
    name = stage.params.encoder
    source = catalogue.encoder(name).source
    unit, inputs = _trained(source) if source.kind == "ctc" else (checkpoint_unit("encoder", name, source, RESULT_VERSION), {})
    place(unit, fresh(OUT))
    write_record(OUT, "encoder", parameters=asdict(source), inputs=inputs, outputs=digests(unit), libraries=("torch", "transformers"))
    print(f"encoder: '{name}' in {OUT}")


def _trained(source: catalogue.EncoderSource) -> tuple[Path, dict[str, Any]]:
    """The unit of an encoder trained here; only the tars count as inputs, since they alone shape it."""
    training = source.training
    assert training is not None  # checked by the catalogue
    inputs = {"train": contents(SHARDS), "nonspeech-train": contents(NONSPEECH)}

    def make(folder: Path) -> None:
        train_together(_train, (folder, source.config, training), min(workers(), training.micro_batches), training.threads)

    return made("encoder", {"version": RESULT_VERSION, "source": asdict(source), "inputs": inputs}, make), inputs


def _train(ranks: Ranks, folder: Path, config: dict[str, Any], training: catalogue.CtcTraining) -> None:
    from components.encoder import ctc

    ctc.train(ranks, ctc.Job(str(SHARDS), str(NONSPEECH), str(folder), str(folder / "resume"), config, training))
