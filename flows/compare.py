"""Experiments side by side: the cells of a recipe as queued DVC experiments, then one table of
their word error rates.

::

    python -m flows.compare <recipe> [--only CELL] [--jobs N] [--again] [--dry-run]
    python -m flows.compare --llm llama-tiny phi-tiny
    python -m flows.compare --show

Everything is checked before any work. Experiments run in copies of the last commit and the changes
on top of it, one at a time or one a GPU; they share the DVC cache and the work cache, so a cell
computes only what no other has. The same command continues where it stopped: a cell that is done
is not run again, and one that still runs is waited for. A cell that fails is a failed row, the
others go on, and the exit code is 1; it is 75 if a worker was killed, and then the cells that were
not done are still queued.

The table also has the published figures of the recipe's source, with a row for each system that
no cell computes. Cells that differ in ``train.seed``
alone come once more, as mean and range. The first cell is the baseline: for each other one the
difference of word error rates follows with its interval and the p-value of the matched-pairs test,
from the errors of each utterance in DVC's cache.
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

from components.config.errors import InputError, TransientError, nearest
from components.config.params import NAMES
from components.plan import recipe as recipes
from components.plan.recipe import Figures, Recipe, RecipeCell
from components.runtime.devices import visible_gpus
from components.runtime.tables import format_table
from flows import compare_options, experiments
from flows.compare_options import PROG
from flows.comparison import (
    Row,
    add_published,
    build_table,
    compare_to_first,
    summarize_seeds,
)
from flows.run_names import dated_name
from flows.untracked import describe_untracked

# Cells that are waited for at once: more than run.
WATCHERS: TaskRunner[Any] = ThreadPoolTaskRunner(max_workers=8)
FAILED = 1  # exit code if a cell failed
Names = Mapping[str, Sequence[str]]  # by dial: encoder, llm, …


@dataclass
class RecipeComparison:
    """The result of all cells: rows of each experiment, of those over seeds, of the differences to
    the first, and which failed.
    """

    rows: list[Row]
    failed: list[str]
    seeds: list[Row]
    differences: list[Row] = field(default_factory=list)
    baseline: str = ""
    remark: str = ""

    def format_text(self) -> str:
        """All of it as aligned text."""
        parts = [format_table(self.rows)]
        if self.seeds:
            parts.append(f"Over seeds, mean (least–most):\n{format_table(self.seeds)}")
        if self.differences:
            heading = (
                f"Against {self.baseline}, in percent points of words (95 % interval; p of matched "
                "pairs):"
            )
            parts.append(f"{heading}\n{format_table(self.differences)}")
        return "\n\n".join([*parts, *filter(None, [self.remark])])


def expand_cells(recipe_name: str, names: Names, only: str = "") -> dict[str, RecipeCell]:
    """Experiment name → cell, all checked, of a recipe, or of names for each dial."""
    recipe = recipes.read_recipe(recipe_name) if recipe_name else Recipe(base="params.yaml")
    dials = {dial: list(values) for dial, values in names.items() if values}
    if dials and recipe.cells:
        raise InputError(
            f"The recipe '{recipe_name}' names its cells.",
            subject=recipe_name,
            hint=f"Leave out --{next(iter(dials))}.",
        )
    cells = recipes.expand(replace(recipe, grid={**recipe.grid, **dials}))
    if only:
        cell_names = [cell.name or recipe_name for cell in cells]
        if only not in cell_names:
            raise InputError(
                f"There is no cell '{only}'.", subject=only, hint=nearest(only, cell_names)
            )
        cells = [cell for cell in cells if (cell.name or recipe_name) == only]
    recipes.list_other_systems(recipe)
    cells = recipes.place_on_base(recipe, cells)
    for cell in cells:
        recipes.check_cell(cell)
    return {"-".join(filter(None, (recipe_name or "compare", cell.name))): cell for cell in cells}


@task(cache_policy=NO_CACHE)
def check_plans(cells: dict[str, RecipeCell]) -> None:
    """Raises InputError for the first cell that does not fit by itself: a disk or the memory is too
    small; nothing is queued then.
    """
    for name, cell in cells.items():
        done = subprocess.run(
            [sys.executable, "-m", "components.plan", *cell.build_arguments()],
            capture_output=True,
            text=True,
            check=False,
        )
        if done.returncode:
            last_line = (done.stderr.strip().splitlines() or ["no plan"])[-1]
            raise InputError(
                f"'{name}': {last_line}",
                subject=name,
                hint="Correct the cell, then see 'python -m components.plan "
                f"{shlex.join(cell.build_arguments())}'.",
            )


@task(cache_policy=NO_CACHE)
def queue_cells(cells: dict[str, RecipeCell], again: bool) -> set[str]:
    """Queues the cells that are neither done nor queued; returns those that are done, none if all
    are to run again.
    """
    experiments.fail_orphans(list(cells))
    experiments.end_idle_workers()
    commits, unfinished = experiments.list_results(), experiments.list_unfinished()
    done = {
        name
        for name, cell in cells.items()
        if not again and experiments.is_done(cell, commits.get(name))
    }
    if len(done) < len(cells) and (untracked := describe_untracked()):
        get_run_logger().warning(untracked)
    experiments.enqueue(
        {name: cell for name, cell in cells.items() if name not in done | unfinished.keys()}
    )
    return done


@task(task_run_name="{name}", cache_policy=NO_CACHE, persist_result=False)
def run_cell(name: str, done: bool, devices: Sequence[str]) -> State:
    """Waits for one experiment of the queue; Failed with the last line of its stage."""
    if done:
        return Completed(name="Cached", message="done before")
    experiments.wait_for(name, devices)
    if name not in experiments.list_results():
        return Failed(message=experiments.read_failure(name))
    return Completed(message=f"dvc exp apply {name}")


@flow(
    name="compare",
    flow_run_name=dated_name("compare"),
    task_runner=WATCHERS,
    persist_result=False,
)
def compare(
    recipe: str = "",
    names: dict[str, list[str]] | None = None,
    only: str = "",
    jobs: int = 0,
    again: bool = False,
    plan: bool = True,
) -> RecipeComparison:
    """Runs a recipe's cells, or one for each of the ``names`` of a dial (``{"llm": ["phi-2",
    "vicuna-7b"]}``), and compares them.

    ``jobs`` experiments run at once (0: one a GPU), ``again`` runs even those that are done.
    """
    cells = expand_cells(recipe, names or {}, only)
    if plan:
        check_plans(cells)
    done, devices = queue_cells(cells, again), list_devices(jobs)
    try:
        if len(done) < len(cells):
            experiments.start_workers(devices)
        runs = [run_cell.submit(name, name in done, devices, return_state=False) for name in cells]
        for run in runs:
            run.wait()
    except BaseException:
        experiments.cancel(list(cells))  # a cancelled flow leaves no experiment running
        raise
    for run in runs:
        if isinstance(error := run.result(raise_on_failure=False), TransientError):
            raise error
    is_whole = bool(recipe) and not only
    other_systems = recipes.list_other_systems(recipes.read_recipe(recipe)) if is_whole else {}
    comparison = collect_results(cells, other_systems)
    create_table_artifact(
        comparison.rows, key="comparison", description=f"{recipe or 'names'}, side by side"
    )
    create_table_artifact(
        comparison.differences,
        key="differences",
        description=f"Against {comparison.baseline}; p of matched pairs",
    )
    get_run_logger().info("%s", comparison.format_text())
    return comparison


def list_devices(jobs: int) -> list[str]:
    """The CUDA_VISIBLE_DEVICES of each of ``jobs`` workers, 0 for one a GPU: the GPUs in turn, or
    empty if there are none.
    """
    devices = visible_gpus() or [""]
    return [devices[index % len(devices)] for index in range(jobs or len(devices))]


def collect_results(cells: dict[str, RecipeCell], other_systems: Figures) -> RecipeComparison:
    """The results of the cells as DVC has them now, and rows of other systems, of which there
    are published figures alone.
    """
    commits, names = experiments.list_results(), list(cells)
    rows, failed = build_table(names, commits)
    differences, remark = compare_to_first(names, failed, commits)
    return RecipeComparison(
        add_published(rows, cells, other_systems),
        failed,
        summarize_seeds(cells, commits),
        differences,
        names[0],
        remark,
    )


def run_comparison(options: argparse.Namespace) -> int:
    """Compares as the command line says; returns the exit code."""
    names: dict[str, Any] = {name: values for name in NAMES if (values := getattr(options, name))}
    # Before Prefect starts, so that a wrong name stops at once.
    cells = expand_cells(options.recipe, names, options.only)
    if options.dry_run:
        for name, cell in cells.items():
            print(shlex.join(["dvc", *experiments.build_command(name, cell)]))
        return 0
    comparison = compare(
        options.recipe, names, options.only, options.jobs, options.again, not options.no_plan
    )
    print(comparison.format_text())
    return FAILED if comparison.failed else 0


def main(arguments: Sequence[str] | None = None, prog: str = PROG) -> int:
    """Compares from the command line; returns the exit code."""
    return compare_options.main(arguments, prog, run_comparison)


if __name__ == "__main__":
    sys.exit(main())
