"""Writes the cost of each recipe of a paper into its opening: ``python docs/recipes.py``.

In: ``flows/recipes``, and the plan of every cell on a machine that has nothing yet. Out: the lines
``Hours``, ``Memory`` and ``Disk`` of the openings that have ``(plan)`` in them. Cost: 10 s where
the networks were planned before.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from components.config.params import read_overridden_params
from components.plan.machine import Disk, Machine
from components.plan.recipe import FOLDER, RecipeCell, expand, read_recipe
from components.plan.run import RunPlan, plan_run

CARDS = {"h200": "an H200", "a100-80gb": "an A100"}
MARK = "(plan)"
WORK = Path("/work")  # of a machine that exists nowhere; outputs are linked there
MACHINE = Machine("empty machine", 1e15, 1, (WORK,), (Disk((Path("/"),), 1e18),))


@dataclass(frozen=True)
class Cost:
    """What the plan says of a cell."""

    hours: dict[str, float]  # by card
    memory: float  # bytes, the peak of a process
    outputs: float  # bytes that the stages write
    downloads: float  # bytes of archives and checkpoints
    lacks_size: bool  # of something that is downloaded


def main() -> int:
    """Rewrites the openings; returns the exit code."""
    for name in planned_recipes():
        path = FOLDER / f"{name}.yaml"
        path.write_text(with_cost(path.read_text(), list_costs(name)))
    return 0


def planned_recipes() -> list[str]:
    """The recipes whose opening has figures of the plan."""
    return sorted(path.stem for path in FOLDER.glob("*.yaml") if MARK in path.read_text())


def list_costs(name: str) -> list[Cost]:
    """The cost of each cell of a recipe."""
    return [estimate_cost(cell) for cell in expand(read_recipe(name))]


def estimate_cost(cell: RecipeCell) -> Cost:
    """The cost of a cell from the first download to the scores."""
    params = read_overridden_params(cell.overrides, cell.name)
    plan = plan_run(params, list(CARDS), MACHINE)
    outputs = sum(use.num_bytes for use in plan.disk_uses if use.folders == MACHINE.output_folders)
    return Cost(
        {card: sum_hours(plan, card) for card in CARDS},
        max(load.peak_bytes for load in plan.loads),
        outputs,
        sum(download.num_bytes for download in plan.downloads),
        not all(download.num_bytes for download in plan.downloads),
    )


def sum_hours(plan: RunPlan, card: str) -> float:
    """Hours of all stages on one card, whether or not its memory is large enough."""
    return sum(load.estimate_hours(plan.gpus[card]) or 0.0 for load in plan.loads)


def with_cost(text: str, costs: Sequence[Cost]) -> str:
    """The text of a recipe with these costs in its opening."""
    cell = "a cell " if len(costs) > 1 else ""
    hours = ", ".join(
        f"{format_range([cost.hours[card] for cost in costs], format_hours)} on {title}"
        for card, title in CARDS.items()
    )
    memory = format_range([cost.memory for cost in costs], format_size)
    outputs, downloads = (
        format_range([max(values)], format_size)
        for values in (
            [cost.outputs for cost in costs],
            [cost.downloads for cost in costs],
        )
    )
    unknown = " and archives of unknown size" if any(cost.lacks_size for cost in costs) else ""
    most = "a cell at most " if cell else ""
    lines = {
        "Hours": f"{cell}{hours} {MARK}.",
        "Memory": f"{memory} {MARK}.",
        "Disk": f"{most}{outputs} plus {downloads}{unknown} of downloads {MARK}.",
    }
    for heading, line in lines.items():
        pattern = rf"^# {heading}: .*?\(plan\)\.(?P<more>.*)$"  # what follows is kept
        text, count = re.subn(pattern, rf"# {heading}: {line}\g<more>", text, flags=re.M)
        if count != 1:
            raise ValueError(f"an opening has {count} lines '# {heading}:'")
    return text


def format_range(values: Sequence[float], format_value: Callable[[float], str]) -> str:
    """Least and most, or one of them where they read the same; a unit once."""
    low, high = format_value(min(values)), format_value(max(values))
    if low == high:
        return low
    number, _, unit = low.partition(" ")
    return f"{number if high.endswith(unit) else low} to {high}"


def format_hours(hours: float) -> str:
    """Hours, or minutes below one, with two digits."""
    return f"{_round(hours)} h" if hours >= 1 else f"{_round(60 * hours)} min"


def format_size(num_bytes: float) -> str:
    """GB, or TB from a thousand on, with two digits."""
    if num_bytes >= 1e12:
        return f"{_round(num_bytes / 1e12)} TB"
    return f"{_round(num_bytes / 1e9)} GB"


def _round(number: float) -> str:
    """Two digits, all of a larger one."""
    return f"{number:.0f}" if number >= 10 else f"{number:.2g}"


if __name__ == "__main__":
    sys.exit(main())
