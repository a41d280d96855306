"""The command ``libretto``: what it starts, what it needs, and that help costs no library."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml

from components import clean
from components.config.errors import InputError
from components.config.params import read_params
from components.runtime.stage import error_path
from components.text.forms import FORMS
from libretto import environment, pipeline, recipes, scores
from libretto.commands import COMMANDS, INTERRUPTED, run_command
from libretto.workspace import check_checkout
from tests.conftest import REPOSITORY

HEAVY = ["torch", "transformers", "dvc", "prefect", "numpy", "pyarrow", "pydantic", "yaml", "shtab"]
BLOCK = """
import sys
for name in {blocked}:
    sys.modules[name] = None
import libretto
from libretto.__main__ import main
sys.exit(main({arguments}))
"""
HELP = """
import sys
for name in {blocked}:
    sys.modules[name] = None
from libretto.commands import COMMANDS, INTERRUPTED, run_command
assert not any(run_command([name, "--help"]) for name in COMMANDS)
"""


@pytest.mark.parametrize("arguments", [["--help"], ["--version"]])
def test_help_and_version_load_no_library(arguments: list[str]) -> None:
    script = BLOCK.format(blocked=HEAVY, arguments=arguments)
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, cwd=REPOSITORY
    )
    assert done.returncode == 0, done.stderr
    assert "libretto" in done.stdout


def test_help_names_every_command(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="0"):
        run_command(["--help"])
    text = capsys.readouterr().out
    assert {
        "run",
        "plan",
        "use",
        "transcribe",
        "export",
        "score",
        "compare",
        "fetch",
        "fetch-models",
        "scan",
        "clean",
    } <= COMMANDS.keys()
    assert all(f"  {name} " in text for name in COMMANDS)


def test_the_help_of_every_command_needs_no_large_library() -> None:
    script = HELP.format(blocked=HEAVY[:4])
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, cwd=REPOSITORY
    )
    assert done.returncode == 0, done.stderr
    assert all(f"usage: libretto {name}" in done.stdout for name in COMMANDS)


def test_without_a_command_help_goes_to_standard_error(capsys: pytest.CaptureFixture[str]) -> None:
    assert run_command([]) == 2
    assert "COMMAND" in capsys.readouterr().err


def test_an_unknown_command_names_the_nearest_one(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="2"):
        run_command(["transcrib", "talk.wav"])
    assert "'transcribe'" in capsys.readouterr().err


@pytest.mark.parametrize(
    "name", [command.name for command in COMMANDS.values() if command.needs_workspace]
)
def test_a_command_of_a_workspace_says_so_elsewhere(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert run_command([name]) == 2
    assert "dvc.yaml" in capsys.readouterr().err


def test_an_installed_package_without_flows_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("libretto.workspace.find_spec", lambda name: None)
    with pytest.raises(InputError) as raised:
        check_checkout("compare")
    assert raised.value.subject == "flows"
    assert raised.value.hint


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_completion_knows_commands_and_options(
    shell: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(REPOSITORY)
    assert run_command(["completion", shell]) == 0
    script = capsys.readouterr().out
    assert all(name in script for name in COMMANDS)
    assert "no-plan" in script
    if shell == "bash" and shutil.which("bash"):
        subprocess.run(["bash", "-n"], input=script, text=True, check=True)


@pytest.mark.parametrize(
    "arguments", [["completion", "bash"], *([name, "--help"] for name in COMMANDS)], ids=" ".join
)
def test_completion_and_help_need_no_workspace(
    arguments: list[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    assert run_command(arguments) == 0
    assert "libretto" in capsys.readouterr().out


def test_a_workspace_runs_its_own_code(tmp_path: Path) -> None:
    """As the installed command does, whose package is another one than that of the workspace."""
    (tmp_path / "command.py").write_text("from libretto.__main__ import main\nmain(['own'])\n")
    folder = tmp_path / "workspace"
    (folder / "components").mkdir(parents=True)
    (folder / "components/own.py").write_text("NAME = 'of components'\n")
    (folder / "components/__init__.py").touch()
    (folder / "libretto").mkdir()
    (folder / "libretto/workspace.py").write_text("NAME = 'of libretto'\n")
    (folder / "libretto/commands.py").write_text(
        "from components import own\nfrom libretto import workspace\n"
        "def run_command(arguments):\n    print(own.NAME, workspace.NAME, arguments)\n"
    )
    (folder / "dvc.yaml").touch()
    done = subprocess.run(
        [sys.executable, str(tmp_path / "command.py")],
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": str(REPOSITORY)},
        cwd=folder,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout == "of components of libretto ['own']\n"


def test_cleaning_with_a_wrong_setting_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LIBRETTO_WORK_GB", "-1")
    assert clean.main([]) == 2


# score


def test_two_files_are_scored(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "reference.tsv").write_text("a\tthe cat sat\nb\tGOOD morning\n")
    (tmp_path / "hypothesis.tsv").write_text("b\tgood mourning\na\tthe cat the cat sat\n")
    files = [str(tmp_path / name) for name in ("reference.tsv", "hypothesis.tsv")]
    assert run_command(["score", *files]) == 0
    text = capsys.readouterr().out
    assert "WER 60.00 %" in text
    assert "1 substitutions, 0 deletions, 2 insertions in 5 words" in text
    with pytest.raises(SystemExit, match="2"):
        run_command(["score", files[0]])
    (tmp_path / "hypothesis.tsv").write_text("c\tgood mourning\n")
    assert run_command(["score", *files]) == 2
    (tmp_path / "hypothesis.tsv").unlink()
    assert run_command(["score", *files]) == 2
    assert "hypothesis.tsv" in capsys.readouterr().err


def test_the_text_forms_of_the_command_are_those_of_the_scores() -> None:
    """The command has its own list, so that its help loads no library."""
    assert set(scores.TEXT_FORMS) == FORMS.keys()


def test_the_public_names_are_those_of_the_components() -> None:
    import libretto
    from components.score.error_rates import score
    from components.transcribe.transcriber import Transcriber

    assert libretto.Transcriber is Transcriber
    assert libretto.score is score
    assert libretto.__version__
    with pytest.raises(AttributeError):
        libretto.transcriber  # noqa: B018


# use


@pytest.fixture
def workspace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A repository with the parameters, the catalogue and the recipes of this one."""
    (tmp_path / ".dvc").mkdir()
    for name in ("params.yaml", "dvc.yaml", ".dvc/config"):
        shutil.copy(REPOSITORY / name, tmp_path / name)
    for name in ("catalogue", "flows/recipes"):
        shutil.copytree(REPOSITORY / name, tmp_path / name)
    for command in (["init", "-q"], ["add", "."], ["commit", "-q", "-m", "start"]):
        subprocess.run(
            ["git", "-c", "user.name=a", "-c", "user.email=a@b.c", *command],
            cwd=tmp_path,
            check=True,
        )
    monkeypatch.chdir(tmp_path)
    return tmp_path


