"""Writes the reference pages of parameters, runtime settings and catalogue fields from their
types: ``python docs/reference.py OUT_FOLDER`` in the root of the repository.

In: the dataclasses of ``components`` with their annotations, ``params.yaml``. Out:
``parameters.md``, ``settings.md`` and ``catalogue.md`` in OUT_FOLDER, the same for the same types.
Cost: about 2 s.
"""

from __future__ import annotations

import dataclasses
import inspect
import sys
import types
import typing
from collections.abc import Iterator, Sequence
from importlib import import_module
from pathlib import Path
from typing import Any, Literal, cast

from pydantic.fields import FieldInfo

from components.config.entries import EncoderEntry, LlmEntry
from components.config.params import Params, read_params
from components.config.projector import PROJECTOR_KINDS
from components.config.schema import Unit, is_union
from components.corpus.fetch.archive import ArchiveCollection
from components.corpus.source import KINDS as CORPUS_SOURCES
from components.plan.load import Gpu
from components.runtime.settings import PREFIX, RuntimeSettings

NOTE = "<!-- written by 'python docs/reference.py'; edit the types, not this page -->"
COMPARISONS = {"ge": "≥", "gt": ">", "le": "≤", "lt": "<"}
REQUIRED = "required"


@dataclasses.dataclass(frozen=True)
class ReferenceRow:
    """One field: its cells in a table, without the value."""

    key: str
    type_name: str
    limits: str  # range and unit
    description: str
    default: Any  # dataclasses.MISSING where there is none

    def cells(self, value: str) -> tuple[str, ...]:
        """The cells of a row; ``value`` is the default, or the value in ``params.yaml``."""
        return f"`{self.key}`", self.type_name, value, self.limits, self.description


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A Markdown table."""
    lines = [head, ["---"] * len(head), *rows]
    escaped = ([cell.replace("|", "\\|").replace("\n", " ") for cell in line] for line in lines)
    return "".join(f"| {' | '.join(line)} |\n" for line in escaped)


def summary(cls: type) -> str:
    """The docstring of a dataclass on one line; empty where it has none of its own."""
    text = " ".join((inspect.getdoc(cls) or "").split())
    return "" if text.startswith(f"{cls.__name__}(") else text


def rows_of(cls: type, prefix: str = "") -> Iterator[ReferenceRow]:
    """The fields of a dataclass and of the dataclasses in it; ``prefix`` begins the keys."""
    hints = typing.get_type_hints(cls, include_extras=True)
    for field in dataclasses.fields(cls):
        if field.name == "raw" and cls is Params:  # the plain data, no parameter
            continue
        info = FieldInfo.from_annotation(hints[field.name])
        key = f"{prefix}{field.name}"
        default = field.default
        if field.default_factory is not dataclasses.MISSING:
            default = field.default_factory()
        kinds = kinds_of(info.annotation)
        if kinds:
            choice = " or ".join(f"`{kind}`" for kind in kinds)
            yield ReferenceRow(f"{key}.kind", choice, "", "Kind of source.", default)
            for kind, member in kinds.items():
                for row in rows_of(member, f"{key}."):
                    if row.key != f"{key}.kind":
                        yield dataclasses.replace(row, description=f"`{kind}`: {row.description}")
            continue
        section, suffix = find_section(info.annotation)
        if section is not None and section is not cls:
            if default is None:
                yield ReferenceRow(key, "section or null", "", info.description or "", default)
            yield from rows_of(section, f"{key}{suffix}.")
            continue
        limits = [*ranges_of(info), *(item.name for item in info.metadata if type(item) is Unit)]
        yield ReferenceRow(
            key, type_name(info.annotation), ", ".join(limits), info.description or "", default
        )


def kinds_of(annotation: Any) -> dict[str, type]:
    """The dataclasses of a union by their ``kind``; empty for any other type."""
    members = typing.get_args(plain_type(annotation)) if is_union(plain_type(annotation)) else ()
    if not all(dataclasses.is_dataclass(member) for member in members):
        return {}
    return {typing.get_args(typing.get_type_hints(member)["kind"])[0]: member for member in members}


def find_section(annotation: Any) -> tuple[type | None, str]:
    """(dataclass, what its keys add to that of the field) of a field that is a section, a list or a
    mapping of sections, or one of these or None; else (None, "").
    """
    annotation = plain_type(annotation)
    if dataclasses.is_dataclass(annotation) and isinstance(annotation, type):
        return annotation, ""
    origin, members = typing.get_origin(annotation), typing.get_args(annotation)
    if origin in (list, dict):
        section, suffix = find_section(members[-1])
        return section, f"{'.0' if origin is list else '.<name>'}{suffix}"
    if is_union(annotation) and len(members) == 2 and members[1] is types.NoneType:
        return find_section(members[0])
    return None, ""


def plain_type(annotation: Any) -> Any:
    """The type without ``Annotated``."""
    return FieldInfo.from_annotation(annotation).annotation


def type_name(annotation: Any) -> str:
    """How a type is written in a table."""
    annotation = plain_type(annotation)
    origin, members = typing.get_origin(annotation), typing.get_args(annotation)
    if origin is Literal:
        return " or ".join(f"`{member or '(empty)'}`" for member in members)
    if is_union(annotation):
        return " or ".join(dict.fromkeys(map(type_name, members)))
    if annotation is Any:
        return "any"
    if origin is list:
        return f"list of {type_name(members[0])}"
    if origin is tuple:
        return f"list of {len(members)}: {', '.join(map(type_name, members))}"
    if origin is dict:
        return "mapping" if members[1] is Any else f"mapping to {type_name(members[1])}"
    if annotation is types.NoneType:
        return "null"
    names = {str: "text", float: "number", int: "integer", bool: "boolean", Path: "path"}
    return names.get(annotation, "section")


def ranges_of(info: FieldInfo) -> list[str]:
    """The range of a field as its constraints say it, and that of the members of a list."""
    ranges = []
    lengths = {
        name: getattr(item, name)
        for item in info.metadata
        for name in ("min_length", "max_length")
        if getattr(item, name, None) is not None
    }
    if lengths:
        least = lengths["min_length"]
        several = f"{least} values" if "max_length" in lengths else f"at least {least}"
        ranges.append("not empty" if info.annotation is str else several)
    for item in info.metadata:
        ranges += [
            f"{sign} {written_limit(getattr(item, name))}"
            for name, sign in COMPARISONS.items()
            if getattr(item, name, None) is not None
        ]
    for member in typing.get_args(info.annotation):
        if typing.get_origin(info.annotation) is not dict:
            ranges += ranges_of(FieldInfo.from_annotation(member))
    return ranges


def written_limit(value: float) -> str:
    """The end of a range: a large one is easier to read with commas, a larger one as a power."""
    return f"{value:,}" if isinstance(value, int) and value <= 10**10 else f"{value:g}"


def values_at(data: Any, keys: Sequence[str]) -> list[Any]:
    """The values of a key in plain data; ``0`` and ``<name>`` stand for every member."""
    if not keys or data is None:  # nothing is below a section that is null
        return [data]
    if keys[0] == "<name>":
        return [value for member in data.values() for value in values_at(member, keys[1:])]
    if keys[0] == "0":
        return [value for member in data for value in values_at(member, keys[1:])]
    return values_at(data[keys[0]], keys[1:])


def written(value: Any) -> str:
    """A value as YAML would show it."""
    if value is dataclasses.MISSING:
        return REQUIRED
    if value in (None, "", [], {}):
        return ""
    if isinstance(value, bool):
        return f"`{str(value).lower()}`"
    if isinstance(value, list):
        return f"`[{', '.join(map(str, value))}]`"
    return f"`{value:g}`" if isinstance(value, float) else f"`{value}`"


def parameters_page() -> str:
    """The page of ``params.yaml``: a table for each section."""
    raw = read_params().raw
    head = ("parameter", "type", "in params.yaml", "range, unit", "meaning")
    text = (
        f"# Parameters\n\n{NOTE}\n\n`params.yaml` says what is computed; the comments in it give "
        "the reasons of the values. `dvc exp run -S KEY=VALUE` and `libretto plan -S KEY=VALUE` "
        "set one by its key: a member of a list has its position in it "
        "(`train.curriculum.0.steps`), a constraint set its name (`decode.sets.free.beams`). An "
        "unknown key and a value out of range stop before any work.\n"
    )
    hints = typing.get_type_hints(Params)
    rows = list(rows_of(Params))
    sections: dict[str, list[ReferenceRow]] = {}
    for row in rows:
        sections.setdefault(row.key.split(".")[0] if "." in row.key else "", []).append(row)
    for name, members in sections.items():
        title = f"`{name}`" if name else "Names"
        about = summary(hints[name]) if name else "Entries of the catalogue."
        cells = []
        for row in members:
            values = list(dict.fromkeys(map(written, values_at(raw, row.key.split(".")))))
            cells.append(row.cells(", ".join(values)))
        text += f"\n## {title}\n\n{about}\n\n{table(head, cells)}"
    return text


def settings_page() -> str:
    """The page of the runtime settings."""
    head = ("setting", "type", "default", "range, unit", "meaning")
    about = (
        "Runtime settings say how and where a run happens, never what it computes. They are "
        "variables of the environment, or lines `NAME=value` of one file that `LIBRETTO_SETTINGS` "
        "names by an absolute path; the environment wins. A change leaves `dvc status` clean.\n\n"
        "`LIBRETTO_ROOT_<NAME>` sets the data root of sources whose catalogue entry says "
        "`root: <name>`: a folder, or `s3://bucket/prefix`. For checkpoints of a hub the variables "
        "of huggingface_hub hold (`HF_HOME`, `HF_ENDPOINT`, `HF_TOKEN`, `HF_HUB_OFFLINE`), for S3 "
        "those of AWS (`AWS_ENDPOINT_URL`, `AWS_ACCESS_KEY_ID`, `AWS_PROFILE` …).\n"
    )
    rows = [
        dataclasses.replace(row, key=f"{PREFIX}{row.key.upper()}").cells(written(row.default))
        for row in rows_of(RuntimeSettings)
    ]
    return f"# Runtime settings\n\n{NOTE}\n\n{about}\n{table(head, rows)}"


def catalogue_page() -> str:
    """The page of the catalogue: a table for each class of entries."""
    text = (
        f"# Catalogue\n\n{NOTE}\n\nThe folder `catalogue` has a file for each kind of entry. "
        "`card` is for people: no stage reads it.\n"
    )
    text += "\n## `corpus.yaml`\n\n" + (
        "An entry lists sources by role (`train`, `dev`, `test`, `nonspeech-train`, "
        "`nonspeech-test`, `noise`) and name. The key `kind` of a source decides which fields it "
        "has.\n"
    )
    for kind in CORPUS_SOURCES:
        text += entry_section(f"kind `{kind}`", settings_class(kind), "### ")
    text += entry_section("`encoder.yaml`", EncoderEntry)
    text += entry_section("`llm.yaml`", LlmEntry)
    text += "\n## `projector.yaml`\n\nThe key `kind` of an entry decides which fields it has.\n"
    for kind, cls in PROJECTOR_KINDS.items():
        text += entry_section(f"kind `{kind}`", cls, "### ")
    text += entry_section("`archive.yaml`", ArchiveCollection)
    return text + entry_section("`gpu.yaml`", Gpu)


def entry_section(title: str, cls: type, level: str = "## ") -> str:
    """A heading, the docstring of a class and the table of its fields."""
    head = ("field", "type", "default", "range, unit", "meaning")
    rows = [row.cells(written(row.default)) for row in rows_of(cls)]
    return f"\n{level}{title}\n\n{summary(cls)}\n\n{table(head, rows)}"


def settings_class(kind: str) -> type:
    """The dataclass of the settings of a kind of corpus source."""
    module = import_module(f"components.corpus.sources.{kind}")
    for name, value in vars(module).items():
        if name.endswith("Settings") and value.__module__ == module.__name__:
            return cast(type, value)
    raise LookupError(f"{module.__name__} has no class whose name ends in Settings.")


def main(arguments: Sequence[str]) -> int:
    """Writes the pages into the folder that the command line names."""
    if len(arguments) != 1:
        print("usage: python docs/reference.py OUT_FOLDER", file=sys.stderr)
        return 2
    folder = Path(arguments[0])
    folder.mkdir(parents=True, exist_ok=True)
    pages = {
        "parameters": parameters_page,
        "settings": settings_page,
        "catalogue": catalogue_page,
    }
    for name, page in pages.items():
        (folder / f"{name}.md").write_text(page())
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
