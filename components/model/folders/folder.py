"""Checkpoints in HF form that were trained elsewhere: local ones and those of a model hub → units
of the work cache.

A unit has weights as safetensors and plain descriptions, and names no code to run. Weights of a hub
are linked into it where the file system allows, else copied; torch's own ``pytorch_model*.bin`` are
converted. Weights of a local folder are copied, since their owner may write into them: they take
their size on the disk again, except on a file system with clones. Cost: the files are read once for
their digests; a conversion writes the weights anew. A finished unit costs nothing and needs no
network.
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
from components.config.model_sources import ForeignSource, HubSource, LocalSource, PackageSource
from components.config.network_sizes import check_network_sizes
from components.model.folders.package import cache_package_checkpoint
from components.runtime.artifact import RECORD
from components.runtime.hashing import file_digest
from components.runtime.json_files import read_json
from components.runtime.settings import models_root
from components.runtime.unit_cache import cached_unit, check_disk_space, copy_file, unit_digests

# Suffixes of the files taken from a local folder: weights and plain descriptions, never code.
ACCEPTED_SUFFIXES = (".safetensors", ".json", ".txt", ".model")
# Keys for the dtype of the weights as stored; numerics of the entry says which one is loaded.
DTYPE_KEYS = ("dtype", "torch_dtype")
# torch's own weights, in one file or in parts.
PICKLED = re.compile(r"pytorch_model(-\d{5}-of-\d{5})?\.bin")
# Model types of which only some tensors are used (components/model/folders/qwen_audio.py).
TENSORS_ONLY = ("qwen",)
# The code that a unit depends on: what a display or the client of the hub does changes no weights.
# RESULT_VERSION stands for the code of this module: raise it for an edit of how a unit is filled
# (fill_unit, remove_code).
RESULT_VERSION = 1
CODE = "components.model.folders.conversion"
RECOPY = "Take another copy of the checkpoint."
# These say which part has which tensor.
INDEX, PICKLED_INDEX = "model.safetensors.index.json", "pytorch_model.bin.index.json"


def cache_checkpoint(stage: str, name: str, source: ForeignSource) -> Path:
    """The unit of the catalogue entry ``name``, of kind ``hub``, ``folder`` or ``package``; as an
    encoder, a Qwen-Audio is its audio encoder alone.
    """
    if isinstance(source, LocalSource):
        unit = cache_local_checkpoint(stage, name, source.folder)
    elif isinstance(source, PackageSource):
        unit = cache_package_checkpoint(stage, name, source)
    else:
        unit = _cache_hub_checkpoint(stage, name, source)
    config = read_json(unit / "config.json", hint=RECOPY)
    check_shape(config, source.shape, f"{stage} '{name}'")
    if stage == "encoder" and config.get("model_type") in TENSORS_ONLY:
        return _cache_audio_encoder(f"{stage} '{name}'", unit)
    return unit


def _cache_audio_encoder(where: str, checkpoint: Path) -> Path:
    """The unit of the audio encoder of a Qwen-Audio ``checkpoint``."""

    def write(unit: Path) -> None:
        # torch is imported only where something is converted.
        from components.model.folders.qwen_audio import write_encoder

        write_encoder(where, checkpoint, unit)

    key = {"version": RESULT_VERSION, "qwen-audio": unit_digests(checkpoint)}
    return cached_unit("encoder", key, write, code="components.model.folders.qwen_audio")


def check_shape(config: dict[str, Any], shape: dict[str, Any], where: str) -> None:
    """Raises InputError where a checkpoint's configuration differs from its catalogue entry in
    width, layers, …

    What a ``config.json`` leaves out, or says by another of the family's names for it, has the
    value that transformers reads.
    """
    for key, expected in shape.items():
        value = config[key] if key in config else _transformers_value(config, key)
        if isinstance(expected, dict) and isinstance(value, dict):
            check_shape(value, expected, f"{where}, {key}")
        elif value != expected and key not in DTYPE_KEYS:
            raise InputError(
                f"{where}: source.shape says {key} = {expected}, the checkpoint's config.json "
                f"says {value}.",
                subject=key,
                hint="Correct the entry, or take the checkpoint that it describes.",
            )


def _transformers_value(config: dict[str, Any], key: str) -> Any:
    """The value of a key as transformers reads a ``config.json``; None for an unknown model."""
    from transformers.models.auto.configuration_auto import CONFIG_MAPPING, CONFIG_MAPPING_NAMES

    kind = config.get("model_type")
    if not isinstance(kind, str) or kind not in CONFIG_MAPPING_NAMES:
        return None
    try:
        return getattr(CONFIG_MAPPING[kind](**config), key, None)
    except Exception:  # of any type: a class of transformers refuses the settings
        return None


def _cache_hub_checkpoint(stage: str, name: str, source: HubSource) -> Path:
    """The unit of a checkpoint on the hub."""

    def write(unit: Path) -> None:
        # The network's libraries are imported only where something is fetched.
        from components.model.folders.hub import fetch
        from components.model.folders.hub_entry import HubEntry

        entry = HubEntry(stage, name, source)
        if source.shape:  # checked before gigabytes are fetched that it would refuse
            config_entry = replace(entry, source=replace(source, files=["config.json"]))
            config = fetch(config_entry)["config.json"]
            check_shape(read_json(config, hint=RECOPY), source.shape, entry.where)
        fill_unit(unit, fetch(entry), entry.where)

    key = {
        "version": RESULT_VERSION,
        "repo": source.repo,
        "revision": source.revision,
        "files": sorted(source.files),
    }
    return cached_unit(stage, key, write, code=CODE)


def cache_local_checkpoint(stage: str, name: str, folder: str) -> Path:
    """The unit of the checkpoint ``folder`` below LIBRETTO_MODELS; raises InputError where it is
    not there.
    """
    path = models_root() / folder
    if not folder or not path.is_dir():
        raise InputError(
            f"{stage} '{name}': {path} is not a folder.",
            subject=name,
            hint="Put the checkpoint there.",
        )
    where = f"{stage} '{name}': {path}"
    files = digest_files(path, where)
    return cached_unit(
        stage,
        # Units without this entry have links to files of the user.
        {"version": RESULT_VERSION, "files": files, "copied": True},
        lambda unit: fill_unit(
            unit, {file: path / file for file in files}, where, uses_links=False
        ),
        code=CODE,
    )


def digest_files(folder: Path, where: str) -> dict[str, str]:
    """SHA-256 of each file taken from a checkpoint's folder, without the record of a stage that
    made it; raises InputError, which names it ``where``, for one without weights or configuration.
    """
    files = [
        path
        for path in sorted(folder.iterdir())
        if path.suffix in ACCEPTED_SUFFIXES and path.is_file() and path.name != RECORD
    ]
    if not any(path.suffix == ".safetensors" for path in files):
        files += [path for path in sorted(folder.iterdir()) if PICKLED.fullmatch(path.name)]
    check_all_files({path.name for path in files}, where)
    return {path.name: file_digest(path) for path in files}


def check_all_files(names: set[str], where: str) -> None:
    """Raises InputError where configuration or weights are not among ``names``."""
    has_weights = any(name.endswith(".safetensors") or PICKLED.fullmatch(name) for name in names)
    if "config.json" not in names or not has_weights:
        raise InputError(
            f"{where} is no checkpoint: config.json and weights (safetensors or "
            "pytorch_model.bin) are needed.",
            subject=where,
            hint="Weights in another format can be saved anew with save_pretrained.",
        )


def fill_unit(unit: Path, files: dict[str, Path], where: str, *, uses_links: bool = True) -> None:
    """Writes a complete checkpoint out of ``files`` (path by name) into ``unit``; ``where`` names
    it in errors. Safetensors are hard links with ``uses_links``, which makes the files read-only,
    else copies or clones.

    Raises InputError for weights that are damaged or more than tensors, for a model that exists as
    remote code only or has sizes that no network has, for a part that is missing, and where the
    disk is full.
    """
    check_all_files(set(files), where)
    pickled = [name for name in files if PICKLED.fullmatch(name)]
    with check_disk_space(sum(files[name].stat().st_size for name in pickled), unit, where):
        for name, path in files.items():
            if name in pickled:
                # torch is imported only where something is converted.
                from components.model.folders.conversion import convert_weights

                convert_weights(path, unit / safetensors_name(name), f"{where}: {name}")
            elif name == PICKLED_INDEX and pickled:
                (unit / INDEX).write_text(_safetensors_index(path))
            elif name.endswith(".safetensors"):
                link_or_copy = _link if uses_links else copy_file
                link_or_copy(path, unit / name)
            elif name.endswith("config.json"):
                text = remove_code(path, f"{where}: {name}")
                (unit / name).write_text(text, encoding="utf-8")
            else:
                shutil.copyfile(path, unit / name)
    _check_parts(unit, where)
    for path in sorted(unit.glob("*.safetensors")):
        # torch is imported only where a unit is filled.
        from components.model.folders.weights import check_weights

        check_weights(path, f"{where}: {path.name}")


def _check_parts(unit: Path, where: str) -> None:
    """Raises InputError where the index of the weights names a part that is not in ``unit``."""
    if not (unit / INDEX).exists():
        return
    parts = set(_weight_map(unit / INDEX)["weight_map"].values())
    missing = sorted(part for part in parts if not (unit / part).exists())
    if missing:
        raise InputError(
            f"{where}: the index of the weights names {', '.join(missing)}, which is not "
            "among the files.",
            subject=where,
            hint="List all parts of the weights.",
        )


def safetensors_name(name: str) -> str:
    """The name as safetensors of torch's own weights: ``pytorch_model-00001-of-00002.bin`` →
    ``model-00001-of-00002.safetensors``.
    """
    return f"{name.removeprefix('pytorch_').removesuffix('.bin')}.safetensors"


def _weight_map(path: Path) -> dict[str, Any]:
    """An index of weights: in ``weight_map`` the file of each tensor, a plain name."""
    index: dict[str, Any] = read_json(path, keys={"weight_map": dict[str, str]}, hint=RECOPY)
    outside = [name for name in index["weight_map"].values() if Path(name).name != name]
    if outside:
        raise InputError(
            f"{path} names a file outside its folder: '{outside[0]}'.",
            subject=str(path),
            hint=RECOPY,
        )
    return index


def _safetensors_index(path: Path) -> str:
    """The index of torch's own weights, with the names of the converted parts."""
    index = _weight_map(path)
    index["weight_map"] = {
        tensor: safetensors_name(part) for tensor, part in index["weight_map"].items()
    }
    return json.dumps(index, indent=2, sort_keys=True) + "\n"


