"""What of a joined model is tuned: parts, patterns that freeze some of their parameters, and the
table of all parameters.

A parameter has a plain name, ``llm.model.layers.0.self_attn.q_proj.lora_A.weight``: the network's
own, without what PEFT inserts. In: names, and the parts and patterns of a curriculum stage. Out:
the names to be tuned by part, and the rows of ``parameters.json``. Cost: milliseconds; nothing is
computed.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase
from typing import Any

from components.config.errors import InputError

NUM_SUGGESTIONS = 3  # names in an error
MODULE_TITLES = {
    "encoder": "encoder",
    "encoder-lora": "encoder LoRA",
    "projector": "projector",
    "matching": "matching head",
    "llm": "LLM",
    "lora": "LLM LoRA",
}


def plain_name(name: str) -> str:
    """The name of a parameter without what PEFT inserts, so that adapting a layer does not change
    it.
    """
    return name.replace(".base_layer.", ".").replace(".default.", ".")


def module_of(name: str) -> str:
    """Which of ``MODULE_TITLES`` a parameter belongs to."""
    side = name.partition(".")[0]
    if "lora_" in name:
        return {"llm": "lora", "encoder": "encoder-lora"}[side]
    return side


def part_of(name: str) -> str:
    """The part of a curriculum's ``tune`` that a parameter is tuned with: the matching head is
    tuned with the projector.
    """
    return module_of(name).replace("matching", "projector")


def select_parameters(
    names: Iterable[str], parts: Sequence[str], freeze: Sequence[str], where: str = "train"
) -> dict[str, list[str]]:
    """The plain ``names`` that ``parts`` tune, by part, without those that a pattern of ``freeze``
    (of fnmatch) matches.

    Raises InputError, which starts with ``where``, for a part that the model does not have, for a
    pattern that matches no name, with the nearest names, and for a part without any name.
    """
    chosen = [name for name in names if part_of(name) in parts]
    for part in parts:
        if not any(part_of(name) == part for name in chosen):
            raise InputError(
                f"{where}: '{part}' is to be tuned, but the model has no such part.",
                subject=part,
                hint="Name a part of it in train.curriculum, or another model.",
            )
    for pattern in freeze:
        if not any(fnmatchcase(name, pattern) for name in chosen):
            near = difflib.get_close_matches(pattern, chosen, n=NUM_SUGGESTIONS, cutoff=0.0)
            raise InputError(
                f"{where}: the pattern '{pattern}' of freeze matches nothing that is tuned.",
                subject=pattern,
                hint=f"Near are {', '.join(near)}.",
            )
    groups: dict[str, list[str]] = {}
    for name in chosen:
        if not any(fnmatchcase(name, pattern) for pattern in freeze):
            groups.setdefault(part_of(name), []).append(name)
    for part in parts:
        if part not in groups:
            raise InputError(
                f"{where}: the patterns of freeze leave nothing of '{part}' to tune.",
                subject=part,
                hint=f"Take '{part}' out of tune, or a pattern out of freeze.",
            )
    return groups


@dataclass(frozen=True)
class ParameterRow:
    """Parameters of a module, a row of ``parameters.json``."""

    part: str  # of MODULE_TITLES
    module: str
    parameters: int
    trained: int  # how many of them
    dtype: str
    layers: int = 1  # modules of equal rows, added up in this one


def parameter_table(parameters: Mapping[str, Any]) -> list[ParameterRow]:
    """The rows of parameters by plain name, in the order of ``MODULE_TITLES``: modules down to the
    numbered layer, equal neighbours as one row.
    """
    rows: dict[tuple[str, str], ParameterRow] = {}
    for name, parameter in parameters.items():
        part, module, dtype = (
            MODULE_TITLES[module_of(name)],
            _module(name),
            str(parameter.dtype).removeprefix("torch."),
        )
        row = rows.get((part, module), ParameterRow(part, module, 0, 0, dtype))
        size = parameter.numel()
        rows[part, module] = replace(
            row,
            parameters=row.parameters + size,
            trained=row.trained + size * parameter.requires_grad,
            dtype=", ".join(sorted({*row.dtype.split(", "), dtype})),
        )
    order = list(MODULE_TITLES.values())
    return list(_merge_layers(sorted(rows.values(), key=lambda row: order.index(row.part))))


def _module(name: str) -> str:
    """The module of a row: to the first number of the name, else without the parameter's own, four
    names at most.
    """
    steps = name.split(".")
    layer_index = next((index for index, step in enumerate(steps) if step.isdecimal()), None)
    return ".".join(steps[: layer_index + 1] if layer_index is not None else steps[:-1][:4])


def _merge_layers(rows: Iterable[ParameterRow]) -> Iterator[ParameterRow]:
    """Neighbouring layers of one list whose figures are the same as one row, ``layers.0-11``, the
    figures added up.
    """
    pending: list[ParameterRow] = []
    for row in rows:
        if pending and not _has_equal_layer(pending[-1], row):
            yield _add_rows(pending)
            pending = []
        pending.append(row)
    if pending:
        yield _add_rows(pending)


def _has_equal_layer(one: ParameterRow, other: ParameterRow) -> bool:
    """Whether two rows are layers of one list with the same figures."""
    stems = [row.module.rpartition(".") for row in (one, other)]
    return all(end.isdecimal() for _, _, end in stems) and replace(
        one, module=stems[0][0]
    ) == replace(other, module=stems[1][0])


def _add_rows(rows: Sequence[ParameterRow]) -> ParameterRow:
    """One row for equal layers of one list."""
    first, last = rows[0], rows[-1]
    if len(rows) == 1:
        return first
    module = f"{first.module}-{last.module.rpartition('.')[2]}"
    return replace(
        first,
        module=module,
        parameters=sum(row.parameters for row in rows),
        trained=sum(row.trained for row in rows),
        layers=len(rows),
    )


def format_table(rows: Sequence[ParameterRow]) -> str:
    """The rows as lines: part, module, parameters, those trained, dtype."""
    lines = [f"  {'module':<52} {'parameters':>13} {'trained':>13}  dtype"]
    lines += [
        f"  {f'{row.part}: {row.module}':<52} {row.parameters:>13,} {row.trained:>13,}  {row.dtype}"
        for row in rows
    ]
    total, trained = sum(row.parameters for row in rows), sum(row.trained for row in rows)
    return "\n".join([*lines, f"  {'all':<52} {total:>13,} {trained:>13,}"])
