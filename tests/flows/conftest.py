"""Small projects with a DAG of their own, and a Prefect that uses a temporary folder alone."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).parents[2]
Project = Callable[..., Path]

# Each stage notes that it ran; they are declared in an order that is not the order of the DAG.
NOTE = "python note.py {name}"
STAGES: dict[str, Any] = {
    "score": {
        "cmd": NOTE.format(name="score"),
        "deps": ["b-x", "b-y"],
        "metrics": [{"metrics/score.json": {"cache": False}}],
    },
    "b": {
        "matrix": {"role": ["x", "y"]},
        "cmd": NOTE.format(name="b-${item.role}"),
        "deps": ["a"],
        "outs": ["b-${item.role}"],
    },
    "a": {"cmd": NOTE.format(name="a"), "deps": ["input"], "outs": ["a"]},
    "side": {"cmd": NOTE.format(name="side"), "deps": ["a"], "outs": ["side"]},
}
# Notes the run, then obeys the file `order-<name>`: fails with that kind of error, once or always,
# or sleeps once and goes on.
NOTE_PY = """
import json, os, sys, time
from pathlib import Path
from components.runtime.stage import error_path

name = sys.argv[1]
notes = Path(os.environ["NOTES"])
notes.open("a").write(name + "\\n")
print("working on", name, "with progress in", os.environ.get("LIBRETTO_PROGRESS"))
orders = notes.parent / ("order-" + name)
kind, *once = orders.read_text().split() if orders.exists() else [""]
if once:
    orders.unlink()
if kind == "sleep":
    progress = {"stage": name.replace("-", "@"), "task": "sleeping", "done": 1, "total": 4,
                "unit": "winks", "per_second": 0.5, "seconds_left": 6, "note": ""}
    Path(os.environ["LIBRETTO_PROGRESS"]).open("a").write(json.dumps(progress) + "\\n")
    time.sleep(float(once[0]))
elif kind:
    if kind != "silent":
        error = {"stage": name, "kind": kind, "subject": "", "message": f"{name} broke: {kind}.",
                 "hint": "Mend it."}
        error_path(name).parent.mkdir(parents=True, exist_ok=True)
        error_path(name).write_text(json.dumps(error))
    print("last words of", name)
    sys.exit(75 if kind == "transient" else 2)
if name == "score":
    Path("metrics").mkdir(exist_ok=True)
    scores = {"speech": {"free": {"wer": 0.025}, "ctc": {"wer": 0.075}},
              "noise": {"free": {"text_rate": 0.5}}}
    Path("metrics/score.json").write_text(json.dumps(scores))
else:
    Path(name).write_text(name)
"""


@pytest.fixture
def surroundings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing outside the test's folder is read or written by Git, DVC or the work cache."""
    values = {
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
        "PYTHONPATH": str(ROOT),
        "LIBRETTO_WORK": str(tmp_path / "work"),
        "NOTES": str(tmp_path / "notes"),
        "DVC_NO_ANALYTICS": "1",
        "DVC_GLOBAL_CONFIG_DIR": str(tmp_path / "dvc"),
        "DVC_SYSTEM_CONFIG_DIR": str(tmp_path / "dvc"),
        "DVC_SITE_CACHE_DIR": str(tmp_path / "dvc"),
        "GIT_CONFIG_GLOBAL": os.devnull,
        "GIT_AUTHOR_NAME": "a",
        "GIT_AUTHOR_EMAIL": "a@b",
        "GIT_COMMITTER_NAME": "a",
        "GIT_COMMITTER_EMAIL": "a@b",
        "DO_NOT_TRACK": "1",
        "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
    }
    for name, value in values.items():
        monkeypatch.setenv(name, value)


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, surroundings: None) -> Project:
    """Creates a committed project with some stages and changes into it."""

    def create(stages: dict[str, Any] | None = None, name: str = "project") -> Path:
        folder = tmp_path / name
        folder.mkdir()
        (folder / "dvc.yaml").write_text(
            yaml.safe_dump({"stages": stages or STAGES}, sort_keys=False)
        )
        (folder / "note.py").write_text(NOTE_PY)
        (folder / "input").write_text("1")
        (folder / ".gitignore").write_text("/a\n/b-*\n/side\n")
        monkeypatch.chdir(folder)
        for command in (
            "git init -q",
            f"{sys.executable} -m dvc init -q",
            "git add -A",
            "git commit -qm start",
        ):
            subprocess.run(command.split(), check=True)
        return folder

    return create


@pytest.fixture
def notes(tmp_path: Path) -> Callable[[], list[str]]:
    """Reads which stages ran since the last call."""
    path = tmp_path / "notes"

    def read() -> list[str]:
        lines = path.read_text().split() if path.exists() else []
        path.unlink(missing_ok=True)
        return lines

    return read


@pytest.fixture(scope="session")
def prefect_home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Prefect against a database of its own, with no server running."""
    from prefect.settings import PREFECT_HOME, temporary_settings
    from prefect.testing.utilities import prefect_test_harness

    home = tmp_path_factory.mktemp("prefect")
    with (
        temporary_settings(updates={PREFECT_HOME: home}),
        prefect_test_harness(server_startup_timeout=120),
    ):
        yield home


def processes(words: str, home: str) -> list[int]:
    """Ids of the processes with these words in their command line and this path, which only the
    test uses, in their environment.
    """
    process_ids = []
    for path in Path("/proc").glob("[0-9]*"):
        try:
            command = (path / "cmdline").read_bytes().replace(b"\0", b" ").decode()
            is_own = home.encode() in (path / "environ").read_bytes()
        except OSError:
            continue
        if words in command and is_own:
            process_ids.append(int(path.name))
    return process_ids
