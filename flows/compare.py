"""Experiments side by side: the cells of a recipe as queued DVC experiments, then one table of
their word error rates.

::

    python -m flows.compare <recipe> [--only CELL] [--jobs N] [--again] [--dry-run]
    python -m flows.compare --llm llama-tiny phi-tiny

Everything is checked before any work. Experiments run in copies of the last commit and the changes
on top of it, one at a time or one a GPU, with the DVC cache and the work cache in common: a cell
computes only what no other has. A cell that is done already is taken as it is, and one that still
runs is waited for, so the same command goes on where it stopped. A cell that fails is a failed row,
the others go on, and the exit code is 1; it is 75 where a worker was killed, and what that had not
done is still queued. What a recipe's source publishes stands beside our figures. Cells that differ
in ``train.seed`` alone come once more, as mean and range. The first cell is the baseline: of each
other one the difference of word error rates follows with its interval and the p-value of the
matched-pairs test, from the errors of each utterance as DVC has them.
"""

from __future__ import annotations

import argparse
import shlex
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from prefect import flow, get_run_logger, task
from prefect.artifacts import create_table_artifact
from prefect.cache_policies import NO_CACHE
from prefect.client.schemas.objects import State
from prefect.states import Completed, Failed
from prefect.task_runners import TaskRunner, ThreadPoolTaskRunner

from components.config.errors import InputError, LibrettoError, TransientError, nearest
from components.config.params import NAMES
from components.runtime.devices import visible_gpus
from flows import experiments
from flows import recipe as recipes
from flows.comparison import against_first, over_seeds, side_by_side, table
from flows.recipe import Cell, Recipe
from flows.results import aligned

WATCHERS: TaskRunner[Any] = ThreadPoolTaskRunner(
    max_workers=8
)  # cells that are waited for at once: more than run
FAILED = 1  # exit code where a cell failed
Names = Mapping[str, Sequence[str]]  # by dial: encoder, llm, …


@dataclass
class Comparison:
    """What came out: rows of each experiment, of those over seeds, of differences to the first, and
    which failed.
    """

    rows: list[dict[str, str]]
    failed: list[str]
    seeds: list[dict[str, str]]
    differences: list[dict[str, str]] = field(default_factory=list)
    first: str = ""
    remark: str = ""

    def text(self) -> str:
        """All of it as aligned text."""
        parts = [aligned(self.rows)]
        parts += [f"Over seeds, mean (least–most):\n{aligned(self.seeds)}"] if self.seeds else []
        heading = (
            f"Against {self.first}, in percent points of words (95 % interval; p of matched pairs):"
        )
        parts += [f"{heading}\n{aligned(self.differences)}"] if self.differences else []
        return "\n\n".join([*parts, *filter(None, [self.remark])])


def cells_of(recipe_name: str, names: Names, only: str = "") -> dict[str, Cell]:
    """Experiment name → cell, all checked, of a recipe, or of names for each dial."""
    recipe = recipes.read_recipe(recipe_name) if recipe_name else Recipe()
    dials = {dial: list(values) for dial, values in names.items() if values}
    if dials and recipe.cells:
        raise InputError(
            f"The recipe '{recipe_name}' names its cells.",
            hint=f"Leave out --{next(iter(dials))}.",
        )
    found = recipes.expand(replace(recipe, grid={**recipe.grid, **dials}))
    if only:
        known = [cell.name for cell in found]
        if only not in known:
            raise InputError(f"There is no cell '{only}'.", subject=only, hint=nearest(only, known))
        found = [cell for cell in found if cell.name == only]
    for cell in found:
        recipes.check(cell)
    return {"-".join(filter(None, (recipe_name or "compare", cell.name))): cell for cell in found}


@task(cache_policy=NO_CACHE)
def check_plans(cells: dict[str, Cell]) -> None:
    """Raises InputError before anything is queued where a disk or the memory will not do for a cell
    by itself.
    """
    for name, cell in cells.items():
        done = subprocess.run(
            [sys.executable, "-m", "components.plan", *cell.arguments()],
            capture_output=True,
            text=True,
            check=False,
        )
        if done.returncode:
            raise InputError(
                f"'{name}': {(done.stderr.strip().splitlines() or ['no plan'])[-1]}", subject=name
            )


@task(cache_policy=NO_CACHE)
def queue(cells: dict[str, Cell], again: bool) -> set[str]:
    """Queues the cells that are neither done nor under way; returns those that were done before."""
    experiments.settle(list(cells))
    shown, under_way = experiments.results(), experiments.waiting()
    done = (
        set()
        if again
        else {name for name, cell in cells.items() if experiments.is_done(cell, shown.get(name))}
    )
    experiments.put(
        {name: cell for name, cell in cells.items() if name not in done and name not in under_way}
    )
    return done


