"""Local checkpoints in HF form: which of their files are taken, and how they get into the work cache."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

from components.config.errors import InputError
from components.config.hashing import file_digest
from components.config.settings import models_root
from components.config.work import made

TAKEN = (".safetensors", ".json", ".txt", ".model")  # weights and plain descriptions; never a pickle, never code


def local_unit(stage: str, name: str, folder: str, version: int) -> Path:
    """The work-cache unit of the checkpoint ``folder`` below LIBRETTO_MODELS, its files linked as they are."""
    path = models_root() / folder
    if not folder or not path.is_dir():
        raise InputError(f"{stage} '{name}': {path} is not a folder.", unit=name, way_out="Put the checkpoint there.")
    files = checkpoint_files(path)
    return made(stage, {"version": version, "files": files}, lambda unit: link_files(path, files, unit))


def checkpoint_files(folder: Path) -> dict[str, str]:
    """SHA-256 of each file taken from a checkpoint's folder; raises InputError where weights or configuration lack."""
    files = [path for path in sorted(folder.iterdir()) if path.suffix in TAKEN and path.is_file()]
    names = {path.name for path in files}
    if "config.json" not in names or not any(name.endswith(".safetensors") for name in names):
        raise InputError(f"{folder} is no checkpoint: config.json and weights as safetensors are needed.", unit=str(folder),
                         way_out="Weights in another format can be saved anew with save_pretrained.")  # fmt: skip
    return {path.name: file_digest(path) for path in files}


def link_files(folder: Path, files: dict[str, str], unit: Path) -> None:
    """Links weights into ``unit`` (copies them across file systems) and copies the small files, which people edit."""
    for name in files:
        try:
            if not name.endswith(".safetensors"):
                raise OSError
            os.link(folder / name, unit / name)
        except OSError:
            shutil.copyfile(folder / name, unit / name)
