"""The base checkpoints of an exported model: where they come from, and where they are found again.

In: the source of a base, as in the catalogue, and the digest of its files. Out: a folder with just
these files, or with the same weights in another rounding: in the export itself, else a checkpoint
of that name below LIBRETTO_MODELS, else what the hub has at the pinned commit, linked into the work
cache. Cost: as the stages ``encoder`` and ``llm``; a base that was found once costs nothing.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from components.config.errors import InputError, LibrettoError
from components.config.model_sources import (
    EncoderSource,
    ForeignSource,
    HubSource,
    LlmSource,
    LocalSource,
    PackageSource,
    parts_of,
    source_name,
)
from components.config.schema import STRICT
from components.encoder.build import build_folder
from components.model.folders.folder import cache_checkpoint
from components.runtime.artifact import write_record
from components.runtime.hashing import data_digest
from components.runtime.settings import models_root, setting
from components.runtime.unit_cache import cached_unit, link_files, unit_digests

TRAINED_KINDS = ("ctc", "copying")  # kinds of sources that a stage trains: no hub has them


@dataclass(frozen=True)
class BaseCheckpoint:
    """A base checkpoint by its name in the catalogue, and the digest of its files."""

    __pydantic_config__ = STRICT
    name: str
    digest: str


@dataclass(frozen=True)
class EncoderBase(BaseCheckpoint):
    """The encoder that a bridge was trained on."""

    source: EncoderSource


@dataclass(frozen=True)
class LlmBase(BaseCheckpoint):
    """The LLM that a bridge was trained on."""

    source: LlmSource


def is_trained_by_stage(source: EncoderSource | LlmSource) -> bool:
    """Whether a source, or one of its parts, is trained by a stage of the pipeline, so that no hub
    has it.
    """
    return any(part.kind in TRAINED_KINDS for part in parts_of(source))


def base_folder(
    stage: str, base: EncoderBase | LlmBase, exported: Path, digests: Mapping[str, str]
) -> Path:
    """The folder of a base; ``exported`` is its place in the export, ``digests`` those of the files
    in it, by name, empty if the export does not contain the base.

    Raises InputError if the base cannot be found, or has other files.
    """
    if digests:
        if data_digest(digests) != base.digest:
            raise InputError(
                f"{exported} is another {stage} than the bridge was trained on.",
                subject=base.name,
                hint="Copy the exported folder again.",
            )
        return exported
    if is_trained_by_stage(base.source):
        raise InputError(
            f"The {stage} '{base.name}' was trained with the model, and {exported} is missing.",
            subject=base.name,
            hint="Export the model again: the export then contains it.",
        )
    # With the local folders: one that comes later may have the base without another rounding.
    local = [source.folder for source in _sources(base) if isinstance(source, LocalSource)]
    return cached_unit(
        "base",
        {"stage": stage, "digest": base.digest, "local": local},
        lambda folder: _fill(stage, base, folder, exported.parent / "bridge"),
        code="components.runtime.artifact",  # the key fixes the weights, so only their record
    )


def _fill(stage: str, base: EncoderBase | LlmBase, folder: Path, bridge: Path) -> None:
    """Links the files of a base into a folder, or others with the same weights in another rounding;
    raises InputError if all sources have other weights.
    """
    from components.model.base_record import measure_base_deviation
    from components.model.folders.weight_samples import MAX_DEVIATION

    refused: list[str] = []
    rounded: list[Any] = []  # sources
    for source in _sources(base):
        try:
            outputs = _link_source(stage, base.name, source, folder)
        except LibrettoError:
            if source is base.source and not rounded:
                raise
            continue  # a local folder with that name may contain anything
        if data_digest(outputs) == base.digest:
            write_record(folder, stage, parameters=None, inputs={}, outputs=outputs)
            return
        if measure_base_deviation(bridge, stage, folder) <= MAX_DEVIATION:
            rounded.append(source)
        refused.append(source_name(source) if isinstance(source, ForeignSource) else base.name)
        for name in outputs:
            (folder / name).unlink()
    if rounded:
        outputs = _link_source(stage, base.name, rounded[0], folder)
        write_record(folder, stage, parameters=None, inputs={}, outputs=outputs)
        return
    raise InputError(
        f"{stage} '{base.name}': the files of {', '.join(refused)} are not those that the bridge "
        "was trained on.",
        subject=base.name,
        hint="Put the same checkpoint below LIBRETTO_MODELS, or export the model --with-bases.",
    )


def _sources(base: EncoderBase | LlmBase) -> Iterator[Any]:
    """Where a base may be: local folders with one of its names, then its own source."""
    source = base.source
    if isinstance(source, HubSource | PackageSource) and setting("LIBRETTO_MODELS"):
        origin = source_name(source)
        for name in (base.name, origin.rpartition("/")[2], origin):
            if (models_root() / name).is_dir():
                yield LocalSource("folder", name, source.shape)
    yield source


def _link_source(stage: str, name: str, source: Any, folder: Path) -> dict[str, str]:
    """Links the files of a source into a folder; returns their digests by name."""
    if stage == "encoder":
        return build_folder(name, source, folder, is_complete=True)[0]
    unit = cache_checkpoint("llm", name, source)
    link_files(unit, folder)
    return unit_digests(unit)
