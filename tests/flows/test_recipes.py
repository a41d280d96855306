"""Every recipe: its opening, its cells, and each of its shapes from features to metrics at tiny
size.
"""

from __future__ import annotations

import contextlib
import json
import re
import shlex
from pathlib import Path

import pytest

from components.model.speech_llm import SpeechLLM
from components.plan import recipe
from components.plan.recipe import RecipeCell
from flows import compare
from tests import world

from .conftest import ROOT
from .miniature import (
    LAYOUT,
    STEPS,
    Miniature,
    miniature,
    starts_from_decoder,
    write_shards,
    write_workspace,
)

# Of a paper, so their size and price must be in the opening; the others run on two cores.
PAPERS = (
    "event-encoder",
    "fathullah",
    "laura",
    "parakeet",
    "li-",
    "pham",
    "qwen-audio",
    "salmonn",
    "slam-asr",
    "speech",
    "yu",
)
FACTS = ("Source", "WER", "GPUs", "Hours", "Memory", "Disk", "Ours")


def cells() -> dict[str, RecipeCell]:
    """Every cell of every recipe by the experiment's name."""
    with contextlib.chdir(ROOT):
        return {
            "-".join(filter(None, (name, cell.name))): cell
            for name in recipe.list_names()
            for cell in recipe.expand(recipe.read_recipe(name))
        }


def shapes() -> dict[str, Miniature]:
    """The first cell of each shape at tiny size: every other cell differs from one of them in names
    and sizes only.
    """
    first_cells: dict[str, tuple[str, Miniature]] = {}
    with contextlib.chdir(ROOT):
        for name, cell in cells().items():
            small = miniature(cell)
            first_cells.setdefault(small.key, (name, small))
    return dict(first_cells.values())


RECIPES = sorted(path.stem for path in (ROOT / "flows/recipes").glob("*.yaml"))
SHAPES = shapes()


@pytest.mark.parametrize("name", RECIPES)
def test_a_recipe_opens_with_its_launch_line_and_its_cost(name: str) -> None:
    lines = (ROOT / f"flows/recipes/{name}.yaml").read_text().splitlines()
    opening = lines[: next(number for number, line in enumerate(lines) if not line.startswith("#"))]
    assert opening[:2] == [f"# python -m flows.compare {name}", "#"] and len(opening) > 2
    if name.startswith(PAPERS) and name != "slam-asr-released":
        headings = re.findall(r"^# (\w+): \S", "\n".join(opening), re.MULTILINE)
        assert headings == list(FACTS)
        assert "PLAN" not in "".join(opening)


@pytest.mark.parametrize("name", RECIPES)
def test_every_cell_is_valid_and_printed_by_a_dry_run(
    name: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(ROOT)
    assert compare.main([name, "--dry-run"]) == 0, capsys.readouterr().err
    lines = capsys.readouterr().out.splitlines()
    names = [shlex.split(line)[5] for line in lines]
    assert names == [
        "-".join(filter(None, (name, cell.name)))
        for cell in recipe.expand(recipe.read_recipe(name))
    ]
    assert all(line.startswith("dvc exp run --queue -n ") for line in lines)


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("shards")
    with contextlib.chdir(folder):
        write_shards()
    return folder / "data/shards"


@pytest.mark.slow
@pytest.mark.parametrize("name", SHAPES)
def test_a_shape_runs_from_features_to_metrics(
    name: str, shards: Path, tmp_path: Path, work: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Trained as its cell says, decoded in every system, scored on every set."""
    small, folder = SHAPES[name], tmp_path / "cell"
    write_workspace(small, shards, folder)
    for key, value in {
        "LIBRETTO_WORKERS": "1",
        "LIBRETTO_DEVICE": "cpu",
        "LIBRETTO_MODELS": str(folder / "models"),
    }.items():
        monkeypatch.setenv(key, value)
    monkeypatch.chdir(folder)
    for role in LAYOUT:
        if role != "noise":
            world.run("features", role)
    for stage in ("ctc", "units", "train", "decode", "score"):
        world.run(stage)
    trained = json.loads(Path("metrics/train.json").read_text())["steps"]
    released = "weights" in small.entries["projector"]
    assert trained == (0 if released else STEPS * len(small.params["train"]["curriculum"]))
    tuned = (
        set()
        if released
        else {part for stage in small.params["train"]["curriculum"] for part in stage["tune"]}
    )
    model = SpeechLLM.load(Path("models/bridge"), world.ENCODER, world.LLM, "cpu")
    assert set(model.lora_wrappers) == {
        side for part, side in (("lora", "llm"), ("encoder-lora", "encoder")) if part in tuned
    }
    assert {
        side for side in ("llm", "encoder") if Path(f"models/bridge/{side}.safetensors").is_file()
    } == tuned & {"llm", "encoder"}
    scores = json.loads(Path("metrics/score.json").read_text())
    systems = set(small.params["decode"]["sets"])
    beside = {"ctc", "whisper"} if starts_from_decoder(small.entries["projector"]) else {"ctc"}
    for source in [*LAYOUT["dev"], *LAYOUT["test"]]:
        llm_scores = scores[source].pop("llm", None)
        assert (llm_scores is not None) == small.params["decode"]["perplexity"]
        assert llm_scores is None or llm_scores["perplexity"] > 1
        assert set(scores[source]) == systems | beside, "the baselines beside the LLM"
        assert all(score["words"] > 0 and score["wer"] >= 0 for score in scores[source].values())
    assert all(systems <= set(scores[source]) for source in LAYOUT["nonspeech-test"])
