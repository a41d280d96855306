"""The stage: the encoder that ``params.yaml`` names → ``models/encoder``."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from components.config import catalogue
from components.config.errors import InputError
from components.config.model_sources import CtcTraining, EncoderSource
from components.config.schema import non_default_fields
from components.encoder import RESULT_VERSION, written
from components.model.folders.description import read_config
from components.model.folders.folder import checkpoint_unit
from components.optim.ranks import Ranks, train_together
from components.runtime.artifact import empty_folder, recorded_digests, write_record
from components.runtime.settings import workers
from components.runtime.stage import Stage
from components.runtime.unit_cache import cached_unit, link_files, unit_digests
from components.shards.reader import entries

OUT = Path("models/encoder")
SHARDS, NONSPEECH = Path("data/shards/train"), Path("data/shards/nonspeech-train")


def work(stage: Stage) -> None:
    name = stage.params.encoder
    source = catalogue.encoder(name).source
    outputs, inputs = build_folder(name, source, OUT)
    write_record(
        OUT,
        "encoder",
        parameters=non_default_fields(source),
        inputs=inputs,
        outputs=outputs,
        libraries=("torch", "transformers"),
    )
    print(f"encoder: '{name}' in {OUT}")


def build_folder(
    name: str, source: EncoderSource, folder: Path
) -> tuple[dict[str, str], dict[str, Any]]:
    """Links the encoder of a source into ``folder``, emptied once all of it is there: the digest of
    each file, and the inputs that shaped it.
    """
    unit, inputs = _unit(name, source)
    parts = {}
    for part, each in source.parts.items():
        parts[part], inputs[part] = _unit(f"{name}.{part}", each)
    link_files(unit, empty_folder(folder))
    outputs = unit_digests(unit)
    for part, unit in parts.items():
        (folder / part).mkdir()
        link_files(unit, folder / part)
        outputs |= {f"{part}/{file}": digest for file, digest in unit_digests(unit).items()}
    return outputs, inputs


def _unit(name: str, source: EncoderSource) -> tuple[Path, dict[str, Any]]:
    """The finished unit of a source, and the inputs that shaped it."""
    if source.kind == "ctc":
        return _trained(name, source)
    if source.kind == "fbank":
        written.check_filterbank(f"encoder '{name}'", source.config)
        return _written(
            {"fbank": source.config},
            lambda folder: written.write_filterbank(folder, source.config),
            code="components.encoder.written",
        ), {}
    if source.kind == "joined":
        return _written(
            {"joined": list(source.parts)},
            lambda folder: written.write_joined(folder, list(source.parts)),
            code="components.encoder.written",
        ), {}
    return _encoder_of(
        f"encoder '{name}'", checkpoint_unit("encoder", name, source, RESULT_VERSION)
    ), {}


def _encoder_of(where: str, checkpoint: Path) -> Path:
    """The unit as it is, or the encoder inside it where it is a Qwen-Audio."""
    if read_config(checkpoint).get("model_type") != "qwen":
        return checkpoint
    from components.encoder.qwen_audio import write_encoder

    return _written(
        {"qwen-audio": unit_digests(checkpoint)},
        lambda folder: write_encoder(where, checkpoint, folder),
        code="components.encoder.qwen_audio",
    )


def _written(what: dict[str, Any], write: Callable[[Path], None], *, code: str) -> Path:
    return cached_unit("encoder", {"version": RESULT_VERSION, **what}, write, code=code)


def _trained(name: str, source: EncoderSource) -> tuple[Path, dict[str, Any]]:
    """The unit of an encoder trained here; only the tars count as inputs, since they alone shape
    it.
    """
    training = source.training
    assert training is not None  # checked by the catalogue
    inputs = {"train": recorded_digests(SHARDS), "nonspeech-train": recorded_digests(NONSPEECH)}

    def make(folder: Path) -> None:
        if not entries(SHARDS):
            raise InputError(
                f"encoder '{name}': the corpus has no utterance in its role train to train it on.",
                subject=name,
                hint="Give the role a source, or name an encoder that is trained already.",
            )
        train_together(
            _train,
            (name, folder, source.config, training),
            min(workers(), training.micro_batches),
            training.threads,
        )

    return cached_unit(
        "encoder",
        {"version": RESULT_VERSION, "source": non_default_fields(source), "inputs": inputs},
        make,
        code="components.encoder.ctc",
    ), inputs


def _train(
    ranks: Ranks, name: str, folder: Path, config: dict[str, Any], training: CtcTraining
) -> None:
    from components.encoder import ctc

    ctc.check_architecture(f"encoder '{name}'", config)
    ctc.train(
        ranks,
        ctc.EncoderTraining(
            str(SHARDS), str(NONSPEECH), str(folder), str(folder / "resume"), config, training
        ),
    )