@task(task_run_name="{name}", cache_policy=NO_CACHE, persist_result=False)
def run_cell(name: str, done: bool) -> State:
    """Waits for one experiment of the queue; Failed with the last words of its stage."""
    if done:
        return Completed(name="Cached", message="done before")
    experiments.wait(name)
    if name not in experiments.results():
        return Failed(message=experiments.reason(name))
    return Completed(message=f"dvc exp apply {name}")


@flow(name="compare", task_runner=WATCHERS, persist_result=False)
def compare(
    recipe: str = "",
    names: dict[str, list[str]] | None = None,
    only: str = "",
    jobs: int = 0,
    again: bool = False,
    plan: bool = True,
) -> Comparison:
    """Runs a recipe's cells, or one for each of the ``names`` of a dial (``{"llm": ["phi-2",
    "vicuna-7b"]}``), and compares them.

    ``jobs`` experiments run at once (0: one a GPU), ``again`` runs even those that are done.
    """
    cells = cells_of(recipe, names or {}, only)
    if plan:
        check_plans(cells)
    done = queue(cells, again)
    try:
        if len(done) < len(cells):
            experiments.start(devices(jobs))
        states = [run_cell.submit(name, name in done, return_state=False) for name in cells]
        for each in states:
            each.wait()
    except BaseException:
        experiments.stop(list(cells))  # a cancelled flow leaves no experiment running
        raise
    lost = [
        error
        for each in states
        if isinstance(error := each.result(raise_on_failure=False), TransientError)
    ]
    if lost:
        raise lost[0]
    found = compared(cells)
    create_table_artifact(
        found.rows, key="comparison", description=f"{recipe or 'names'}, side by side"
    )
    create_table_artifact(
        found.differences,
        key="differences",
        description=f"Against {found.first}; p of matched pairs",
    )
    get_run_logger().info("%s", found.text())
    return found


def devices(jobs: int) -> list[str]:
    """What each worker is to see as its GPU, empty where there is none: ``jobs`` of them dealt out
    in turn, 0 for one a GPU.
    """
    found = visible_gpus() or [""]
    return [found[place % len(found)] for place in range(jobs or len(found))]


def compared(cells: dict[str, Cell]) -> Comparison:
    """The results of the cells as DVC has them now."""
    shown = experiments.results()
    rows, failed = table(list(cells), shown)
    differences, remark = against_first(list(cells), failed, shown)
    return Comparison(
        side_by_side(rows, cells),
        failed,
        over_seeds(cells, shown),
        differences,
        next(iter(cells)),
        remark,
    )


def _options(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m flows.compare",
        description="Runs experiments and lays their results side by side.",
    )
    parser.add_argument(
        "recipe", nargs="?", default="", help=f"one of: {', '.join(recipes.names())}"
    )
    parser.add_argument("--only", metavar="CELL", default="", help="just this cell of the recipe")
    parser.add_argument(
        "--jobs",
        type=int,
        default=0,
        metavar="N",
        help="experiments at once (default: one a GPU, else one)",
    )
    parser.add_argument("--again", action="store_true", help="run even what is done already")
    parser.add_argument("--dry-run", action="store_true", help="print what would be queued")
    parser.add_argument(
        "--no-plan",
        action="store_true",
        help="queue even what a plan says will not do (python -m components.plan)",
    )
    for name in NAMES:
        parser.add_argument(
            f"--{name}",
            nargs="+",
            metavar="NAME",
            help=f"a cell for each of these names of catalogue/{name}.yaml",
        )
    options = parser.parse_args(arguments)
    if not options.recipe and not any(getattr(options, name) for name in NAMES):
        parser.error("give a recipe, or names to compare such as --llm A B")
    return options


def main(arguments: Sequence[str] | None = None) -> int:
    """Compares from the command line; returns the exit code."""
    options = _options(arguments)
    names: dict[str, Any] = {name: values for name in NAMES if (values := getattr(options, name))}
    try:
        cells = cells_of(
            options.recipe, names, options.only
        )  # before Prefect starts: a wrong name is said at once
        if options.dry_run:
            for name, cell in cells.items():
                print(shlex.join(["dvc", *experiments.queue_command(name, cell)]))
            return 0
        found = compare(
            options.recipe, names, options.only, options.jobs, options.again, not options.no_plan
        )
    except LibrettoError as error:
        print(f"compare: {error}", file=sys.stderr)
        return error.exit_code
    print(found.text())
    return FAILED if found.failed else 0


if __name__ == "__main__":
    sys.exit(main())
