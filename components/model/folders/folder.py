"""Checkpoints in HF form that were trained elsewhere: local ones and those of a model hub → units
of the work cache.

A unit holds weights as safetensors and plain descriptions, and names no code to run. Weights are
linked into it where the file system allows and copied where not; torch's own ``pytorch_model*.bin``
are converted. Cost: the files are read once for their digests; a conversion writes the weights
anew. A finished unit costs nothing and needs no network.
"""

from __future__ import annotations

import json
import os
import re
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

from components.config.errors import InputError
from components.config.model_sources import HubSource, LocalSource
from components.runtime.hashing import file_digest
from components.runtime.settings import models_root
from components.runtime.unit_cache import cached_unit, check_disk_space

ACCEPTED_FILES = (
    ".safetensors",
    ".json",
    ".txt",
    ".model",
)  # of a local folder: weights and plain descriptions; never code
DTYPE = (
    "dtype",
    "torch_dtype",
)  # of the weights as stored: what is loaded says the entry's numerics
PICKLED = re.compile(
    r"pytorch_model(-\d{5}-of-\d{5})?\.bin"
)  # torch's own weights, whole or in parts
TENSORS_ONLY = (
    "qwen",
)  # model types of which only tensors are taken (components/encoder/qwen_audio.py)
INDEX, PICKLED_INDEX = (
    "model.safetensors.index.json",
    "pytorch_model.bin.index.json",
)  # which part holds which tensor


def checkpoint_unit(stage: str, name: str, source: HubSource | LocalSource, version: int) -> Path:
    """The unit of the catalogue entry ``name``, of kind ``hub`` or ``folder``; ``version`` is the
    stage's RESULT_VERSION.
    """
    unit = (
        local_unit(stage, name, source.folder, version)
        if isinstance(source, LocalSource)
        else _hub_unit(stage, name, source, version)
    )
    check_shape(json.loads((unit / "config.json").read_text()), source.shape, f"{stage} '{name}'")
    return unit


def check_shape(config: dict[str, Any], shape: dict[str, Any], where: str) -> None:
    """Raises InputError where a checkpoint's configuration is not what its catalogue entry says of
    width, layers, …

    What a ``config.json`` leaves out, or says by another of the family's names for it, counts as
    transformers reads it.
    """
    for key, expected in shape.items():
        given = config[key] if key in config else _as_read(config, key)
        if isinstance(expected, dict) and isinstance(given, dict):
            check_shape(given, expected, f"{where}, {key}")
        elif given != expected and key not in DTYPE:
            raise InputError(
                f"{where}: source.shape says {key} = {expected}, the checkpoint's config.json "
                f"says {given}.",
                subject=key,
                hint="Correct the entry, or take the checkpoint that it describes.",
            )


def _as_read(config: dict[str, Any], key: str) -> Any:
    from transformers.models.auto.configuration_auto import CONFIG_MAPPING, CONFIG_MAPPING_NAMES

    kind = config.get("model_type")
    return (
        getattr(CONFIG_MAPPING[kind](**config), key, None) if kind in CONFIG_MAPPING_NAMES else None
    )


def _hub_unit(stage: str, name: str, source: HubSource, version: int) -> Path:
    def make(unit: Path) -> None:
        from components.model.folders.hub import (
            HubEntry,
            fetch,
        )  # the network's libraries are loaded where something is fetched

        entry = HubEntry(stage, name, source)
        if source.shape:  # before gigabytes are fetched that it would refuse
            config = fetch(replace(entry, source=replace(source, files=["config.json"])))[
                "config.json"
            ]
            check_shape(json.loads(config.read_text()), source.shape, entry.where)
        fill(unit, fetch(entry), entry.where)

    key = {
        "version": version,
        "repo": source.repo,
        "revision": source.revision,
        "files": sorted(source.files),
    }
    return cached_unit(stage, key, make, code=__name__)


def local_unit(stage: str, name: str, folder: str, version: int) -> Path:
    """The unit of the checkpoint ``folder`` below LIBRETTO_MODELS."""
    path = models_root() / folder
    if not folder or not path.is_dir():
        raise InputError(
            f"{stage} '{name}': {path} is not a folder.",
            subject=name,
            hint="Put the checkpoint there.",
        )
    where = f"{stage} '{name}': {path}"
    files = checkpoint_files(path, where)
    return cached_unit(
        stage,
        {"version": version, "files": files},
        lambda unit: fill(unit, {file: path / file for file in files}, where),
        code=__name__,
    )


