"""Plain data of YAML or JSON to dataclasses, checked by pydantic.

In: a mapping and a dataclass whose annotations carry ranges, units and descriptions. Out: the
dataclass, or InputError that names the file, the key and the nearest known name. Cost: 10 to 50 ms
for the first data of a class, microseconds for the next.
"""

from __future__ import annotations

import dataclasses
import types
import typing
from collections.abc import Collection, Sequence
from functools import lru_cache
from typing import Annotated, Any, Literal, TypeVar, Union

from pydantic import AfterValidator, ConfigDict, Field, TypeAdapter, ValidationError
from pydantic_core import ErrorDetails

from components.config.errors import InputError, nearest

T = TypeVar("T")
Limits = TypeVar("Limits", bound=Sequence[float])

# pydantic reads it from the class attribute ``__pydantic_config__`` of a standard dataclass:
# keys that are no fields and numbers that are not finite are refused.
STRICT = ConfigDict(extra="forbid", allow_inf_nan=False)

# Keys that had another name once → the name now.
RENAMED_KEYS = {
    "around_db": "margin_db",
    "around_seconds": "margin_seconds",
    "holds": "folder",
    "max_unheard": "max_unsupported_units",
    "others": "variants",
    "takes": "take_range",
}

# Of an entry of the catalogue. DVC puts it into commands that a shell runs, and takes a dot for the
# border of a key.
ENTRY_NAME = r"^[A-Za-z0-9_-]+$"


@dataclasses.dataclass(frozen=True)
class Unit:
    """The unit of a field, as an annotation: ``seconds: Annotated[float, Unit("s")]``."""

    name: str


class RuleError(ValueError):
    """A rule between the fields of a section that does not hold; ``key`` is relative to the
    section.
    """

    def __init__(self, key: str, message: str, hint: str) -> None:
        super().__init__(message)
        self.key = key
        self.hint = hint


def renamed_key(key: str, names: Collection[str]) -> str:
    """The new name of a key of a section whose keys are ``names``; empty if it has none there."""
    new_name = RENAMED_KEYS.get(key, "")
    return new_name if new_name in names else ""


def check_order(limits: Limits) -> Limits:
    """The limits; raises ValueError where the first is above the second."""
    if limits[0] > limits[1]:
        raise ValueError("the first value must not be above the second")
    return limits


PrecisionName = Literal["fp32", "bf16", "fp16"]  # of the arithmetic
# Least and most.
DecibelLimits = Annotated[
    list[Annotated[float, Field(ge=-100, le=100)]],
    Field(min_length=2, max_length=2),
    AfterValidator(check_order),
    Unit("dB"),
]


def parse_as(cls: type[T], data: Any, where: str) -> T:
    """``data`` (a mapping from YAML) as ``cls``, a dataclass or a union of some.

    Raises InputError that names ``where`` and the key, with the nearest known key for an unknown
    one.
    """
    try:
        return typing.cast(T, _adapter(typing.cast(Any, cls)).validate_python(data))
    except ValidationError as error:
        raise _input_error(cls, error.errors(include_url=False), where) from None


@lru_cache(maxsize=128)
def _adapter(cls: Any) -> TypeAdapter[Any]:
    return TypeAdapter(cls)


def _input_error(cls: Any, errors: Sequence[ErrorDetails], where: str) -> InputError:
    """The error that a user reads: of an unknown key, else of missing keys, else of the first
    wrong value. (A mistyped key is unknown and missing at once: the unknown one comes first.)
    """
    for error in errors:
        if error["type"] in ("unexpected_keyword_argument", "extra_forbidden"):
            return _unknown_key(cls, error["loc"], where)
    missing = [_resolve(cls, error["loc"])[0] for error in errors if error["type"] == "missing"]
    if missing:
        names = ", ".join(f"'{key}'" for key in missing)
        return InputError(
            f"{where}: {names} missing.", subject=missing[0], hint="It has no default: add it."
        )
    error = errors[0]
    key, field_type = _resolve(cls, error["loc"])
    context = error.get("ctx", {})
    if error["type"].startswith("union_tag"):
        return _unknown_kind(key, error, where)
    rule = context.get("error")
    if isinstance(rule, RuleError):
        key = ".".join(part for part in (key, rule.key) if part)
        return InputError(f"{where}: '{key}': {rule}", subject=key, hint=rule.hint)
    if isinstance(error["input"], bool) and error["type"] == "string_type":
        return InputError(
            f"{where}: '{key}' is no text but {str(error['input']).lower()}: YAML reads the bare "
            "words no, yes, on and off so.",
            subject=key,
            hint="Put the word in quotes.",
        )
    message = str(rule) if rule else error["msg"]
    if not key:  # all of the data is of another kind
        return InputError(
            f"{where}: {message} (value: {error['input']!r}).",
            subject=where,
            hint="Keys with values are expected.",
        )
    return InputError(
        f"{where}: '{key}': {message} (value: {error['input']!r}).",
        subject=key,
        hint=_describe(field_type),
    )


