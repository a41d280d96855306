"""``libretto use RECIPE``: the parameters of a recipe, written into ``params.yaml``.

In: ``flows/recipes/<name>.yaml``. Out: ``params.yaml`` with the default parameters, comments kept,
and what the recipe changes of them; the lines that change and the plan of the run, printed. Without
a name it lists the recipes. A file with changes that are not committed is refused, unless they are
those of another recipe or ``--on-top`` is given: then the recipe is put on what the file says.
"""

from __future__ import annotations

import argparse
import copy
import difflib
import io
import re
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from components.config.errors import InputError, LibrettoError, nearest
from components.config.params import PARAMS, parse_params, resolve_key
from components.config.yaml_files import read_yaml
from components.plan.recipe import (
    DEFAULT,
    FOLDER,
    RecipeCell,
    expand,
    list_names,
    read_recipe,
)
from components.runtime.s3 import write_atomically
from components.runtime.stage import check_names

TITLE = "# Recipe: {} ('libretto use' puts on another one)\n#\n"
ON_TOP = " on other parameters"  # than the default
TITLE_PATTERN = (
    r"# Recipe: (?P<title>(?P<name>\S+)( --only (?P<only>\S+))?(?P<on_top>" + ON_TOP + r")?) "
    r"\('libretto use'.*\n#\n"
)


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
    parser.add_argument("--dry-run", action="store_true", help="write nothing")
    parser.add_argument(
        "--on-top", action="store_true", help="change what params.yaml says, instead of the default"
    )
    return parser


def main(arguments: Sequence[str] | None = None, prog: str = "libretto use") -> int:
    """Writes a recipe into ``params.yaml``, or lists the recipes; returns the exit code."""
    options = build_parser(prog).parse_args(arguments)
    if not options.recipe:
        print("\n".join(recipe_lines()))
        return 0
    read_yaml(PARAMS)  # raises a readable error
    old = PARAMS.read_text(encoding="utf-8")
    if options.on_top and options.recipe == DEFAULT:
        raise InputError(
            f"The recipe '{DEFAULT}' is every parameter: there is nothing to put on top.",
            subject="--on-top",
            hint=f"'libretto use {DEFAULT}' without it goes back to the default.",
        )
    new = render(options.recipe, options.only, old if options.on_top else "")
    if not options.on_top:
        check_unchanged(old)
    print_difference(old, new)
    print_cost(new)
    if options.dry_run:
        return 0
    write_atomically(PARAMS, new.encode())
    print(
        f"{PARAMS} has the recipe '{_read_title(new)}' now. 'dvc repro' runs it; commit the file "
        f"for flows that run in a clone. 'libretto use {DEFAULT}' goes back to the default."
    )
    return 0


def recipe_lines() -> list[str]:
    """Each recipe with its first sentence, a line each."""
    names = list_names()
    width = max(map(len, names))
    return [f"{name:{width}}  {_summary(FOLDER / f'{name}.yaml')}" for name in names]


def _summary(path: Path) -> str:
    """The first comment line of a recipe behind its launch line, without ``Source:``."""
    comments = [
        line.removeprefix("#").strip()
        for line in path.read_text(encoding="utf-8").splitlines()[1:6]
        if line.startswith("#")
    ]
    text = next(filter(None, comments), "")
    return text.removeprefix("Source:").strip()


def render(name: str, only: str, base: str = "") -> str:
    """The text of ``params.yaml`` with the parameters of a recipe's cell, comments kept; ``base``
    is the text that the recipe is put on, by default what the recipe says. The title says where
    that text is not the default.

    Raises InputError for an unknown recipe or cell, one of several that is not chosen, an unknown
    parameter or entry, and a wrong value.
    """
    recipe = read_recipe(name)
    cell = find_cell(name, expand(recipe), only)
    if recipe.base == "params.yaml":
        base = base or PARAMS.read_text(encoding="utf-8")
    title = f"{name} --only {cell.name}" if cell.name else name
    default = read_default()
    body = _without_title(base) if base else default
    title += ON_TOP if body != default else ""
    text = TITLE.format(title) + apply_overrides(body, cell.overrides)
    check_names(parse_params(yaml.safe_load(text), f"recipe '{title}'"))
    return text


def read_default() -> str:
    """The text of the default parameters, without the opening of their recipe."""
    text = (FOLDER / f"{DEFAULT}.yaml").read_text(encoding="utf-8")
    return text.split("\n\n", 1)[1]


def find_cell(name: str, cells: Sequence[RecipeCell], only: str) -> RecipeCell:
    """The cell of a recipe: the one named ``only``, else the one that has the recipe's own name;
    raises InputError if there is none.
    """
    by_name = {cell.name or name: cell for cell in cells}
    only = only or name
    if only == name and name not in by_name:
        raise InputError(
            f"The recipe '{name}' has {len(cells)} cells.",
            subject=name,
            hint=f"Choose one with --only: {', '.join(by_name)}.",
        )
    if only not in by_name:
        raise InputError(
            f"The recipe '{name}' has no cell '{only}'.", subject=only, hint=nearest(only, by_name)
        )
    return by_name[only]


