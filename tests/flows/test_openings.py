"""The opening of a recipe has the figures of today's plan: hours of the cheapest and the dearest
cell, memory.
"""

from __future__ import annotations

import contextlib
import re
import runpy
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest

from components.plan import recipe as recipes
from tests.conftest import REPOSITORY

EMBEDDED = {
    "embedded",
    "smoke",
    "recorded",
    "conditions",
    "llms",
    "digits",
    "embedded-ablation",
    "embedded-matching",
    "human",
}  # on a processor, in minutes or a few hours
HEADINGS = ("Source", "WER", "GPUs", "Hours", "Memory", "Disk", "Ours")
PLANNED = sorted(
    path.stem
    for path in (REPOSITORY / recipes.FOLDER).glob("*.yaml")
    if "(plan)" in path.read_text()
)


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


@pytest.fixture(scope="module")
def generator() -> Iterator[SimpleNamespace]:
    with contextlib.chdir(REPOSITORY):
        yield SimpleNamespace(**runpy.run_path("docs/recipes.py"))


@pytest.mark.parametrize("name", PLANNED)
def test_the_cost_in_an_opening_is_that_of_the_plan(
    name: str, generator: SimpleNamespace, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(REPOSITORY)
    text = (recipes.FOLDER / f"{name}.yaml").read_text()
    assert generator.with_cost(text, generator.list_costs(name)) == text, "run 'make reference'"