def _unknown_key(cls: Any, location: tuple[int | str, ...], where: str) -> InputError:
    section_key, section = _resolve(cls, location[:-1])
    name = str(location[-1])
    key = f"{section_key}.{name}" if section_key else name
    names = [field.name for field in _fields(_without_annotations(section))]
    if new_name := renamed_key(name, names):
        return InputError(
            f"{where}: '{key}' has the name '{new_name}' now.",
            subject=key,
            hint=f"Rename it to '{new_name}'.",
        )
    return InputError(f"{where}: unknown key '{key}'.", subject=key, hint=nearest(name, names))


def _unknown_kind(key: str, error: ErrorDetails, where: str) -> InputError:
    """The error of a union whose discriminator is missing or none of its members'."""
    context = error["ctx"]
    discriminator = context["discriminator"].strip("'")
    key = f"{key}.{discriminator}" if key else discriminator
    if error["type"] == "union_tag_not_found":
        return InputError(
            f"{where}: '{key}' missing.", subject=key, hint="It has no default: add it."
        )
    kinds = [kind.strip(" '") for kind in context["expected_tags"].split(",")]
    return InputError(
        f"{where}: unknown {discriminator} '{context['tag']}'.",
        subject=key,
        hint=nearest(context["tag"], kinds),
    )


def _describe(field_type: Any) -> str:
    """What the field of this type is and its unit, as a hint; empty where nothing says it."""
    metadata = getattr(field_type, "__metadata__", ())
    descriptions = [item.description for item in metadata if getattr(item, "description", None)]
    units = [item.name for item in metadata if isinstance(item, Unit)]
    if not descriptions:
        return "Correct the value."
    return f"It means: {descriptions[-1].rstrip('.')}{f' ({units[-1]})' if units else ''}."


def _resolve(cls: Any, location: tuple[int | str, ...]) -> tuple[str, Any]:
    """(dotted key in the data, annotated type there) of a location that pydantic gives, which also
    names members of unions.
    """
    keys: list[str] = []
    for part in location:
        plain = _without_annotations(cls)
        if dataclasses.is_dataclass(plain) and isinstance(plain, type):
            keys.append(str(part))
            cls = _field_types(plain).get(str(part), Any)
        elif typing.get_origin(plain) in (list, tuple) and isinstance(part, int):
            keys.append(str(part))
            cls = typing.get_args(plain)[0]
        elif typing.get_origin(plain) is dict:
            keys.append(str(part))
            cls = typing.get_args(plain)[1]
        elif is_union(plain) and _member(plain, part) is not None:
            cls = _member(plain, part)
        else:
            break
    return ".".join(keys), cls


def _field_types(cls: Any) -> dict[str, Any]:
    """Annotated types of a dataclass by the keys that its fields have in the data."""
    aliases = getattr(cls, "__pydantic_config__", {}).get("alias_generator") or str
    hints = typing.get_type_hints(cls, include_extras=True)
    return {aliases(name): hint for name, hint in hints.items()}


def _without_annotations(cls: Any) -> Any:
    """The type without ``Annotated`` and without ``None``."""
    if typing.get_origin(cls) is Annotated:
        return _without_annotations(typing.get_args(cls)[0])
    if is_union(cls):
        members = [member for member in typing.get_args(cls) if member is not type(None)]
        return _without_annotations(members[0]) if len(members) == 1 else cls
    return cls


def is_union(cls: Any) -> bool:
    """Whether the type is a union."""
    return typing.get_origin(cls) in (Union, types.UnionType)


def _member(union: Any, tag: int | str) -> Any:
    """The dataclass of a discriminated union whose ``kind`` is ``tag``."""
    for member in typing.get_args(union):
        if dataclasses.is_dataclass(member):
            kind = typing.get_type_hints(member).get("kind")
            if tag in typing.get_args(kind):
                return member
    return None


def _fields(cls: Any) -> tuple[dataclasses.Field[Any], ...]:
    return dataclasses.fields(cls) if dataclasses.is_dataclass(cls) else ()


def non_default_fields(value: Any) -> Any:
    """A dataclass (or a container of some) as plain data, without fields that equal their
    defaults.

    For keys and records: a setting that is added later, whose default keeps the old behaviour,
    leaves older keys as they are.
    """
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {
            field.name: non_default_fields(getattr(value, field.name))
            for field in dataclasses.fields(value)
            if getattr(value, field.name) != _default(field)
        }
    if isinstance(value, dict):
        return {key: non_default_fields(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [non_default_fields(item) for item in value]
    return value


def _default(field: dataclasses.Field[Any]) -> Any:
    if field.default_factory is dataclasses.MISSING:
        return field.default
    return field.default_factory()
