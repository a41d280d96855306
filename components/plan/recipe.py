"""Recipes: a paper's system or table as overrides of the default parameters, one cell or many.

``flows/recipes/embedded.yaml`` is the default: every parameter with its unit and reason. Any other
``flows/recipes/<name>.yaml`` has ``overrides`` (for every cell) and, for several cells, either
``grid`` or ``cells`` (overrides by cell name). Every combination of a grid is a cell; an axis of it
is a parameter with a list of values, or a name with overrides by name. A parameter is named as
``dvc exp run -S`` names it; an element of a list by its position (``train.curriculum.0.steps``).
``published`` has the figures of the source, which are printed next to ours; its
``other_systems`` are rows of the table that no cell computes. ``base: params.yaml``
is for overrides that count from what ``params.yaml`` says, whatever that is.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Container, Iterable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

from components.config import catalogue
from components.config.errors import InputError, nearest
from components.config.params import NAMES, PARAMS, Params, read_overridden_params
from components.config.schema import STRICT, parse_as
from components.config.yaml_files import read_yaml
from components.runtime.stage import check_names

FOLDER = Path("flows/recipes")
DEFAULT = "embedded"  # the recipe that has every parameter
Overrides = dict[str, Any]  # value by dotted key
Figures = dict[str, dict[str, float]]  # by cell (empty for the only one) and test set
PLAIN_WORD = re.compile(r"[A-Za-z_][A-Za-z0-9_/-]*")  # needs no quotes in an override
WORDS_WITH_TYPE = ("null", "true", "false", "nan", "inf")  # an override would not read as text


@dataclass(frozen=True)
class Published:
    """What a source says of the cells."""

    __pydantic_config__ = STRICT
    source: str
    # read in the source itself, in somebody's account of it, or quoted from memory
    grade: Literal["read", "secondary", "not checked"]
    wer: Figures = field(default_factory=dict)  # percent
    perplexity: Figures = field(default_factory=dict)  # of a word, of the LLM alone
    other_systems: Figures = field(default_factory=dict)  # percent, of systems that are no cell


@dataclass(frozen=True)
class Recipe:
    """The content of a recipe's file."""

    __pydantic_config__ = STRICT
    overrides: Overrides = field(default_factory=dict)
    grid: dict[str, list[Any] | dict[str, Overrides]] = field(default_factory=dict)
    cells: dict[str, Overrides] = field(default_factory=dict)
    base: Literal["embedded", "params.yaml"] = "embedded"  # what the overrides count from
    published: Published | None = None


@dataclass(frozen=True)
class RecipeCell:
    """One experiment: its name within the recipe (empty for the only one), what it overrides, and
    what is published of it by test set: word error rates in percent, perplexities.
    """

    name: str
    overrides: Overrides
    wer: dict[str, float] = field(default_factory=dict)
    perplexity: dict[str, float] = field(default_factory=dict)

    def build_arguments(self) -> list[str]:
        """``-S key=value`` for each override, in the grammar of ``dvc exp run``."""
        return [
            part
            for key, value in self.overrides.items()
            for part in ("-S", f"{key}={format_value(value)}")
        ]


def list_names() -> list[str]:
    """Names of all recipes."""
    return sorted(path.stem for path in FOLDER.glob("*.yaml"))


def read_recipe(name: str) -> Recipe:
    """The recipe of that name, the default one without overrides; raises InputError with the
    nearest known name.
    """
    path = FOLDER / f"{name}.yaml"
    if not path.is_file():
        raise InputError(
            f"There is no recipe '{name}'.", subject=name, hint=nearest(name, list_names())
        )
    if name == DEFAULT:
        return Recipe()
    recipe = parse_as(Recipe, read_yaml(path), str(path))
    if recipe.grid and recipe.cells:
        raise InputError(
            f"{path} has both 'grid' and 'cells'.",
            subject=name,
            hint="Name the cells, or write a grid of values.",
        )
    return recipe


def expand(recipe: Recipe) -> list[RecipeCell]:
    """The cells of a recipe, in its order; raises InputError if two would have one name, and for
    published figures of a cell that does not exist.
    """
    if recipe.cells:
        cells = {name: {**recipe.overrides, **own} for name, own in recipe.cells.items()}
    else:
        cells = _expand_grid(recipe)
    published = recipe.published or Published("", "read")
    for name in (*published.wer, *published.perplexity):
        if name not in cells:
            raise InputError(
                f"Figures are published for '{name}', which is no cell.",
                subject=name,
                hint=nearest(name, cells),
            )
    for name in published.other_systems.keys() & cells.keys():
        raise InputError(
            f"'{name}' is a cell, and among the other systems.",
            subject=name,
            hint="Move its figures to 'wer', or name the other system differently.",
        )
    return [
        RecipeCell(name, own, published.wer.get(name, {}), published.perplexity.get(name, {}))
        for name, own in cells.items()
    ]


def _expand_grid(recipe: Recipe) -> dict[str, Overrides]:
    """Overrides by cell name, of every combination of a grid; one cell without a name if there is
    no grid.
    """
    combinations = list(itertools.product(*itertools.starmap(_list_steps, recipe.grid.items())))
    cells: dict[str, Overrides] = {}
    for combination in combinations:
        overrides = dict(recipe.overrides)
        for _, step in combination:
            overrides |= step
        cells["-".join(name for name, _ in combination)] = overrides
    if len(cells) < len(combinations):
        raise InputError(
            "Two cells of the grid would have the same name.",
            subject="grid",
            hint="Write 'cells' with names of their own instead.",
        )
    return cells


