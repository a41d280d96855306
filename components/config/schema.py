"""Plain data → dataclasses, strictly: an unknown key, a missing one or a wrong type stops with the
nearest known name.
"""

from __future__ import annotations

import dataclasses
import typing
from typing import Any, TypeVar

from components.config.errors import InputError, nearest

T = TypeVar("T")

# Read by pydantic where it checks a standard dataclass: refuse keys that are not fields.
STRICT: dict[str, str] = {"extra": "forbid"}


def parse_as(cls: type[T], data: Any, where: str) -> T:
    """``data`` (a mapping from YAML) as ``cls``.

    Raises InputError that names ``where`` and the key, with the nearest known key for an unknown
    one.
    """
    from pydantic import TypeAdapter, ValidationError

    try:
        return TypeAdapter(cls).validate_python(data)
    except ValidationError as error:
        # A mistyped key is unknown and missing at once: what is unknown comes first.
        unknown = [
            each
            for each in error.errors()
            if "unexpected" in each["type"] or "extra" in each["type"]
        ]
        first = (unknown or error.errors())[0]
        key = ".".join(str(part) for part in first["loc"])
        if unknown:
            hint = nearest(str(first["loc"][-1]), _fields_at(cls, first["loc"][:-1]))
            raise InputError(f"{where}: unknown key '{key}'.", subject=key, hint=hint) from None
        if first["type"] == "missing":
            lacking = [
                ".".join(str(part) for part in each["loc"])
                for each in error.errors()
                if each["type"] == "missing"
            ]
            says = ", ".join(f"'{each}'" for each in lacking)
            raise InputError(
                f"{where}: {says} missing.", subject=key, hint="It has no default: give it."
            ) from None
        raise InputError(
            f"{where}: '{key}': {first['msg']} (given: {first['input']!r}).", subject=key
        ) from None


def _fields_at(cls: Any, location: tuple[Any, ...]) -> list[str]:
    """Field names of the dataclass that stands at ``location`` inside ``cls``."""
    for part in location:
        hints = typing.get_type_hints(cls) if dataclasses.is_dataclass(cls) else {}
        inner = hints.get(part, cls)
        candidates = [inner, *typing.get_args(inner)]
        cls = next((kind for kind in candidates if dataclasses.is_dataclass(kind)), cls)
    return (
        [field.name for field in dataclasses.fields(cls)] if dataclasses.is_dataclass(cls) else []
    )


def non_default_fields(value: Any) -> Any:
    """A dataclass (or what holds some) as plain data, without fields that stand at their defaults.

    For keys and records: a setting added later, whose default keeps what was, leaves the older ones
    as they are. Who changes what a default does raises the RESULT_VERSION of the packages that read
    it.
    """
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {
            each.name: non_default_fields(getattr(value, each.name))
            for each in dataclasses.fields(value)
            if getattr(value, each.name) != _default(each)
        }
    if isinstance(value, dict):
        return {key: non_default_fields(each) for key, each in value.items()}
    return (
        [non_default_fields(each) for each in value] if isinstance(value, (list, tuple)) else value
    )


def _default(each: dataclasses.Field[Any]) -> Any:
    return each.default if each.default_factory is dataclasses.MISSING else each.default_factory()
