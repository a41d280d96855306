"""``inputs.json``: the record of what an output folder was made from, and the digests of its files.

It has nothing that differs between two equal runs, since DVC hashes it with the rest. It is written
last: a folder without it is incomplete.
"""

from __future__ import annotations

import json
import shutil
from importlib.metadata import version
from pathlib import Path
from typing import Any, cast

from components.config.errors import REPAIR, InputError
from components.runtime.hashing import data_digest, folder_digests
from components.runtime.integrity import find_damage
from components.runtime.json_files import read_json

RECORD = "inputs.json"
DIGEST = "sha256"  # key of a record: of its other keys; records of earlier versions lack it
KEYS = {"stage": str, "parameters": Any, "inputs": dict[str, Any], "outputs": dict[str, str]}


def empty_folder(folder: Path) -> Path:
    """Creates ``folder``, without what was in it, and returns it."""
    if folder.exists():
        shutil.rmtree(folder)
    folder.mkdir(parents=True)
    return folder


def write_record(
    folder: Path,
    stage: str,
    *,
    parameters: Any,
    inputs: dict[str, Any],
    libraries: tuple[str, ...] = (),
    outputs: dict[str, str] | None = None,
    **facts: Any,
) -> None:
    """Writes ``inputs.json``. ``outputs`` (digest by relative path) saves hashing the files again;
    ``facts`` are further keys of the record.
    """
    record = {
        "stage": stage,
        "parameters": parameters,
        "inputs": inputs,
        "libraries": {name: version(name) for name in libraries},
        "outputs": _digests_of(folder) if outputs is None else outputs,
        **facts,
    }
    record[DIGEST] = data_digest(json.loads(json.dumps(record)))
    (folder / RECORD).write_text(
        json.dumps(record, indent=1, sort_keys=True, ensure_ascii=False) + "\n"
    )


def _digests_of(folder: Path) -> dict[str, str]:
    """SHA-256 of the files of a folder without its record, which may be an earlier one."""
    return {name: digest for name, digest in folder_digests(folder).items() if name != RECORD}


def read_record(folder: Path) -> dict[str, Any]:
    """The record of an output folder; raises InputError where the folder is missing or incomplete,
    and where the record is damaged or names a file outside the folder.
    """
    path = folder / RECORD
    if not path.is_file():
        raise InputError(
            f"{folder} is missing or incomplete.",
            subject=str(folder),
            hint="Run 'dvc pull' if a remote has it, else 'dvc repro'.",
        )
    record: dict[str, Any] = read_json(path, keys=KEYS)
    digest = record.pop(DIGEST, None)
    if digest is not None and digest != data_digest(record):
        raise InputError(
            f"{path} is damaged: it differs from its own digest.",
            subject=str(path),
            hint=REPAIR,
        )
    for name in record["outputs"]:
        if Path(name).is_absolute() or ".." in Path(name).parts:
            raise InputError(
                f"{path} names a file outside its folder: '{name}'.",
                subject=str(path),
                hint=REPAIR,
            )
    return record


def recorded_digests(folder: Path) -> dict[str, str]:
    """Digest of each file of an output folder, by relative path, as its record has it."""
    return cast("dict[str, str]", read_record(folder)["outputs"])


def checked_digests(folder: Path) -> dict[str, str]:
    """``recorded_digests`` of a model's folder, after its files were compared with them
    (``components.runtime.integrity``); raises InputError, which names the file, where one differs.
    """
    digests = recorded_digests(folder)
    check_files(folder, digests)
    return digests


def check_files(folder: Path, digests: dict[str, str]) -> None:
    """Raises InputError, which names the file, where one of ``folder`` is missing or has another
    SHA-256 than stated.
    """
    damaged = find_damage(folder, digests)
    if damaged:
        raise InputError(
            f"{folder / damaged} is missing, or has another content than {folder / RECORD} says.",
            subject=str(folder / damaged),
            hint=REPAIR,
        )
