"""Recipes: a paper's system or table as overrides of ``params.yaml``, one cell or many.

``flows/recipes/<name>.yaml`` holds ``overrides`` (for every cell) and, where there are several cells, either ``grid`` (lists of
values by parameter: every combination is a cell) or ``cells`` (overrides by cell name). A parameter is named as ``dvc exp run -S``
names it; an element of a list by its position (``train.curriculum.0.steps``).
"""

from __future__ import annotations

import itertools
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from components.config.errors import InputError, nearest
from components.config.params import overridden
from components.config.stage import check_names
from components.config.typed import STRICT, typed

FOLDER = Path("flows/recipes")


@dataclass(frozen=True)
class Recipe:
    __pydantic_config__ = STRICT
    overrides: dict[str, Any] = field(default_factory=dict)
    grid: dict[str, list[Any]] = field(default_factory=dict)
    cells: dict[str, dict[str, Any]] = field(default_factory=dict)


@dataclass(frozen=True)
class Cell:
    """One experiment: its name within the recipe (empty for the only one) and what it overrides."""

    name: str
    overrides: dict[str, Any]

    def arguments(self) -> list[str]:
        """``-S key=value`` for each override, in the grammar of ``dvc exp run``."""
        return [part for key, value in self.overrides.items() for part in ("-S", f"{key}={literal(value)}")]


def names() -> list[str]:
    """Names of all recipes."""
    return sorted(path.stem for path in FOLDER.glob("*.yaml"))


def read_recipe(name: str) -> Recipe:
    """The recipe of that name; raises InputError with the nearest known name."""
    path = FOLDER / f"{name}.yaml"
    if not path.is_file():
        raise InputError(f"No recipe is called '{name}'.", unit=name, way_out=nearest(name, names()))
    recipe = typed(Recipe, yaml.safe_load(path.read_text()), str(path))
    if recipe.grid and recipe.cells:
        raise InputError(f"{path}: both 'grid' and 'cells' are given.", unit=name, way_out="Name the cells, or give a grid of values.")
    return recipe


def expand(recipe: Recipe) -> list[Cell]:
    """The cells of a recipe, in its order; raises InputError where two would have one name."""
    if recipe.cells:
        return [Cell(name, {**recipe.overrides, **own}) for name, own in recipe.cells.items()]
    cells = []
    for values in itertools.product(*recipe.grid.values()):
        name = "-".join(re.sub(r"[^A-Za-z0-9]+", "-", str(value)).strip("-") for value in values)
        cells.append(Cell(name, {**recipe.overrides, **dict(zip(recipe.grid, values))}))
    if len({cell.name for cell in cells}) < len(cells):
        raise InputError("Two cells of the grid would have the same name.", way_out="Give 'cells' with names of their own instead.")
    return cells


def check(cell: Cell) -> None:
    """Raises InputError where an override names an unknown parameter or catalogue entry, or gives it a wrong value."""
    check_names(overridden(cell.overrides, f"cell '{cell.name}'" if cell.name else "overrides"))


def literal(value: Any) -> str:
    """A value in the override grammar of Hydra, which DVC parses ``-S`` with."""
    if value is None or isinstance(value, bool):
        return str(value).lower().replace("none", "null")
    if isinstance(value, int | float):
        return repr(value)
    if isinstance(value, list):
        return f"[{','.join(map(literal, value))}]"
    if isinstance(value, dict):
        return "{" + ",".join(f"{key}:{literal(item)}" for key, item in value.items()) + "}"
    if re.fullmatch(r"[A-Za-z_][A-Za-z0-9_/-]*", value) and value.lower() not in ("null", "true", "false", "nan", "inf"):
        return value
    escaped = re.sub(r"(\\*)'", r"\1\1\\'", value)
    return "'" + re.sub(r"(\\+)$", r"\1\1", escaped) + "'"
