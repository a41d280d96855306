"""Recipes: what they expand to, and that a wrong one stops before any work."""

from __future__ import annotations

import contextlib
import shlex
import shutil
from pathlib import Path
from typing import Any

import pytest
import yaml
from hydra.core.override_parser.overrides_parser import OverridesParser
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from components.config import catalogue
from components.config.errors import InputError
from components.config.params import read_overridden_params
from components.plan import recipe
from components.plan.recipe import Recipe, RecipeCell
from flows import compare
from flows.comparison import add_published
from tests.conftest import REPOSITORY as ROOT
from tests.errors import refused


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of the parameters, the catalogue and the recipes, and nothing else."""
    for name in ("params.yaml", "catalogue", "flows/recipes"):
        source, target = ROOT / name, tmp_path / name
        shutil.copytree(source, target) if source.is_dir() else shutil.copy(source, target)
    monkeypatch.chdir(tmp_path)
    return tmp_path


RECIPES = sorted(path.stem for path in (ROOT / "flows/recipes").glob("*.yaml"))


@pytest.mark.parametrize("name", RECIPES)
def test_every_recipe_is_valid_and_opens_with_its_launch_line(
    root: Path, name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    first = (root / "flows/recipes" / f"{name}.yaml").read_text().splitlines()[0]
    assert first == f"# python -m flows.compare {name}"
    assert compare.main([name, "--dry-run"]) == 0, capsys.readouterr().err
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == len(recipe.expand(recipe.read_recipe(name)))
    assert all(shlex.split(line)[:5] == ["dvc", "exp", "run", "--queue", "-n"] for line in lines)


def test_grid_is_every_combination_on_top_of_the_overrides() -> None:
    cells = recipe.expand(
        Recipe(
            overrides={"llm": "z", "shards.utterances": 9},
            grid={"llm": ["a", "b"], "train.seed": [1, 2]},
        )
    )
    assert [cell.name for cell in cells] == ["a-1", "a-2", "b-1", "b-2"]
    assert cells[2].overrides == {"llm": "b", "shards.utterances": 9, "train.seed": 1}


def test_an_axis_of_a_grid_may_have_overrides_by_name() -> None:
    grid = {"llm": ["a"], "tuned": {"frozen": {}, "lora": {"train.seed": 2, "train.lora.rank": 4}}}
    cells = recipe.expand(Recipe(overrides={"train.seed": 1}, grid=grid))
    assert {cell.name: cell.overrides for cell in cells} == {
        "a-frozen": {"train.seed": 1, "llm": "a"},
        "a-lora": {"train.seed": 2, "llm": "a", "train.lora.rank": 4},
    }


def test_an_element_that_one_cell_changes_stays_in_the_others(root: Path) -> None:
    stage = yaml.safe_load((root / "params.yaml").read_text())["train"]["curriculum"][0]
    grid = {"tuned": {"long": {"train.curriculum.0.steps": 7}, "short": {}}}
    cells = recipe.expand(Recipe(overrides={"train.curriculum": [stage]}, grid=grid))
    for cell in cells:
        recipe.check_cell(cell)
    assert [
        read_overridden_params(cell.overrides, "").train.curriculum[0].steps for cell in cells
    ] == [
        7,
        stage["steps"],
    ]
    assert all(cell.overrides["train.curriculum"] == [stage] for cell in cells)


PUBLISHED = """
overrides: {corpus: librispeech}
cells: {a: {}, b: {train.seed: 2}}
published:
  source: a paper
  grade: read
  wer: {CELL: {SET: 1.5}}
