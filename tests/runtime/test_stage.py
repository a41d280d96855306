"""The runner of a stage: it stops where ``params.yaml`` differs from what DVC read, and names the
reason.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from components.runtime.signals import INTERRUPTED
from components.runtime.stage import error_path
from tests.conftest import REPOSITORY

# A stage that edits files while it runs, raises the error that TASK names, or writes an output with
# its record.
SCRIPT = """
import json, os, time
from dataclasses import asdict
from pathlib import Path
from components.config import errors
from components.runtime.artifact import empty_folder, write_record
from components.runtime.stage import run_stage

def work(stage):
    print("working:", stage.label())
    task = json.loads(os.environ["TASK"])
    for name, (old, new) in task.get("edits", {}).items():
        text = Path(name).read_text()
        assert old in text
        Path(name).write_text(text.replace(old, new, 1))
    if "waits" in task:
        print("waiting", flush=True)
        time.sleep(600)
    if "error" in task:
        error = getattr(errors, task["error"])
        raise error("clip-7.wav is broken.", subject="clip-7", hint="Mend it.")
    stage.facts["utterances"] = 12
    out = empty_folder(Path("data") / stage.role)
    (out / "shard.tar").write_text("bytes")
    parameters, inputs = asdict(stage.params.shards), {"corpus": "digest"}
    write_record(out, "shards", parameters=parameters, inputs=inputs, libraries=("numpy",))

run_stage("shards", work, names=("corpus",), roles=True)
"""
START = ("--corpus", "spoken", "--role", "test")


HELP = """
import runpy, sys
for name in ("numpy", "pyarrow", "torch", "transformers", "soundfile", "rich", "jinja2"):
    sys.modules[name] = None
for stage in sys.argv[1:]:
    sys.argv = [stage, "--help"]
    try:
        runpy.run_module(f"components.{stage}", run_name="__main__")
    except SystemExit as end:
        assert end.code == 0
"""


@pytest.fixture
def project(work: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A workspace with the parameters and the catalogue of the repository, and a stage."""
    folder = tmp_path / "project"
    shutil.copytree(REPOSITORY / "catalogue", folder / "catalogue")
    params = yaml.safe_load((REPOSITORY / "params.yaml").read_text())
    names = {"corpus": "spoken", "encoder": "ctc-tiny", "projector": "linear", "llm": "llama-tiny"}
    (folder / "params.yaml").write_text(
        yaml.safe_dump(
            {**params, **names, "shards": {"utterances": 99, "seconds": 60.0, "remote": False}}
        )
    )
    (folder / "stage.py").write_text(SCRIPT)
    monkeypatch.chdir(folder)
    for name in ("WORKERS", "WORK_GB", "PROGRESS", "DEVICE", "SETTINGS"):
        monkeypatch.delenv(f"LIBRETTO_{name}", raising=False)
    return folder


def run(
    *options: str, settings: dict[str, str] | None = None, **task
) -> subprocess.CompletedProcess:
    environment = {
        **os.environ,
        "PYTHONPATH": str(REPOSITORY),
        "TASK": json.dumps(task),
        **(settings or {}),
    }
    return subprocess.run(
        [sys.executable, "stage.py", *(options or START)],
        capture_output=True,
        text=True,
        env=environment,
    )


def records() -> list[Path]:
    return list(Path("runs").rglob("*.json"))


def test_a_run_leaves_its_record_and_nothing_of_it_in_the_output(project: Path, work: Path) -> None:
    done = run()
    assert done.returncode == 0, done.stderr
    assert done.stdout == "working: shards@test\n"
    [path] = records()
    record = json.loads(path.read_text())
    assert path.parent == Path("runs/shards")
    assert (record["stage"], record["utterances"]) == ("shards@test", 12)
    assert record["seconds"] >= 0
    assert record["started"].startswith("20")
    assert {"host", "python", "revision", "dirty"} <= record.keys()
    assert not error_path("shards").exists()


def test_an_interrupted_stage_says_how_to_go_on_and_has_no_traceback(project: Path) -> None:
    command = [sys.executable, "stage.py", *START]
    environment = {**os.environ, "PYTHONPATH": str(REPOSITORY), "TASK": '{"waits": true}'}
    with subprocess.Popen(
        command,
        env=environment,
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        start_new_session=True,
    ) as process:
        assert process.stdout is not None
        while process.stdout.readline() != "waiting\n":
            assert process.poll() is None
        os.killpg(process.pid, signal.SIGINT)  # as a terminal does at Ctrl-C
        _, errors = process.communicate(timeout=60)
    assert process.returncode == INTERRUPTED == 130
    assert "shards" in errors and len(errors.strip().splitlines()) == 1
    assert records() == []


def test_runtime_settings_do_not_enter_the_record_of_the_output(
    project: Path, tmp_path: Path
) -> None:
    settings = {
        "LIBRETTO_WORK": str(tmp_path / "another cache"),
        "LIBRETTO_WORK_GB": "3.25",
        "LIBRETTO_WORKERS": "7",
        "LIBRETTO_PROGRESS": str(tmp_path / "progress.jsonl"),
        "LIBRETTO_DEVICE": "cuda:3",
        "LIBRETTO_ROOT_CALLS": str(tmp_path),
    }
    run()
    first = Path("data/test/inputs.json").read_bytes()
    assert run(settings=settings).returncode == 0
    assert Path("data/test/inputs.json").read_bytes() == first
    assert len(records()) == 1, "the key of a run is what it computed"
    record = json.loads(first)
    assert record["parameters"] == {"utterances": 99, "seconds": 60.0, "remote": False}
    assert record["outputs"].keys() == {"shard.tar"}
    assert str(tmp_path) not in first.decode()


