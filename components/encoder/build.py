"""The stage: the encoder that ``params.yaml`` names → ``models/encoder``."""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

from components.config import catalogue
from components.config.errors import InputError
from components.config.model_sources import (
    EncoderSource,
    FilterbankSource,
    JoinedSource,
    TrainedEncoderSource,
    foreign_parts,
)
from components.config.schema import non_default_fields
from components.encoder import RESULT_VERSION, folders
from components.encoder.task import NONSPEECH, SHARDS, EncoderTask
from components.model.folders.folder import cache_checkpoint
from components.model.folders.linked_checkpoint import link_checkpoint
from components.optim.engine import run_ranks
from components.runtime.artifact import empty_folder, recorded_digests, write_record
from components.runtime.stage import Stage
from components.runtime.unit_cache import cached_unit, link_files, unit_digests, unit_libraries
from components.shards.reader import list_utterances

OUT = Path("models/encoder")

logger = logging.getLogger(__name__)


def work(stage: Stage) -> None:
    """Runs the stage; raises InputError where the entry or its checkpoint can't be used."""
    name = stage.params.encoder
    source = catalogue.encoder(name).source
    outputs, inputs, libraries = build_folder(name, source, OUT)
    write_record(
        OUT,
        "encoder",
        parameters=non_default_fields(source),
        inputs=inputs,
        outputs=outputs,
        libraries=tuple(sorted(libraries & {"torch", "transformers"})),
    )
    link_checkpoint(OUT)  # links what came from elsewhere, now that the work cache has it
    logger.info("encoder: '%s' in %s", name, OUT)


def build_folder(
    name: str, source: EncoderSource, folder: Path, *, is_complete: bool = False
) -> tuple[dict[str, str], dict[str, Any], set[str]]:
    """Links the encoder of a source into ``folder``, which is emptied once all files are in the
    work cache: what was made here, and what was trained elsewhere if it ``is_complete``. Returns
    the digest of each file, linked or not, the inputs that the encoder was computed from, and the
    libraries that made it.

    Raises InputError as the source requires: for a checkpoint that is missing or incomplete, an
    architecture that does not work, a corpus without speech to train on.
    """
    unit, inputs = _cached_encoder(name, source)
    units, outputs = {"": unit}, dict[str, str]()
    parts = source.parts if isinstance(source, JoinedSource) else {}
    for part, part_source in parts.items():
        units[part], inputs[part] = _cached_encoder(f"{name}.{part}", part_source)
    empty_folder(folder)
    for part, unit in units.items():
        if is_complete or part not in foreign_parts(source):
            link_files(unit, folder / part)
        outputs |= {
            Path(part, file).as_posix(): digest for file, digest in unit_digests(unit).items()
        }
    return outputs, inputs, set().union(*map(unit_libraries, units.values()))


def _cached_encoder(name: str, source: EncoderSource) -> tuple[Path, dict[str, Any]]:
    """The unit of a source in the work cache, and the inputs that it was computed from."""
    where = f"encoder '{name}'"
    if isinstance(source, TrainedEncoderSource):
        return _trained_encoder(name, source)
    if isinstance(source, FilterbankSource):
        folders.check_filterbank(where, source.config)
        unit = _cached_folder(
            {"fbank": source.config},
            lambda folder: folders.write_filterbank(folder, source.config),
            code="components.encoder.folders",
        )
    elif isinstance(source, JoinedSource):
        unit = _cached_folder(
            {"joined": list(source.parts)},
            lambda folder: folders.write_joined(folder, list(source.parts)),
            code="components.encoder.folders",
        )
    else:
        unit = cache_checkpoint("encoder", name, source)
    return unit, {}


def _cached_folder(key: dict[str, Any], write: Callable[[Path], None], *, code: str) -> Path:
    return cached_unit("encoder", {"version": RESULT_VERSION, **key}, write, code=code)


def _trained_encoder(name: str, source: TrainedEncoderSource) -> tuple[Path, dict[str, Any]]:
    """The unit of an encoder that is trained here; its inputs are the digests of the tars, since
    nothing else of the shards matters.
    """
    inputs = {"train": recorded_digests(SHARDS), "nonspeech-train": recorded_digests(NONSPEECH)}

    def train(folder: Path) -> None:
        if not list_utterances(SHARDS):
            raise InputError(
                f"encoder '{name}': the corpus has no utterance in its role train to train it on.",
                subject=name,
                hint="Give the role a source, or name an encoder that is trained already.",
            )
        run_ranks(EncoderTask(name, folder, source.config, source.training))

    key = {"version": RESULT_VERSION, "source": non_default_fields(source), "inputs": inputs}
    return cached_unit("encoder", key, train, code="components.encoder.ctc"), inputs
