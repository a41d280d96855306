"""A published recipe as a user runs it: from a folder in LibriSpeech's layout to a table of two
LLMs, on tiny checkpoints under the names of real ones, on any number of ranks.
"""

from __future__ import annotations

import csv
import json
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
import yaml
from safetensors.torch import load_file

from tests.corpus.clips import write_librispeech
from tests.model.hub_server import Hub, serving

from .pairs import PHI, VICUNA, TinyEncoder, offer, publish
from .project import Project, create_project

pytestmark = pytest.mark.slow
ENCODER = TinyEncoder("whisper-large-v2", "whisper", "whisper", 48)
RECIPE = ("slam-asr-table-3", "--only", PHI.name)
SUBSETS = {"train-clean-100": 8, "train-clean-360": 8, "train-other-500": 8}
TESTED = {"dev-other": 6, "test-clean": 4, "test-other": 4}
WORDS = ["AMBER", "BIRCH", "CEDAR", "DELTA", "EMBER", "FJORD", "GROVE", "HAZEL"]


@dataclass
class FullSize:
    """The workspace after the recipe has run, and what was printed."""

    project: Project
    variables: dict[str, str]
    printed: str  # by libretto use
    output: str  # of dvc repro


def put_librispeech(root: Path) -> None:
    """Every subset of the corpus, with two speakers each."""
    for number, (subset, count) in enumerate((SUBSETS | TESTED).items()):
        texts = {
            f"{10 * number + index % 2 + 1}-{number}-{index:04d}": " ".join(
                WORDS[(index + step) % len(WORDS)] for step in range(2)
            )
            for index in range(count)
        }
        write_librispeech(root, texts, subset, seed=100 * number)


def libretto(project: Project, *arguments: str, **variables: str) -> str:
    """Runs the command; returns its output."""
    done = project.run(sys.executable, "-m", "libretto", *arguments, **variables)
    return done.stdout + done.stderr


def commit(project: Project, message: str) -> None:
    project.run("git", "add", "-A")
    project.run("git", "commit", "-qm", message)


@pytest.fixture(scope="module")
def hub() -> Iterator[Hub]:
    with serving() as hub:
        yield hub


@pytest.fixture(scope="module")
def full_size(hub: Hub, tmp_path_factory: pytest.TempPathFactory) -> FullSize:
    """Do not change it."""
    folder = tmp_path_factory.mktemp("full-size")
    project = create_project(folder / "project", folder / "work")
    for model in (ENCODER, PHI, VICUNA):
        checkpoint = publish(folder / "remote" / model.name, model)
        hub.repositories[offer(project, model, checkpoint)] = checkpoint
    path = project.folder / "catalogue/corpus.yaml"
    corpora = yaml.safe_load(path.read_text())
    for role in ("nonspeech-train", "nonspeech-test"):
        for settings in corpora["librispeech"][role].values():
            settings["clips"] = 4
    path.write_text(yaml.safe_dump(corpora, sort_keys=False))
    put_librispeech(folder / "LibriSpeech")
    variables = {
        "HF_ENDPOINT": hub.address,
        "HF_HOME": str(folder / "hf"),
        "HF_HUB_CACHE": str(folder / "hf/hub"),
        "HF_TOKEN": "",
        "HF_HUB_OFFLINE": "0",
        "NO_PROXY": "127.0.0.1,localhost",
        "LIBRETTO_WORKERS": "1",
        "LIBRETTO_DEVICE": "cpu",
        "LIBRETTO_ROOT_LIBRISPEECH": str(folder / "LibriSpeech"),
    }
    libretto(project, "scan", "--corpus", "librispeech", **variables)
    commit(project, "LibriSpeech")
    printed = libretto(project, "use", *RECIPE, **variables)
    commit(project, "Put the recipe on")
    return FullSize(project, variables, printed, project.dvc("repro", **variables))


