"""``libretto use RECIPE``: the parameters of a recipe, written into ``params.yaml``.

In: ``flows/recipes/<name>.yaml``. Out: ``params.yaml`` with the recipe's overrides, comments kept.
Without a name it lists the recipes. The overrides of a recipe count from the committed
``params.yaml``, so a file with uncommitted changes is refused unless ``--on-top`` is given.
"""

from __future__ import annotations

import argparse
import io
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from components.plan.recipe import RecipeCell

PARAMETERS = Path("params.yaml")


def build_parser(prog: str = "libretto use") -> argparse.ArgumentParser:
    """The parser of ``libretto use``."""
    parser = argparse.ArgumentParser(
        prog=prog,
        description="Puts the parameters of a recipe into params.yaml, or lists the recipes.",
    )
    parser.add_argument(
        "recipe", nargs="?", default="", help="a file of flows/recipes/ (default: list them)"
    )
    parser.add_argument(
        "--only", metavar="CELL", default="", help="the cell, if the recipe has several"
    )
    parser.add_argument("--dry-run", action="store_true", help="print the overrides, write nothing")
    parser.add_argument(
        "--on-top", action="store_true", help="keep uncommitted changes of params.yaml"
    )
    return parser


def main(arguments: Sequence[str] | None = None, prog: str = "libretto use") -> int:
    """Writes a recipe into ``params.yaml``, or lists the recipes; returns the exit code."""
    options = build_parser(prog).parse_args(arguments)
    if not options.recipe:
        print("\n".join(recipe_lines()))
        return 0
    cell = find_cell(options.recipe, options.only)
    if options.dry_run:
        print("\n".join(cell.build_arguments()[1::2]))  # without the ``-S`` before each
        return 0
    if not options.on_top:
        check_unchanged()
    write_overrides(PARAMETERS, cell.overrides)
    print(
        f"{PARAMETERS}: {len(cell.overrides)} parameters of '{options.recipe}'. "
        f"'git checkout {PARAMETERS}' undoes it."
    )
    return 0


def recipe_lines() -> list[str]:
    """Each recipe with its first sentence, a line each."""
    from components.plan import recipe

    names = recipe.list_names()
    width = max(map(len, names))
    return [f"{name:{width}}  {_summary(recipe.FOLDER / f'{name}.yaml')}" for name in names]


def _summary(path: Path) -> str:
    """The first comment line of a recipe behind its launch line, without ``Source:``."""
    comments = [
        line.removeprefix("#").strip()
        for line in path.read_text(encoding="utf-8").splitlines()[1:6]
        if line.startswith("#")
    ]
    text = next(filter(None, comments), "")
    return text.removeprefix("Source:").strip()


def find_cell(name: str, only: str) -> RecipeCell:
    """The cell of a recipe, checked; raises InputError if the recipe has several and ``only`` names
    none of them.
    """
    from components.config.errors import InputError, nearest
    from components.plan import recipe

    cells = {cell.name: cell for cell in recipe.expand(recipe.read_recipe(name))}
    if len(cells) > 1 and not only:
        raise InputError(
            f"The recipe '{name}' has {len(cells)} cells.",
            subject=name,
            hint=f"Choose one with --only: {', '.join(cells)}.",
        )
    cell_name = only or next(iter(cells))
    if cell_name not in cells:
        raise InputError(
            f"The recipe '{name}' has no cell '{only}'.", subject=only, hint=nearest(only, cells)
        )
    recipe.check_cell(cells[cell_name])
    return cells[cell_name]


def check_unchanged() -> None:
    """Raises InputError if ``params.yaml`` differs from the last commit."""
    from components.config.errors import InputError

    done = subprocess.run(["git", "diff", "--quiet", "HEAD", "--", str(PARAMETERS)], check=False)
    if done.returncode:
        raise InputError(
            f"{PARAMETERS} has changes that are not committed, or is not in Git.",
            subject=str(PARAMETERS),
            hint=f"Commit them, 'git checkout {PARAMETERS}', or add --on-top.",
        )


def write_overrides(path: Path, overrides: Mapping[str, Any]) -> None:
    """Sets parameters of a YAML file, named as ``dvc exp run -S`` names them (an element of a list
    by its position); comments and layout of the rest are kept.
    """
    from ruamel.yaml import YAML

    editor = YAML()
    editor.width = 4096  # no line is folded
    editor.preserve_quotes = True
    editor.indent(mapping=2, sequence=4, offset=2)
    document = editor.load(path.read_text(encoding="utf-8"))
    for name, value in overrides.items():
        *parents, key = (int(part) if part.isdigit() else part for part in name.split("."))
        node = document
        for parent in parents:
            node = node[parent]
        node[key] = value
    stream = io.StringIO()
    editor.dump(document, stream)
    path.write_text(stream.getvalue(), encoding="utf-8")