def _list_steps(key: str, values: list[Any] | dict[str, Overrides]) -> list[tuple[str, Overrides]]:
    """The steps of a grid along one axis: what each adds to a cell's name, and what it
    overrides.
    """
    if isinstance(values, dict):
        return list(values.items())
    return [
        (re.sub(r"[^A-Za-z0-9]+", "-", str(value)).strip("-"), {key: value}) for value in values
    ]


def overrides_to_default() -> Overrides:
    """What sets ``params.yaml`` back to the default parameters; empty where it has them.

    Raises InputError where one of them has a parameter that the other lacks.
    """
    default = _flatten(read_yaml(FOLDER / f"{DEFAULT}.yaml"))
    current = _flatten(read_yaml(PARAMS), default)
    if unmatched := sorted(current.keys() ^ default.keys()):
        raise InputError(
            f"The default parameters and {PARAMS} differ in '{unmatched[0]}': only one has it.",
            subject=unmatched[0],
            hint=f"Put the default on first: libretto use {DEFAULT}.",
        )
    return {key: value for key, value in default.items() if current[key] != value}


def _flatten(
    data: dict[str, Any], leaf_keys: Container[str] = (), prefix: str = ""
) -> dict[str, Any]:
    """Values by dotted key; a list is one value, as is a mapping whose key is in ``leaf_keys``."""
    values: dict[str, Any] = {}
    for name, value in data.items():
        key = f"{prefix}{name}"
        if isinstance(value, dict) and key not in leaf_keys:
            values |= _flatten(value, leaf_keys, f"{key}.")
        else:
            values[key] = value
    return values


def place_on_base(recipe: Recipe, cells: list[RecipeCell]) -> list[RecipeCell]:
    """The cells with what they override of ``params.yaml``, whatever it says: before their own
    overrides come those to the base of their recipe.
    """
    if recipe.base != DEFAULT:
        return cells
    changes = overrides_to_default()
    return [replace(cell, overrides={**changes, **cell.overrides}) for cell in cells]


def _is_put_on(cell: RecipeCell, params: Params) -> bool:
    """Whether the parameters are those of the cell already."""
    values = _flatten(params.raw, cell.overrides)
    return all(values.get(key) == value for key, value in cell.overrides.items())


def suggest_recipe(params: Params) -> str:
    """The arguments of ``libretto use`` for the recipe that has most of these names, on the same
    corpus; empty where none is for the corpus. A cell that is put on already is none.
    """
    best, most = "", 0
    for name in list_names():
        if name == DEFAULT:
            continue
        for cell in expand(read_recipe(name)):
            if cell.overrides.get("corpus") == params.corpus and not _is_put_on(cell, params):
                count = sum(cell.overrides.get(key) == getattr(params, key) for key in NAMES)
                if count > most:
                    best, most = f"{name} --only {cell.name}" if cell.name else name, count
    return best


def check_cell(cell: RecipeCell) -> None:
    """Raises InputError if an override names an unknown parameter or catalogue entry, or has a
    wrong value, and if figures are published for a set that is not tested.
    """
    params = read_overridden_params(
        cell.overrides, f"cell '{cell.name}'" if cell.name else "overrides"
    )
    check_names(params)
    _check_test_sets((*cell.wer, *cell.perplexity), params)


def list_other_systems(recipe: Recipe) -> Figures:
    """Published word error rates in percent of systems that are no cell, by system and test set;
    raises InputError for a set that the first cell does not test.
    """
    other_systems = recipe.published.other_systems if recipe.published else {}
    if other_systems:
        params = read_overridden_params(expand(recipe)[0].overrides, "other systems")
        _check_test_sets([name for figures in other_systems.values() for name in figures], params)
    return other_systems


def _check_test_sets(names: Iterable[str], params: Params) -> None:
    tested = _list_test_sets(params)
    for name in names:
        if name not in tested:
            raise InputError(
                f"Figures are published for '{name}', which is no test set of the corpus "
                f"{params.corpus}.",
                subject=name,
                hint=nearest(name, tested),
            )


def _list_test_sets(params: Params) -> list[str]:
    sources = catalogue.corpus(params.corpus).sources
    return [*sources["dev"], *sources["test"]]


def format_value(value: Any) -> str:
    """A value in the override grammar of Hydra, which DVC parses ``-S`` with."""
    if value is None or isinstance(value, bool):
        return str(value).lower().replace("none", "null")
    if isinstance(value, int | float):
        return repr(value)
    if isinstance(value, list):
        return f"[{','.join(map(format_value, value))}]"
    if isinstance(value, dict):
        return "{" + ",".join(f"{key}:{format_value(item)}" for key, item in value.items()) + "}"
    text = str(value)
    if PLAIN_WORD.fullmatch(text) and text.lower() not in WORDS_WITH_TYPE:
        return text
    escaped = re.sub(r"(\\*)'", r"\1\1\\'", text)
    return "'" + re.sub(r"(\\+)$", r"\1\1", escaped) + "'"