def test_one_command_puts_the_training_of_the_paper_on(full_size: FullSize) -> None:
    """What changes and what it costs is printed; the run has the epochs of the recipe, every set is
    scored, and nothing is left to do.
    """
    project = full_size.project
    assert "+corpus: librispeech" in full_size.printed
    assert "WARNING" not in full_size.printed
    params = project.params()
    assert [params[key] for key in ("corpus", "encoder", "llm")] == [
        "librispeech",
        ENCODER.name,
        PHI.name,
    ]
    training = json.loads((project.folder / "metrics/train.json").read_text())
    assert training["epochs"] == {"projector": 3.0}
    assert {"features@train", "train", "decode", "score"} <= project.ran(full_size.output)
    assert {"dev-other", "test-clean", "test-other"} <= set(project.scores())
    assert "up to date" in project.dvc("status", **full_size.variables)


def test_two_llms_make_one_table(full_size: FullSize, tmp_path: Path) -> None:
    """They share encoder, shards and frames; the table says how long each has trained."""
    project = full_size.project.copy(tmp_path / "project")
    variables = full_size.variables | {"PREFECT_HOME": str(tmp_path / "prefect")}
    names = ("--llm", PHI.name, VICUNA.name)
    done = project.run(
        sys.executable, "-m", "flows.compare", *names, "--no-plan", check=False, **variables
    )
    assert done.returncode == 0, done.stderr[-3000:]
    table = [line for line in done.stdout.splitlines() if line.startswith("compare-")]
    first = [line for line in table if "test-clean" in line or "done" in line]
    assert {line.split()[0] for line in first} == {f"compare-{PHI.name}", f"compare-{VICUNA.name}"}
    assert "3.00" in done.stdout
    assert "epochs" in done.stdout


def test_any_number_of_ranks_trains_the_same(full_size: FullSize, tmp_path: Path) -> None:
    """The batch of a step has eight parts, whatever the number of ranks; the order of their sum is
    all that differs.
    """
    start = load_file(full_size.project.folder / "models/bridge/projector.safetensors")
    weights, losses = {}, {}
    for ranks in (1, 2, 8):
        project = full_size.project.copy(tmp_path / f"{ranks}", tmp_path / f"work-{ranks}")
        # Steps that move the weights: the recipe has made three of the thousand of its warm-up.
        project.set(train__curriculum__0__warmup=0, train__curriculum__0__learning_rate=0.01)
        # In fp32: where rounding turns a value of bfloat16, its error is 4e-3 and not 1e-7.
        catalogue = project.folder / "catalogue/llm.yaml"
        entries = yaml.safe_load(catalogue.read_text())
        entries[PHI.name]["numerics"]["dtype"] = "float32"
        catalogue.write_text(yaml.safe_dump(entries, sort_keys=False))
        arguments = ("--encoder", ENCODER.name, "--projector", "linear", "--llm", PHI.name)
        variables = full_size.variables | {"LIBRETTO_WORKERS": str(ranks)}
        project.run(sys.executable, "-m", "components.train", *arguments, **variables)
        weights[ranks] = load_file(project.folder / "models/bridge/projector.safetensors")
        losses[ranks] = curve(project)
    for name, tensor in weights[1].items():
        assert (tensor - start[name]).abs().mean() > 0.005
        for ranks in (2, 8):
            difference = (weights[ranks][name] - tensor).abs()
            assert difference.mean() < 1e-4, (ranks, name)
    assert losses[2] == pytest.approx(losses[1], rel=1e-5)
    assert losses[8] == pytest.approx(losses[1], rel=1e-5)


def curve(project: Project) -> list[float]:
    """The loss of each step."""
    with (project.folder / "metrics/curve.csv").open(newline="") as stream:
        return [float(row["loss"]) for row in csv.DictReader(stream)]


def test_more_ranks_than_parts_stop_before_any_work(full_size: FullSize, tmp_path: Path) -> None:
    """By the plan, and by the first stage of a bare ``dvc repro``."""
    project = full_size.project.copy(tmp_path / "project", tmp_path / "work")
    variables = full_size.variables | {"LIBRETTO_WORKERS": "16", "LIBRETTO_ENGINE": "ddp"}
    plan = project.run(sys.executable, "-m", "components.plan", check=False, **variables)
    assert plan.returncode == 2 and "train.micro_batches" in plan.stderr
    project.set(features__batch_seconds=60)
    output = project.dvc("repro", "features@train", check=False, **variables)
    assert "train.micro_batches" in output
    assert not (tmp_path / "work/features").exists()