def changed_lines(folder: Path) -> list[str]:
    done = subprocess.run(
        ["git", "diff", "-U0"], cwd=folder, capture_output=True, text=True, check=True
    )
    return [line for line in done.stdout.splitlines() if line[:1] in "+-" and line[:3] != "+++"]


def test_a_recipe_is_written_into_the_parameters(workspace: Path) -> None:
    assert run_command(["use", "smoke"]) == 0
    params = read_params()
    assert (params.corpus, params.encoder, params.llm) == (
        "spoken-smoke",
        "ctc-smoke",
        "llama-smoke",
    )
    assert [stage.steps for stage in params.train.curriculum] == [100, 100]
    before = yaml.safe_load((REPOSITORY / "params.yaml").read_text())
    after = yaml.safe_load((workspace / "params.yaml").read_text())
    assert after["decode"] == before["decode"]
    added = [line for line in changed_lines(workspace) if line.startswith("+")]
    assert len(added) <= 10  # one line an override and that of the name, all others as they were
    assert any("# of catalogue/corpus.yaml" in line for line in added)


def test_a_changed_file_is_not_written_over(
    workspace: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    text = Path("params.yaml").read_text()
    changed = text.replace("spike: 0 ", "spike: 7 ")
    assert changed != text
    Path("params.yaml").write_text(changed)
    assert run_command(["use", "slam-asr"]) == 2
    assert "params.yaml" in capsys.readouterr().err
    assert Path("params.yaml").read_text() == changed
    assert run_command(["use", "slam-asr", "--on-top"]) == 0
    assert (read_params().llm, read_params().train.spike) == ("vicuna-7b", 7)


def test_a_recipe_replaces_another_one_and_the_default_comes_back(
    workspace: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Nothing of the first one stays, although nothing was committed between them."""
    before = Path("params.yaml").read_text()
    assert run_command(["use", "yu-segment-qformer", "--only", "fc"]) == 0
    assert read_params().train.concatenate.share == 0.5
    assert run_command(["use", "slam-asr"]) == 0
    params = read_params()
    assert (params.train.concatenate.share, params.llm) == (0, "vicuna-7b")
    assert run_command(["use", "embedded"]) == 0
    assert Path("params.yaml").read_text() == before
    assert not changed_lines(workspace)


def test_a_file_that_git_does_not_see_is_not_written_over(workspace: Path) -> None:
    """Ignored, or assumed to be unchanged: 'git diff' is silent about both."""
    git = ["git", "-c", "user.name=a", "-c", "user.email=a@b.c"]
    changed = Path("params.yaml").read_text().replace("spike: 0 ", "spike: 7 ")
    Path("params.yaml").write_text(changed)
    subprocess.run([*git, "update-index", "--assume-unchanged", "params.yaml"], check=True)
    assert run_command(["use", "slam-asr"]) == 2
    subprocess.run([*git, "rm", "-q", "--cached", "params.yaml"], check=True)
    Path(".gitignore").write_text("params.yaml\n")
    subprocess.run([*git, "commit", "-qm", "ignored"], check=True)
    assert run_command(["use", "slam-asr"]) == 2
    shutil.rmtree(".git")
    assert run_command(["use", "slam-asr"]) == 2
    assert Path("params.yaml").read_text() == changed
    Path("params.yaml").write_text((REPOSITORY / "params.yaml").read_text())
    assert run_command(["use", "slam-asr"]) == 0, "nothing is lost of a recipe"


def remove_set(text: str) -> str:
    params = yaml.safe_load(text)
    del params["decode"]["sets"]["constrained"]
    return yaml.safe_dump(params)


@pytest.mark.parametrize(
    ("recipe", "edit", "subject"),
    [
        ("smoke", str, "train.curriculum.1.steps"),
        ("slam-asr", remove_set, "decode.sets.constrained."),
        ("mistyped", str, "trian.seed"),
        ("scalar", str, "llm.rank"),
    ],
)
def test_a_recipe_that_does_not_fit_changes_nothing(
    recipe: str,
    edit: Callable[[str], str],
    subject: str,
    workspace: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    Path("flows/recipes/mistyped.yaml").write_text("overrides: {trian.seed: 2}\n")
    Path("flows/recipes/scalar.yaml").write_text("overrides: {llm.rank: 2}\n")
    assert run_command(["use", "slam-asr"]) == 0  # one stage of training
    text = edit(Path("params.yaml").read_text())
    Path("params.yaml").write_text(text)
    assert run_command(["use", recipe, "--on-top"]) == 2
    assert subject in capsys.readouterr().err
    assert Path("params.yaml").read_text() == text
    if recipe in ("mistyped", "scalar"):
        Path("params.yaml").write_text((REPOSITORY / "params.yaml").read_text())
        assert run_command(["use", recipe]) == 2


def test_a_file_that_is_not_yaml_is_named(
    workspace: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    Path("params.yaml").write_text("llm: [\n")
    assert run_command(["use", "slam-asr", "--on-top"]) == 2
    Path("params.yaml").unlink()
    assert run_command(["use", "slam-asr"]) == 2
    assert capsys.readouterr().err.count("params.yaml") >= 2


def test_the_title_of_a_recipe_on_top_is_not_that_of_the_recipe_alone(
    workspace: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    changed = Path("params.yaml").read_text().replace("spike: 0 ", "spike: 7 ")
    Path("params.yaml").write_text(changed)
    assert run_command(["use", "embedded", "--on-top"]) == 2
    assert Path("params.yaml").read_text() == changed
    for recipe in ("slam-asr", "slam-asr"):
        assert run_command(["use", recipe, "--on-top"]) == 0
        assert "'slam-asr on other parameters'" in capsys.readouterr().out
        first, *rest = Path("params.yaml").read_text().splitlines()
        assert first.startswith("# Recipe: slam-asr on other parameters ")
        assert not any(line.startswith("# Recipe:") for line in rest)
    assert run_command(["use", "smoke"]) == 2, "the change would be lost"
    subprocess.run(["git", "checkout", "-q", "params.yaml"], check=True)
    assert run_command(["use", "slam-asr", "--on-top"]) == 0
    assert Path("params.yaml").read_text().startswith("# Recipe: slam-asr ('libretto")


def test_numbers_are_written_as_numbers(workspace: Path) -> None:
    """A small one needs a point, or YAML 1.1 reads text."""
    assert run_command(["use", "pham"]) == 0
    raw = yaml.safe_load(Path("params.yaml").read_text())
    assert raw["train"]["encoder_lora"]["learning_rate"] == 0.00005
    assert raw["train"]["curriculum"][2]["learning_rate"] == 0.00002
    assert raw["train"]["prompt"] is None


def test_changes_on_top_of_a_recipe_of_ones_own_are_not_lost(workspace: Path) -> None:
    Path("flows/recipes/mine.yaml").write_text("base: params.yaml\noverrides: {train.spike: 7}\n")
    assert run_command(["use", "mine"]) == 0
    changed = Path("params.yaml").read_text().replace("  clip: 1.0 ", "  clip: 2.0 ")
    Path("params.yaml").write_text(changed)
    assert run_command(["use", "slam-asr"]) == 2
    assert Path("params.yaml").read_text() == changed


def test_the_cost_of_a_recipe_is_printed_before_it_is_written(
    workspace: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Also where this machine is too small for it: another one may run it."""
    assert run_command(["use", "slam-asr", "--dry-run"]) == 0
    printed = capsys.readouterr().out
    assert "+llm: vicuna-7b" in printed and "-llm: llama-tiny" in printed
    assert "34,593" in printed  # steps: three epochs of 960.9 h in batches of 300 s
    assert not changed_lines(workspace)


def test_of_several_cells_one_is_named(workspace: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run_command(["use", "llms"]) == 2
    assert "phi-tiny" in capsys.readouterr().err
    assert run_command(["use", "llms", "--only", "phi-tinny"]) == 2
    assert "phi-tiny" in capsys.readouterr().err
    assert run_command(["use", "llms", "--only", "phi-tiny", "--dry-run"]) == 0
    assert "+llm: phi-tiny" in capsys.readouterr().out
    assert not changed_lines(workspace)
    assert run_command(["use", "llms", "--only", "phi-tiny"]) == 0
    assert read_params().llm == "phi-tiny"


def test_every_recipe_is_listed_with_a_summary(workspace: Path) -> None:
    lines = recipes.recipe_lines()
    assert len(lines) == len(list((REPOSITORY / "flows/recipes").glob("*.yaml")))
    assert all(len(line.split()) > 3 for line in lines)


# run


def test_run_returns_what_a_failed_stage_recorded(
    workspace: Path, work: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """DVC returns 255 for every failure; the error record tells whether trying again can help."""
    monkeypatch.setattr(pipeline, "call_dvc", lambda *_: 255)
    assert pipeline.main(["--no-plan"]) == 255
    path = error_path("train")
    path.parent.mkdir(parents=True)
    path.write_text(json.dumps({"kind": "transient"}))
    assert pipeline.main(["--no-plan"]) == 75
    os.utime(path, (1, 1))  # of an earlier run
    assert pipeline.main(["--no-plan"]) == 255


def test_run_stops_before_the_plan_without_a_repository(
    workspace: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """As in the folder of a downloaded archive, or where Git is not installed."""
    monkeypatch.setattr("components.plan.__main__.main", lambda *_: pytest.fail("planned"))
    monkeypatch.setattr(pipeline, "call_dvc", lambda *_: pytest.fail("ran"))
    shutil.rmtree(".git")
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(workspace.parent))
    assert run_command(["run"]) == 2
    assert str(workspace) in capsys.readouterr().err
    monkeypatch.setattr(shutil, "which", lambda name: None)
    assert run_command(["run"]) == 2


def test_a_failed_run_names_the_way_back(
    workspace: Path, work: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """DVC has removed what the stage wrote before, metrics too."""
    monkeypatch.setattr(pipeline, "call_dvc", lambda *_: 255)
    assert run_command(["run", "--no-plan"]) == 255
    assert "libretto restore" in capsys.readouterr().err


def test_an_interrupted_command_has_no_traceback(
    workspace: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def interrupt(*_: str) -> int:
        raise KeyboardInterrupt

    monkeypatch.setattr(pipeline, "call_dvc", interrupt)
    assert run_command(["run", "--no-plan"]) == INTERRUPTED
    assert "Traceback" not in capsys.readouterr().err


def test_run_starts_the_interpreter_that_runs_it() -> None:
    first = environment.build_environment()["PATH"].split(os.pathsep)[0]
    assert first == str(Path(sys.executable).parent)