def check_unchanged(text: str) -> None:
    """Raises InputError if ``params.yaml`` has changes that are neither committed nor those of the
    recipe that its first line names.
    """
    if text not in (_committed_text(), _rendered_anew(text)):
        raise InputError(
            f"{PARAMS} has changes that are not committed, or is not in Git.",
            subject=str(PARAMS),
            hint=f"Commit them, 'git checkout {PARAMS}', or add --on-top.",
        )


def find_original(text: str) -> str:
    """The text of ``params.yaml`` before an experiment wrote its values into ``text``: that of the
    last commit where it has the same recipe, else what the recipe in the first line gives.

    Raises InputError where neither is there.
    """
    committed = _committed_text()
    if committed is not None and _read_title(committed) == _read_title(text):
        return committed
    original = _rendered_anew(text)
    if not original:
        raise InputError(
            f"What {PARAMS} said before is in no commit, and its first line names no recipe that "
            "gives it.",
            subject=str(PARAMS),
            hint=f"'git diff {PARAMS}' shows what changed: correct it and run again.",
        )
    return original


def _committed_text() -> str | None:
    """``params.yaml`` of the last commit; None where that has none. ``git diff`` would not see a
    file that Git ignores.
    """
    try:
        done = subprocess.run(
            ["git", "show", f"HEAD:./{PARAMS}"],
            capture_output=True,
            encoding="utf-8",
            errors="replace",
            check=False,
        )
    except FileNotFoundError:  # there is no Git
        return None
    return None if done.returncode else done.stdout


def _rendered_anew(text: str) -> str:
    """What the recipe in the first line of ``text`` gives; empty where it names none."""
    match = re.match(TITLE_PATTERN, text)
    if not match or match["on_top"]:
        return ""
    try:
        if read_recipe(match["name"]).base == "params.yaml":  # any text would be what it gives
            return ""
        return render(match["name"], match["only"] or "")
    except LibrettoError:  # the recipe was renamed or removed since
        return ""


def _read_title(text: str) -> str:
    match = re.match(TITLE_PATTERN, text)
    return match["title"] if match else ""


def _without_title(text: str) -> str:
    return re.sub(TITLE_PATTERN, "", text, count=1)


def print_difference(old: str, new: str) -> None:
    """Prints the lines that change."""
    lines = difflib.unified_diff(
        old.splitlines(), new.splitlines(), str(PARAMS), str(PARAMS), n=0, lineterm=""
    )
    print("\n".join(line for line in lines if not line.startswith("@@")))


def print_cost(text: str) -> None:
    """Prints the plan of these parameters; where they do not fit this machine, says so and goes on,
    since another one may run them.
    """
    from components.plan.report import print_plan
    from components.plan.run import check_plan, plan_run

    try:
        plan = plan_run(parse_params(yaml.safe_load(text), str(PARAMS)))
        print_plan(plan)
        check_plan(plan)
    except LibrettoError as error:
        print(f"plan, for this machine: {error}", file=sys.stderr)


def apply_overrides(text: str, overrides: Mapping[str, Any]) -> str:
    """The YAML text with some parameters set, named as ``dvc exp run -S`` names them (an element of
    a list by its position); comments and layout of the rest are kept. Raises InputError for a name
    whose section or position ``text`` does not have.
    """
    if not overrides:
        return text
    from ruamel.yaml import YAML

    editor = YAML()
    editor.width = 4096  # no line is folded
    editor.preserve_quotes = True
    editor.indent(mapping=2, sequence=4, offset=2)
    editor.representer.add_representer(float, _write_float)
    editor.representer.add_representer(  # by default nothing is written for null
        type(None), lambda writer, _: writer.represent_scalar("tag:yaml.org,2002:null", "null")
    )
    document = editor.load(text)
    for name, value in overrides.items():
        *parents, last = name.split(".")
        node = document
        for parent in parents:
            node = node[resolve_key(node, parent, name)]
        # A new key of a section may be one that the file leaves out; its check comes later.
        key = last if isinstance(node, Mapping) else resolve_key(node, last, name)
        node[key] = copy.deepcopy(value)
    stream = io.StringIO()
    editor.dump(document, stream)
    return stream.getvalue()


def _write_float(writer: Any, value: float) -> Any:
    """A number as YAML 1.1 and 1.2 read it alike: ``5e-05`` without a point is text in 1.1."""
    mantissa, exponent, power = repr(value).partition("e")
    text = f"{mantissa if '.' in mantissa or not exponent else mantissa + '.0'}{exponent}{power}"
    return writer.represent_scalar("tag:yaml.org,2002:float", text)
