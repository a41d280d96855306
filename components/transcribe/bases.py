"""The base checkpoints of an exported model: where they come from, and where they are found again.

In: the source of a base, as the catalogue had it, and the digest of its files. Out: a folder with
just these files: in the export itself, else a checkpoint of that name below LIBRETTO_MODELS, else
what the hub has at the pinned commit, laid out in the work cache. Cost: as the stages ``encoder``
and ``llm``; a base that was found once costs nothing.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from components import llm
from components.config.errors import InputError
from components.config.model_sources import EncoderSource, LlmSource
from components.config.schema import STRICT
from components.encoder.build import build_folder
from components.model.folders.folder import checkpoint_unit
from components.runtime.artifact import write_record
from components.runtime.hashing import data_digest
from components.runtime.settings import models_root, setting
from components.runtime.unit_cache import cached_unit, link_files, unit_digests

TRAINED_HERE = ("ctc", "copying")  # kinds of sources that exist nowhere else


@dataclass(frozen=True)
class Base:
    """A base checkpoint by its name in the catalogue, and the digest of its files."""

    __pydantic_config__ = STRICT
    name: str
    digest: str


@dataclass(frozen=True)
class EncoderBase(Base):
    source: EncoderSource


@dataclass(frozen=True)
class LlmBase(Base):
    source: LlmSource


def is_trained_here(source: EncoderSource | LlmSource) -> bool:
    """Whether a source, or one of its parts, is trained by a stage of the pipeline and can be had
    nowhere else.
    """
    return any(
        each.kind in TRAINED_HERE for each in (source, *getattr(source, "parts", {}).values())
    )


def base_folder(
    stage: str, base: EncoderBase | LlmBase, inside: Path, held: dict[str, str]
) -> Path:
    """The folder of a base; ``inside`` is its place in the export, ``held`` the digests of the
    files that lie there, by name.

    Raises InputError where it is nowhere, or has other files.
    """
    if held:
        if data_digest(held) != base.digest:
            raise InputError(
                f"{inside} is another {stage} than the bridge was trained on.",
                subject=base.name,
                hint="Copy the exported folder anew.",
            )
        return inside
    if is_trained_here(base.source):
        raise InputError(
            f"The {stage} '{base.name}' was trained with the model, and {inside} is missing.",
            subject=base.name,
            hint="Export the model anew: what was trained with it comes along.",
        )
    return cached_unit(
        "base",
        {"stage": stage, "digest": base.digest},
        lambda folder: _fill(stage, base, folder),
        code=__name__,
    )


def _fill(stage: str, base: EncoderBase | LlmBase, folder: Path) -> None:
    others = []
    for source in _places(base):
        try:
            outputs = _laid_out(stage, base.name, source, folder)
        except InputError:
            if source is base.source:
                raise
            continue  # a folder of that name may hold anything
        if data_digest(outputs) == base.digest:
            write_record(folder, stage, parameters=None, inputs={}, outputs=outputs)
            return
        others.append(source.folder or source.repo)
        for name in outputs:
            (folder / name).unlink()
    raise InputError(
        f"{stage} '{base.name}': {', '.join(others)} holds other files than the bridge was "
        "trained on.",
        subject=base.name,
        hint="Put the same checkpoint below LIBRETTO_MODELS, or export the model --with-bases.",
    )


def _places(base: EncoderBase | LlmBase) -> Iterator[Any]:
    """Where a base may be: local folders by the names that it goes by, then its own source."""
    source = base.source
    if source.kind == "hub" and setting("LIBRETTO_MODELS"):
        for name in (base.name, source.repo.rpartition("/")[2], source.repo):
            if (models_root() / name).is_dir():
                yield replace(source, kind="folder", folder=name)
    yield source


def _laid_out(stage: str, name: str, source: Any, folder: Path) -> dict[str, str]:
    """Links the files of a source into a folder; their digests by name."""
    if stage == "encoder":
        return build_folder(name, source, folder)[0]
    unit = checkpoint_unit("llm", name, source, llm.RESULT_VERSION)
    link_files(unit, folder)
    return unit_digests(unit)
