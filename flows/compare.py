"""Experiments side by side: the cells of a recipe as queued DVC experiments, then one table of their word error rates.

::

    python -m flows.compare <recipe> [--only CELL] [--dry-run]
    python -m flows.compare --llm llama-tiny phi-tiny

Everything is checked before any work. Experiments run one after the other in copies of the last commit and the changes on top
of it, with the DVC cache and the work cache in common: a cell computes only what no other has. A cell that fails is a failed row,
the others go on, and the exit code is 1. What a recipe's source publishes stands beside our figures. Cells that differ in
``train.seed`` alone come once more, as mean and range. The first cell is the baseline: of each other one the difference of word error
rates follows with its interval and the p-value of the matched-pairs test, from the errors of each utterance as DVC has them.
"""

from __future__ import annotations

import argparse
import json
import os
import shlex
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from components.config.errors import InputError, LibrettoError, nearest
from components.config.params import NAMES, read_params
from flows import recipe as recipes
from flows.differences import UTTERANCES, differences, read_errors
from flows.recipe import Cell, Recipe
from flows.results import SCORE, TRAIN, aligned, perplexities, spread, text_on_nonspeech, word_errors

DVC = (sys.executable, "-m", "dvc")


def cells_of(options: argparse.Namespace) -> dict[str, Cell]:
    """Experiment name → cell, all checked, for the command line's recipe, names and ``--only``."""
    recipe = recipes.read_recipe(options.recipe) if options.recipe else Recipe()
    dials = {name: values for name in NAMES if (values := getattr(options, name))}
    if dials and recipe.cells:
        raise InputError(f"The recipe '{options.recipe}' names its cells.", way_out=f"Leave out --{next(iter(dials))}.")
    found = recipes.expand(replace(recipe, grid={**recipe.grid, **dials}))
    if options.only:
        known = [cell.name for cell in found]
        if options.only not in known:
            raise InputError(f"There is no cell '{options.only}'.", unit=options.only, way_out=nearest(options.only, known))
        found = [cell for cell in found if cell.name == options.only]
    for cell in found:
        recipes.check(cell)
    return {"-".join(filter(None, (options.recipe or "compare", cell.name))): cell for cell in found}


def queue_command(name: str, cell: Cell) -> list[str]:
    return ["exp", "run", "--queue", "-n", name, *cell.arguments()]


def check_plan(name: str, cell: Cell) -> None:
    """Raises InputError before anything is queued where a disk or the memory will not do for a cell by itself."""
    done = subprocess.run([sys.executable, "-m", "components.plan", *cell.arguments()], capture_output=True, text=True, check=False)
    if done.returncode:
        raise InputError(f"'{name}': {(done.stderr.strip().splitlines() or ['no plan'])[-1]}", unit=name)


def run(cells: dict[str, Cell]) -> None:
    """Queues the cells as experiments, in place of earlier ones of the same names, and waits until the queue is done."""
    present = set(_dvc("exp", "list", "--name-only").split())
    earlier = [name for name in cells if name in present]
    if earlier:
        _dvc("exp", "remove", *earlier)
    for name, cell in cells.items():
        _dvc(*queue_command(name, cell))
    # A failed experiment shows in the table; the others run on.
    subprocess.run([*DVC, "exp", "run", "--run-all", "--jobs", "1"], env=_environment(), check=False)


def results() -> dict[str, dict[str, Any]]:
    """What DVC shows of each experiment, by name."""
    return _newest(json.loads(_dvc("exp", "show", "--json")))


def table(names: Sequence[str], shown: Mapping[str, dict[str, Any]]) -> tuple[list[dict[str, str]], list[str]]:
    """Rows (experiment × set and system, WER and clips with text in percent; the optimiser step at which the training's accuracy
    jumps), and the names of the failed experiments."""
    rows, failed = [], []
    for name in names:
        row = {"experiment": name}
        metrics = _metrics(shown.get(name))
        if metrics is None:
            failed.append(name)
            row["state"] = f"failed: {_reason(name)}"
        else:
            row |= {"state": "done", **{f"{each['set']}/{each['system']}": each["WER %"] for each in word_errors(metrics)}}
            row |= {f"{each['set']}/{each['system']} text %": each["clips with text %"] for each in text_on_nonspeech(metrics)}
            row |= {f"{each} perplexity": f"{figure:.2f}" for each, figure in perplexities(metrics).items()}
            training = _metrics(shown.get(name), TRAIN) or {}
            if training.get("steps"):  # else a released projector: nothing was trained
                step = training.get("jump", {}).get("step")  # DVC leaves out what is null
                row["jump at step"] = "none" if step is None else str(step)
        rows.append(row)
    return rows, failed


def beside(rows: Sequence[dict[str, str]], cells: Mapping[str, Cell]) -> list[dict[str, str]]:
    """The rows with what is published of their cells: a column for each set of which any is, "-" where there is none."""
    said = {name: {**{f"{each} published": figure for each, figure in cell.wer.items()},
                   **{f"{each} perplexity published": figure for each, figure in cell.perplexity.items()}}
            for name, cell in cells.items()}  # fmt: skip
    columns = dict.fromkeys(column for figures in said.values() for column in figures)
    return [row | {column: f"{said[name][column]:.2f}" if column in said[name] else "-" for column in columns}
            for row, name in zip(rows, cells, strict=True)]  # fmt: skip


