"""Recipes: a paper's system or table as overrides of ``params.yaml``, one cell or many.

``flows/recipes/<name>.yaml`` holds ``overrides`` (for every cell) and, where there are several
cells, either ``grid`` or ``cells`` (overrides by cell name). Every combination of a grid is a cell;
an axis of it is a parameter with a list of values, or a word with overrides by name. A parameter is
named as ``dvc exp run -S`` names it; an element of a list by its position
(``train.curriculum.0.steps``). ``published`` holds the figures of the source, to stand beside ours.
"""

from __future__ import annotations

import itertools
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import yaml

from components.config import catalogue
from components.config.errors import InputError, nearest
from components.config.params import Params, read_overridden_params
from components.config.schema import STRICT, parse_as
from components.runtime.stage import check_names

FOLDER = Path("flows/recipes")


Figures = dict[str, dict[str, float]]  # by cell (empty for the only one) and test set


@dataclass(frozen=True)
class Published:
    """What a source says of the cells."""

    __pydantic_config__ = STRICT
    source: str
    grade: Literal[
        "read", "secondary", "not checked"
    ]  # in the source itself, in somebody's account of it, from memory
    wer: Figures = field(default_factory=dict)  # percent
    perplexity: Figures = field(default_factory=dict)  # of a word, of the LLM alone


@dataclass(frozen=True)
class Recipe:
    __pydantic_config__ = STRICT
    overrides: dict[str, Any] = field(default_factory=dict)
    grid: dict[str, list[Any] | dict[str, dict[str, Any]]] = field(default_factory=dict)
    cells: dict[str, dict[str, Any]] = field(default_factory=dict)
    published: Published | None = None


@dataclass(frozen=True)
class Cell:
    """One experiment: its name within the recipe (empty for the only one), what it overrides, and
    what is published of it by test set: word error rates in percent, perplexities.
    """

    name: str
    overrides: dict[str, Any]
    wer: dict[str, float] = field(default_factory=dict)
    perplexity: dict[str, float] = field(default_factory=dict)

    def arguments(self) -> list[str]:
        """``-S key=value`` for each override, in the grammar of ``dvc exp run``."""
        return [
            part
            for key, value in self.overrides.items()
            for part in ("-S", f"{key}={literal(value)}")
        ]


def names() -> list[str]:
    """Names of all recipes."""
    return sorted(path.stem for path in FOLDER.glob("*.yaml"))


def read_recipe(name: str) -> Recipe:
    """The recipe of that name; raises InputError with the nearest known name."""
    path = FOLDER / f"{name}.yaml"
    if not path.is_file():
        raise InputError(
            f"No recipe is called '{name}'.", subject=name, hint=nearest(name, names())
        )
    recipe = parse_as(Recipe, yaml.safe_load(path.read_text()), str(path))
    if recipe.grid and recipe.cells:
        raise InputError(
            f"{path}: both 'grid' and 'cells' are given.",
            subject=name,
            hint="Name the cells, or give a grid of values.",
        )
    return recipe


def expand(recipe: Recipe) -> list[Cell]:
    """The cells of a recipe, in its order; raises InputError where two would have one name, and for
    figures of no cell.
    """
    if recipe.cells:
        found = {name: {**recipe.overrides, **own} for name, own in recipe.cells.items()}
    else:
        combinations = list(itertools.product(*itertools.starmap(_axis, recipe.grid.items())))
        named = [
            ("-".join(name for name, _ in each), [own for _, own in each]) for each in combinations
        ]
        found = {
            name: dict(itertools.chain(recipe.overrides.items(), *(own.items() for own in values)))
            for name, values in named
        }
        if len(found) < len(named):
            raise InputError(
                "Two cells of the grid would have the same name.",
                hint="Give 'cells' with names of their own instead.",
            )
    said = recipe.published or Published("", "read")
    for name in (*said.wer, *said.perplexity):
        if name not in found:
            raise InputError(
                f"Figures are published for '{name}', which is no cell.",
                subject=name,
                hint=nearest(name, found),
            )
    return [
        Cell(name, own, said.wer.get(name, {}), said.perplexity.get(name, {}))
        for name, own in found.items()
    ]


def _axis(
    key: str, values: list[Any] | dict[str, dict[str, Any]]
) -> list[tuple[str, dict[str, Any]]]:
    """The steps of a grid along one axis: what each adds to a cell's name, and what it
    overrides.
    """
    if isinstance(values, dict):
        return list(values.items())
    return [
        (re.sub(r"[^A-Za-z0-9]+", "-", str(value)).strip("-"), {key: value}) for value in values
    ]


def check(cell: Cell) -> None:
    """Raises InputError where an override names an unknown parameter or catalogue entry, or gives
    it a wrong value, and where figures are published for a set that is not tested.
    """
    params = read_overridden_params(
        cell.overrides, f"cell '{cell.name}'" if cell.name else "overrides"
    )
    check_names(params)
    tested = _tested(params)
    for name in (*cell.wer, *cell.perplexity):
        if name not in tested:
            raise InputError(
                f"Figures are published for '{name}', which the corpus {params.corpus} does "
                "not test.",
                subject=name,
                hint=nearest(name, tested),
            )


def _tested(params: Params) -> list[str]:
    sources = catalogue.corpus(params.corpus).sources
    return [*sources["dev"], *sources["test"]]


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
    if re.fullmatch(r"[A-Za-z_][A-Za-z0-9_/-]*", value) and value.lower() not in (
        "null",
        "true",
        "false",
        "nan",
        "inf",
    ):
        return value
    escaped = re.sub(r"(\\*)'", r"\1\1\\'", value)
    return "'" + re.sub(r"(\\+)$", r"\1\1", escaped) + "'"