@pytest.mark.parametrize(
    ("options", "word"),
    [
        (("--corpus", "spoken-smoke", "--role", "test"), "spoken-smoke"),
        (("--corpus", "spoken", "--role", "tset"), "'tset'"),
        (("--corpus", "spoken"), "--role"),
    ],
)
def test_a_stage_started_with_other_names_does_nothing(
    options: tuple, word: str, project: Path
) -> None:
    stopped = run(*options)
    assert stopped.returncode == 2
    assert word in stopped.stderr
    assert "Traceback" not in stopped.stderr
    assert stopped.stdout == ""
    assert not records()


def test_the_help_of_a_stage_needs_no_library() -> None:
    stages = list(yaml.safe_load((REPOSITORY / "dvc.yaml").read_text())["stages"])
    command = [sys.executable, "-c", HELP, *stages]
    done = subprocess.run(command, capture_output=True, text=True, cwd=REPOSITORY)
    assert done.returncode == 0, done.stderr
    assert all(f"components.{stage} " in done.stdout for stage in stages)


def test_without_a_name_the_parameters_count(project: Path) -> None:
    assert run("--role", "dev").returncode == 0
    assert Path("data/dev/inputs.json").is_file()


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        ("llm: llama-tiny", "llm: llama-tny", ("'llama-tny'", "'llama-tiny'")),
        ("utterances: 99", "utterancs: 99", ("'shards.utterancs'", "'utterances'")),
        ("utterances: 99", "utterances: many", ("'shards.utterances'",)),
    ],
)
def test_wrong_parameters_stop_before_any_work(
    old: str, new: str, words: tuple[str, ...], project: Path
) -> None:
    text = (project / "params.yaml").read_text()
    assert old in text
    (project / "params.yaml").write_text(text.replace(old, new))
    stopped = run()
    assert stopped.returncode == 2
    assert all(word in stopped.stderr for word in words)
    assert stopped.stdout == ""


@pytest.mark.parametrize(
    "edits",
    [
        {"params.yaml": ("corpus: spoken", "corpus: spoken-smoke")},
        {"params.yaml": ("utterances: 99", "utterances: 98")},
        {"params.yaml": ("corpus: spoken", "corpus: [spoken")},
        {"catalogue/corpus.yaml": ("chunk: 25", "chunk: 26")},
        {"catalogue/corpus.yaml": ("\nspoken:", "\nspoken-other:")},
    ],
)
def test_what_changes_while_a_stage_runs_is_not_recorded(edits: dict, project: Path) -> None:
    """DVC writes into its lock what the files contain at the end of the stage, not at its start."""
    stopped = run(edits=edits)
    assert stopped.returncode == 2
    assert stopped.stdout == "working: shards@test\n"
    assert not records()
    error = json.loads(error_path("shards").read_text())
    assert error["kind"] == "input"
    assert error["message"]


@pytest.mark.parametrize(
    "edits",
    [
        {"params.yaml": ("text_form: casefold", "text_form: as-is")},
        {"params.yaml": ("llm: llama-tiny", "llm: phi-tiny")},
        {"catalogue/corpus.yaml": ("librispeech-excerpt:", "librispeech-excerpts:")},
        {"catalogue/corpus.yaml": ("\nspoken:", "\nspoken:\n  card: {licence: none}\n")},
    ],
)
def test_what_the_stage_does_not_read_may_change(edits: dict, project: Path) -> None:
    done = run(edits=edits)
    assert done.returncode == 0, done.stderr
    assert len(records()) == 1


@pytest.mark.parametrize(
    ("error", "code", "kind"), [("InputError", 2, "input"), ("TransientError", 75, "transient")]
)
def test_a_failure_leaves_its_kind_subject_and_hint(
    error: str, code: int, kind: str, project: Path
) -> None:
    stopped = run(error=error)
    assert stopped.returncode == code
    assert stopped.stderr == "shards: clip-7.wav is broken. Mend it.\n"
    record = json.loads(error_path("shards").read_text())
    assert (record["stage"], record["kind"], record["subject"], record["hint"]) == (
        "shards",
        kind,
        "clip-7",
        "Mend it.",
    )
    assert "clip-7.wav is broken." in record["message"]
    assert not records()
    assert run().returncode == 0
    assert not error_path("shards").exists(), "the failure is over"


@pytest.mark.parametrize(
    ("name", "value"), [("LIBRETTO_NODES", "-1"), ("LIBRETTO_MEETING", "host:29500")]
)
def test_a_wrong_setting_stops_before_any_work_and_is_recorded(
    name: str, value: str, project: Path
) -> None:
    assert run(error="TransientError").returncode == 75
    stopped = run(settings={name: value})
    assert (stopped.returncode, stopped.stdout) == (2, "")
    record = json.loads(error_path("shards").read_text())
    assert (record["kind"], record["subject"]) == ("input", name)
    assert record["hint"]


def test_failures_of_two_workspaces_have_two_files(
    project: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = error_path("shards")
    assert path.is_relative_to(tmp_path / "work")
    (tmp_path / "other").mkdir()
    monkeypatch.chdir(tmp_path / "other")
    assert error_path("shards") != path != error_path("train")
