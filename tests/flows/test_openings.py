"""The opening of a recipe has the figures of today's plan: hours of the cheapest and the dearest
cell, memory.
"""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from components.config.params import read_overridden_params
from components.plan import recipe as recipes
from components.plan.load import read_gpu
from components.plan.networks import read_networks
from components.plan.run import estimate_loads
from components.plan.speech import list_audio
from tests.conftest import REPOSITORY

EMBEDDED = {
    "embedded",
    "smoke",
    "recorded",
    "conditions",
    "llms",
    "digits",
    "embedded-ablation",
}  # on a processor, in minutes or a few hours
HEADINGS = ("Source", "WER", "GPUs", "Hours", "Memory", "Disk", "Ours")
PLANNED = sorted(
    path.stem
    for path in (REPOSITORY / recipes.FOLDER).glob("*.yaml")
    if "(plan)" in path.read_text()
)


def read_heading(name: str, heading: str) -> str:
    """The text after a heading of the opening."""
    return re.findall(
        rf"^# {heading}: (.*)$", Path(f"{recipes.FOLDER}/{name}.yaml").read_text(), re.MULTILINE
    )[0]


def extremes(text: str) -> list[float]:
    """Least and most of the numbers in a text."""
    numbers = [float(number) for number in re.findall(r"(?<![\w.])\d+(?:\.\d+)?", text)]
    return [min(numbers), max(numbers)]


def test_every_recipe_of_a_paper_opens_with_its_cost(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(REPOSITORY)
    assert {*PLANNED, *EMBEDDED} == set(recipes.list_names())
    for name in PLANNED:
        text = Path(f"{recipes.FOLDER}/{name}.yaml").read_text()
        assert text.startswith(f"# python -m flows.compare {name}\n")
        assert [
            heading for heading in HEADINGS if not re.search(rf"^# {heading}: ", text, re.MULTILINE)
        ] == [], name


@pytest.mark.parametrize("name", PLANNED)
def test_hours_and_memory_are_those_of_the_plan(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(REPOSITORY)
    hours: dict[str, list[float]] = {"h200": [], "a100-80gb": []}
    memory = []
    for cell in recipes.expand(recipes.read_recipe(name)):
        params = read_overridden_params(cell.overrides, name)
        loads = estimate_loads(params, read_networks(params), list_audio(params.corpus), {})
        memory.append(max(load.peak_bytes for load in loads) / 1e9)
        for card, totals in hours.items():
            totals.append(sum(load.estimate_hours(read_gpu(card)) or 0 for load in loads))
    h200, a100 = read_heading(name, "Hours").split("on an H200")
    assert extremes(h200) == pytest.approx([min(hours["h200"]), max(hours["h200"])], rel=0.05)
    assert extremes(a100.split("on an A100")[0]) == pytest.approx(
        [min(hours["a100-80gb"]), max(hours["a100-80gb"])], rel=0.05
    )
    assert extremes(read_heading(name, "Memory")) == pytest.approx(
        [min(memory), max(memory)], rel=0.05
    )