def _link(path: Path, target: Path) -> None:
    """A hard link, read-only as all of a unit; a copy across file systems and of files of another
    user.
    """
    try:
        os.link(path.resolve(), target)
        target.chmod(0o444)
    except OSError:
        target.unlink(missing_ok=True)
        shutil.copyfile(path, target)


def remove_code(path: Path, where: str) -> str:
    """The text of a configuration without ``auto_map`` (classes in Python files of the repository,
    which are never run).

    Raises InputError where transformers has no class of its own for it.
    """
    try:
        text = path.read_text(encoding="utf-8")
        config = json.loads(text)
        if not isinstance(config, dict):
            raise ValueError("no mapping")
    except (ValueError, RecursionError):
        raise InputError(f"{where} is no JSON mapping.", subject=where, hint=RECOPY) from None
    if path.name == "config.json":
        check_network_sizes(config, where)
    if "auto_map" not in config:
        return text
    del config["auto_map"]
    if not _is_native(path.name, config):
        kind = config.get("model_type") or config.get("tokenizer_class")
        raise InputError(
            f"{where}: '{kind}' is remote code (auto_map): Python out of the repository, which "
            "is never run here.",
            subject=where,
            hint="Only families that transformers itself has can be used.",
        )
    return json.dumps(config, indent=2, ensure_ascii=False) + "\n"


def _is_native(name: str, config: dict[str, Any]) -> bool:
    """Whether transformers has its own class for a configuration; those of extractors are chosen by
    the model's family.
    """
    from transformers.models.auto.configuration_auto import CONFIG_MAPPING_NAMES
    from transformers.models.auto.tokenization_auto import tokenizer_class_from_name

    if name == "config.json":
        return config.get("model_type") in (*CONFIG_MAPPING_NAMES, *TENSORS_ONLY)
    tokenizer_class = config.get("tokenizer_class") or ""
    return name != "tokenizer_config.json" or tokenizer_class_from_name(tokenizer_class) is not None