"""


@pytest.mark.parametrize(
    ("cell", "name", "subject"), [("c", "test-clean", "'c'"), ("a", "test-clear", "'test-clear'")]
)
def test_published_figures_of_no_cell_or_no_set_stop(
    root: Path, cell: str, name: str, subject: str, capsys: pytest.CaptureFixture[str]
) -> None:
    (root / "flows/recipes/paper.yaml").write_text(
        PUBLISHED.replace("CELL", cell).replace("SET", name)
    )
    assert compare.main(["paper", "--dry-run"]) == 2
    assert subject in capsys.readouterr().err


@pytest.mark.parametrize(
    ("others", "subject"),
    [("{a: {test-clean: 2.0}}", "'a'"), ("{zipformer: {test-clear: 2.0}}", "'test-clear'")],
)
def test_others_that_are_a_cell_or_of_no_set_stop(
    root: Path, others: str, subject: str, capsys: pytest.CaptureFixture[str]
) -> None:
    text = (
        PUBLISHED.replace("CELL", "a").replace("SET", "test-clean") + f"  other_systems: {others}\n"
    )
    (root / "flows/recipes/paper.yaml").write_text(text)
    assert compare.main(["paper", "--dry-run"]) == 2
    assert subject in capsys.readouterr().err


def test_others_are_rows_with_published_figures_alone() -> None:
    cells = {"paper-a": RecipeCell("a", {}, {"test-clean": 1.5})}
    rows = add_published(
        [{"experiment": "paper-a", "state": "done", "test-clean/free": "1.62"}],
        cells,
        {"zipformer": {"test-clean": 2.0, "test-other": 4.4}},
    )
    assert rows == [
        {
            "experiment": "paper-a",
            "state": "done",
            "test-clean/free": "1.62",
            "test-clean published": "1.50",
            "test-other published": "-",
        },
        {
            "experiment": "zipformer",
            "state": "published",
            "test-clean published": "2.00",
            "test-other published": "4.40",
        },
    ]


def test_a_recipe_without_grid_or_cells_is_one_experiment() -> None:
    assert recipe.expand(Recipe(overrides={"train.seed": 2})) == [RecipeCell("", {"train.seed": 2})]


def test_two_cells_of_one_name_are_refused() -> None:
    with pytest.raises(InputError) as caught:
        recipe.expand(Recipe(grid={"corpus": ["a/b", "a-b"]}))
    assert caught.value.subject == "grid"
    assert caught.value.hint


def test_a_recipe_with_grid_and_cells_is_refused(root: Path) -> None:
    (root / "flows/recipes/both.yaml").write_text("grid: {llm: [a]}\ncells: {x: {llm: b}}\n")
    with pytest.raises(InputError) as caught:
        recipe.read_recipe("both")
    assert caught.value.subject == "both"
    assert caught.value.hint


WRONG: list[tuple[dict[str, Any], str]] = [
    ({"trian.seed": 1}, "'train'"),
    ({"train.sede": 1}, "'seed'"),
    ({"train.curriculum.9.steps": 1}, "train.curriculum.9"),
    ({"train.curriculum.0.step": 1}, "'steps'"),
    ({"train.seed.more": 1}, "'more'"),
    ({"train.seed": "many"}, "train.seed"),
    ({"train.micro_batches": 0}, "train.micro_batches"),
    ({"projector": "linear-k4"}, "'linear-k3'"),
]


@pytest.mark.parametrize(
    ("overrides", "name"),
    WRONG,
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
)
def test_wrong_override_stops_with_the_nearest_name(
    root: Path, overrides: dict[str, Any], name: str
) -> None:
    with pytest.raises(InputError) as caught:
        recipe.check_cell(RecipeCell("", overrides))
    assert name in str(caught.value)
    assert "/tmp" not in str(caught.value)


def test_one_wrong_cell_stops_all_before_any_work(
    root: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (root / "flows/recipes/bad.yaml").write_text(
        "cells: {good: {train.seed: 2}, bad: {train.sed: 2}}\n"
    )
    assert compare.main(["bad"]) == 2  # there is no repository here: work would fail otherwise
    assert "'seed'" in capsys.readouterr().err


def test_unknown_recipe_and_cell_name_the_nearest(
    root: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert compare.main(["digit"]) == 2
    assert "'digits'" in capsys.readouterr().err
    assert compare.main(["digits", "--only", "george-plan", "--dry-run"]) == 2
    assert "'george-plain'" in capsys.readouterr().err


def test_only_runs_one_cell(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (root / "flows/recipes/trial.yaml").write_text(
        "cells: {slow: {train.seed: 2}, fast: {train.curriculum.0.steps: 3, train.seed: 1}}\n"
    )
    assert compare.main(["trial", "--only", "fast", "--dry-run"]) == 0
    assert (
        capsys.readouterr().out
        == "dvc exp run --queue -n trial-fast -S train.curriculum.0.steps=3 -S train.seed=1\n"
    )


def test_names_on_the_command_line_are_a_grid(
    root: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    llms = catalogue.names("llm")[:2]
    assert compare.main(["--llm", *llms, "--projector", "linear", "--dry-run"]) == 0
    assert capsys.readouterr().out.splitlines() == [
        f"dvc exp run --queue -n compare-linear-{name} -S projector=linear -S llm={name}"
        for name in llms
    ]


def test_neither_recipe_nor_names_is_refused(root: Path) -> None:
    with pytest.raises(SystemExit) as caught:
        compare.main([])
    assert caught.value.code == 2


SCALARS = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False)
    | st.text(st.characters(codec="utf-8", exclude_characters="$\n\r"))
)
VALUES = st.recursive(
    SCALARS,
    lambda inner: st.lists(inner) | st.dictionaries(st.from_regex(r"\A[a-z][a-z_]{0,8}\Z"), inner),
)


@settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(VALUES)
@example("it\\'s")
@example("at the end\\")
@example(["null", "1", "a,b", "True", "NaN"])
def test_values_survive_the_grammar_of_overrides(value: Any) -> None:
    parsed = OverridesParser.create().parse_override(f"key={recipe.format_value(value)}")
    assert plain(parsed.value()) == value


def plain(value: Any) -> Any:
    """Quoted strings, and keys that the parser takes for null or numbers, as plain data."""
    if isinstance(value, dict):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, list):
        return [plain(item) for item in value]
    return getattr(value, "text", value) if not isinstance(value, str) else value


def test_an_unknown_key_of_a_recipe_is_refused(root: Path) -> None:
    (root / "flows/recipes/odd.yaml").write_text(yaml.safe_dump({"overides": {}}))
    with pytest.raises(InputError) as caught:
        recipe.read_recipe("odd")
    assert "overides" in caught.value.subject
    assert "overrides" in str(caught.value)


@pytest.mark.parametrize("on", ["yu-segment-qformer", "pham", "slam-asr-table-3"])
def test_a_recipe_means_the_same_whatever_is_put_on(root: Path, on: str) -> None:
    """Nothing of the parameters that are in force stays in its cells, but for a recipe that counts
    from them.
    """
    cell = recipe.expand(recipe.read_recipe("slam-asr"))[0]
    before = read_overridden_params(cell.overrides, "").raw
    other = recipe.expand(recipe.read_recipe(on))[0]
    changed = read_overridden_params(other.overrides, "").raw
    (root / "params.yaml").write_text(yaml.safe_dump(changed))
    assert read_overridden_params(cell.overrides, "").raw != before
    based = recipe.place_on_base(recipe.read_recipe("slam-asr"), [cell])
    assert read_overridden_params(based[0].overrides, "").raw == before
    assert recipe.place_on_base(Recipe(base="params.yaml"), [cell]) == [cell]


def test_the_own_cell_of_a_recipe_is_chosen_by_its_name(
    root: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (root / "flows/recipes/trial.yaml").write_text('cells: {"": {train.seed: 2}, other: {}}\n')
    assert compare.main(["trial", "--only", "trial", "--dry-run"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[5] for line in lines] == ["trial"]
    assert "train.seed=2" in lines[0]


def test_a_recipe_that_is_put_on_is_not_suggested(root: Path) -> None:
    cells = {cell.name: cell for cell in recipe.expand(recipe.read_recipe("fathullah-strides"))}
    params = read_overridden_params(cells["stack-linear-n3"].overrides, "")
    assert not recipe.suggest_recipe(params).startswith("fathullah-strides --only stack-linear-n3")


def test_a_parameter_that_the_default_lacks_stops(root: Path) -> None:
    """It could not be taken back by an override."""
    raw = yaml.safe_load((root / "params.yaml").read_text())
    raw["decode"]["sets"]["mine"] = raw["decode"]["sets"]["free"]
    (root / "params.yaml").write_text(yaml.safe_dump(raw))
    with refused("decode.sets.mine.beams"):
        recipe.overrides_to_default()


def test_the_default_recipe_is_what_the_repository_runs() -> None:
    with contextlib.chdir(ROOT):
        assert recipe.overrides_to_default() == {}