def over_seeds(cells: Mapping[str, Cell], shown: Mapping[str, dict[str, Any]]) -> list[dict[str, str]]:
    """Rows of cells that differ in ``train.seed`` alone, together: what their names have in common, and mean and range of what
    those that succeeded gave."""
    alike: dict[str, list[str]] = {}
    for name, cell in cells.items():
        alike.setdefault(repr({key: value for key, value in cell.overrides.items() if key != "train.seed"}), []).append(name)
    rows = []
    for names in (each for each in alike.values() if len(each) > 1):
        label = "-".join(words[0] for words in zip(*(name.split("-") for name in names)) if len(set(words)) == 1) or names[0]
        found = [metrics for name in names if (metrics := _metrics(shown.get(name)))]
        rows += [{"experiments": label, **row} for row in (spread(found) if found else ())]
    return rows


def against_first(names: Sequence[str], failed: Sequence[str], shown: Mapping[str, dict[str, Any]]) -> str:
    """What is to be said of the first experiment and each other one: rows of differences, and which have none and why."""
    first, done = names[0], [name for name in names if name not in failed]
    if len(names) < 2:
        return ""
    if first in failed:
        return f"Nothing stands against the first cell, {first}: it failed."
    held = {name: read_errors(shown[name]["rev"]) for name in done}
    rows = differences(names, {name: errors for name, errors in held.items() if errors}, read_params().score.resamples)
    lines = [f"Against {first}, in percent points of words (95 % interval; p of matched pairs):", aligned(rows)] if rows else []
    if lacking := [name for name, errors in held.items() if errors is None]:
        lines.append(f"No {UTTERANCES} is in DVC's cache (dvc fetch may bring it), so nothing to compare, of: {', '.join(lacking)}")
    return "\n".join(lines)


def _newest(shown: list[dict[str, Any]]) -> dict[str, dict[str, Any]]:
    """The last result of each name; one that succeeded replaces an earlier failure."""
    found: dict[str, dict[str, Any]] = {}
    for experiment in (each for baseline in shown for each in baseline.get("experiments") or ()):
        result = experiment["revs"][0]
        if experiment["name"] not in found or not result.get("error"):
            found[experiment["name"]] = result
    return found


def _metrics(result: dict[str, Any] | None, file: Path = SCORE) -> dict[str, Any] | None:
    if result is None or result.get("error"):
        return None
    return ((result.get("data") or {}).get("metrics", {}).get(str(file)) or {}).get("data")


def _reason(name: str) -> str:
    """The last line that a failed experiment's stage wrote, from its log."""
    log = subprocess.run([*DVC, "queue", "logs", name], capture_output=True, text=True, check=False)
    lines = [line.strip() for line in log.stdout.splitlines() if line.strip() and not line.startswith("ERROR: failed to reproduce")]
    return lines[-1] if lines else log.stderr.strip()


def _dvc(*arguments: str) -> str:
    done = subprocess.run([*DVC, *arguments], capture_output=True, text=True, check=False, env=_environment())
    if done.returncode:
        raise InputError(f"'dvc {shlex.join(arguments)}' failed: {done.stderr.strip()}")
    return done.stdout


def _environment() -> dict[str, str]:
    """The environment in which a stage's ``python`` is the one that runs this."""
    return {**os.environ, "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"}


def main(arguments: Sequence[str] | None = None) -> int:
    """Compares from the command line; returns the exit code."""
    parser = argparse.ArgumentParser(prog="python -m flows.compare", description="Runs experiments and lays their results side by side.")
    parser.add_argument("recipe", nargs="?", help=f"one of: {', '.join(recipes.names())}")
    parser.add_argument("--only", metavar="CELL", help="just this cell of the recipe")
    parser.add_argument("--dry-run", action="store_true", help="print what would be queued")
    parser.add_argument("--no-plan", action="store_true", help="queue even what a plan says will not do (python -m components.plan)")
    for name in NAMES:
        parser.add_argument(f"--{name}", nargs="+", metavar="NAME", help=f"a cell for each of these names of catalogue/{name}.yaml")
    options = parser.parse_args(arguments)
    if not options.recipe and not any(getattr(options, name) for name in NAMES):
        parser.error("give a recipe, or names to compare such as --llm A B")
    try:
        cells = cells_of(options)
        if options.dry_run:
            for name, cell in cells.items():
                print(shlex.join(["dvc", *queue_command(name, cell)]))
            return 0
        if not options.no_plan:
            for name, cell in cells.items():
                check_plan(name, cell)
        run(cells)
        shown = results()
        rows, failed = table(list(cells), shown)
        apart = against_first(list(cells), failed, shown)
    except LibrettoError as error:
        print(f"compare: {error}", file=sys.stderr)
        return error.exit_code
    print(aligned(beside(rows, cells)))
    if repeated := over_seeds(cells, shown):
        print(f"\nOver seeds, mean (least–most):\n{aligned(repeated)}")
    if apart:
        print(f"\n{apart}")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