def checkpoint_files(folder: Path, where: str) -> dict[str, str]:
    """SHA-256 of each file taken from a checkpoint's folder; raises InputError, which names it
    ``where``, for one that lacks weights or configuration.
    """
    files = [
        path
        for path in sorted(folder.iterdir())
        if path.suffix in ACCEPTED_FILES and path.is_file()
    ]
    if not any(path.suffix == ".safetensors" for path in files):
        files += [path for path in sorted(folder.iterdir()) if PICKLED.fullmatch(path.name)]
    check_all_files({path.name for path in files}, where)
    return {path.name: file_digest(path) for path in files}


def check_all_files(names: set[str], where: str) -> None:
    """Raises InputError where configuration or weights lack."""
    if "config.json" not in names or not any(
        name.endswith(".safetensors") or PICKLED.fullmatch(name) for name in names
    ):
        raise InputError(
            f"{where} is no checkpoint: config.json and weights (safetensors or "
            "pytorch_model.bin) are needed.",
            subject=where,
            hint="Weights in another format can be saved anew with save_pretrained.",
        )


def fill(unit: Path, files: dict[str, Path], where: str) -> None:
    """Fills ``unit`` with a whole checkpoint out of ``files`` (path by name); ``where`` names it in
    errors.

    Raises InputError for weights that are more than tensors, for a model that exists as remote code
    only, for a part that is missing, and where the disk is full.
    """
    check_all_files(set(files), where)
    pickled = [name for name in files if PICKLED.fullmatch(name)]
    with check_disk_space(sum(files[name].stat().st_size for name in pickled), unit, where):
        for name, path in files.items():
            if name in pickled:
                from components.model.folders.conversion import (
                    convert,
                )  # torch is loaded where something is converted

                convert(path, unit / safe_name(name), f"{where}: {name}")
            elif name == PICKLED_INDEX and pickled:
                (unit / INDEX).write_text(_index_of_safetensors(path))
            elif name.endswith(".safetensors"):
                _link(path, unit / name)
            elif name.endswith("config.json"):
                (unit / name).write_text(without_code(path, f"{where}: {name}"), encoding="utf-8")
            else:
                shutil.copyfile(path, unit / name)
    if (unit / INDEX).exists():
        parts = set(json.loads((unit / INDEX).read_text())["weight_map"].values())
        missing = sorted(part for part in parts if not (unit / part).exists())
        if missing:
            raise InputError(
                f"{where}: the index of the weights names {', '.join(missing)}, which is not "
                "among the files.",
                subject=where,
                hint="List all parts of the weights.",
            )


def safe_name(name: str) -> str:
    """The name as safetensors of torch's own weights: ``pytorch_model-00001-of-00002.bin`` →
    ``model-00001-of-00002.safetensors``.
    """
    return f"{name.removeprefix('pytorch_').removesuffix('.bin')}.safetensors"


def _index_of_safetensors(path: Path) -> str:
    index = json.loads(path.read_text())
    index["weight_map"] = {tensor: safe_name(part) for tensor, part in index["weight_map"].items()}
    return json.dumps(index, indent=2, sort_keys=True) + "\n"


def _link(path: Path, target: Path) -> None:
    """A hard link, read-only as all of a unit; a copy across file systems and of what belongs to
    somebody else.
    """
    try:
        os.link(path.resolve(), target)
        target.chmod(0o444)
    except OSError:
        target.unlink(missing_ok=True)
        shutil.copyfile(path, target)


def without_code(path: Path, where: str) -> str:
    """The text of a configuration, without ``auto_map`` (classes in Python files of the repository,
    which are never run).

    Raises InputError where transformers has no class of its own for it.
    """
    text = path.read_text(encoding="utf-8")
    try:
        config = json.loads(text)
    except ValueError:
        raise InputError(
            f"{where} is not JSON.", subject=where, hint="Take another copy of the checkpoint."
        ) from None
    if "auto_map" not in config:
        return text
    del config["auto_map"]
    if not _native(path.name, config):
        kind = config.get("model_type") or config.get("tokenizer_class")
        raise InputError(
            f"{where}: '{kind}' is remote code (auto_map): Python out of the repository, which "
            "is never run here.",
            subject=where,
            hint="Only families that transformers itself holds can be taken.",
        )
    return json.dumps(config, indent=2, ensure_ascii=False) + "\n"


def _native(name: str, config: dict) -> bool:
    """Whether transformers has its own class for a configuration; those of extractors are chosen by
    the model's family.
    """
    from transformers.models.auto.configuration_auto import CONFIG_MAPPING_NAMES
    from transformers.models.auto.tokenization_auto import tokenizer_class_from_name

    if name == "config.json":
        return config.get("model_type") in (*CONFIG_MAPPING_NAMES, *TENSORS_ONLY)
    return (
        name != "tokenizer_config.json"
        or tokenizer_class_from_name(config.get("tokenizer_class") or "") is not None
    )
