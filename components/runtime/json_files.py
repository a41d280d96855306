"""JSON files of this project: read with a check of their shape.

In: a path, and the type of the data in it or of some of its keys. Out: plain data that has it. What
reads a damaged file stops with InputError, whatever the damage. Cost: that of parsing.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter, ValidationError

from components.config.errors import REPAIR, InputError, damaged_file

Table = dict[str, Any]


def read_json(
    path: Path,
    shape: Any = Table,
    keys: Mapping[str, Any] | None = None,
    *,
    hint: str = REPAIR,
) -> Any:
    """The data of a JSON file: of the type ``shape``, such as ``dict[str, float]`` or a dataclass,
    and where that is a mapping with at least these ``keys``, each of its type.

    Raises InputError, with ``hint``, where the file is missing, can't be read, is no JSON or has
    other data.
    """
    try:
        return parse_json(path.read_bytes(), str(path), shape, keys, hint=hint)
    except FileNotFoundError:
        raise InputError(f"{path} is missing.", subject=str(path), hint=hint) from None
    except OSError as error:
        raise InputError(
            f"{path} can't be read: {error.strerror}.", subject=str(path), hint=hint
        ) from None


def parse_json(
    data: bytes | str,
    where: str,
    shape: Any = Table,
    keys: Mapping[str, Any] | None = None,
    *,
    hint: str = REPAIR,
) -> Any:
    """``read_json`` of bytes that are in memory; errors name ``where`` they are from."""
    try:
        content = _adapter(shape).validate_json(data, strict=True)
        for key, key_type in (keys or {}).items():
            if key not in content:
                raise damaged_file(where, f"it has no '{key}'", hint)
            try:
                _adapter(key_type).validate_json(json.dumps(content[key]), strict=True)
            except ValidationError as error:
                raise damaged_file(where, _describe(error, key), hint) from None
    except ValidationError as error:
        raise damaged_file(where, _describe(error), hint) from None
    return content


@lru_cache(maxsize=64)
def _adapter(shape: Any) -> TypeAdapter[Any]:
    return TypeAdapter(shape)


def _describe(error: ValidationError, key: str = "") -> str:
    first = error.errors(include_url=False, include_input=False)[0]
    location = ".".join(part for part in (key, *map(str, first["loc"])) if part)
    return f"'{location}': {first['msg']}" if location else first["msg"]
