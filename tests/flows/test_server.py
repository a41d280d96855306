"""The flow as a program: with no server, against a running one, and in a clone."""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from .conftest import Project

pytestmark = pytest.mark.slow
Notes = Callable[[], list[str]]
FLOW = [sys.executable, "-m", "flows.pipeline"]


@pytest.fixture(autouse=True)
def own_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PREFECT_HOME", str(tmp_path / "prefect"))
    monkeypatch.delenv("PREFECT_API_URL", raising=False)


@pytest.fixture
def server(own_home: None, surroundings: None, tmp_path: Path) -> Iterator[str]:
    """The address of a server that is ended with the test."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = [
        sys.executable,
        "-m",
        "prefect",
        "server",
        "start",
        "--host",
        "127.0.0.1",
        "--port",
        str(port),
    ]
    url = f"http://127.0.0.1:{port}/api"
    with (
        (tmp_path / "server.log").open("w") as log,
        subprocess.Popen(
            command, stdout=log, stderr=subprocess.STDOUT, start_new_session=True
        ) as process,
    ):
        try:
            wait_for(url, process)
            yield url
        finally:
            os.killpg(process.pid, signal.SIGKILL)


def wait_for(url: str, process: subprocess.Popen[bytes]) -> None:
    for _ in range(240):
        try:
            with urllib.request.urlopen(f"{url}/health", timeout=5):
                return
        except (urllib.error.URLError, OSError):
            assert process.poll() is None, "the server ended"
            time.sleep(0.5)
    pytest.fail("the server did not start in two minutes")


def post(url: str, path: str, question: dict[str, Any]) -> list[dict[str, Any]]:
    request = urllib.request.Request(
        f"{url}/{path}", json.dumps(question).encode(), {"Content-Type": "application/json"}
    )
    with urllib.request.urlopen(request, timeout=30) as answer:
        return json.load(answer)


def run_flow(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*FLOW, "--no-plan", *arguments], capture_output=True, text=True, timeout=300, check=False
    )


def test_with_no_server(project: Project, notes: Notes) -> None:
    project()
    done = run_flow("--here")
    assert done.returncode == 0, done.stderr
    assert len(notes()) == 5


def test_against_a_server(
    project: Project, notes: Notes, server: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("PREFECT_API_URL", server)
    project()
    assert run_flow("--here").returncode == 0
    assert len(notes()) == 5
    runs = post(server, "task_runs/filter", {"sort": "EXPECTED_START_TIME_DESC"})
    assert sorted(run["name"] for run in runs) == ["a", "b@x", "b@y", "score", "side"]
    artifacts = post(server, "artifacts/filter", {})
    assert {artifact["key"] for artifact in artifacts if artifact["type"] == "table"} == {
        "stages",
        "score",
        "nonspeech",
        "parameters",
    }
    logs = post(server, "logs/filter", {})
    assert any(line["message"].startswith("working on b-x") for line in logs)

    (tmp_path / "order-a").write_text("input")
    Path("input").write_text("2")
    failed = run_flow("--here")
    assert failed.returncode == 2
    assert "a broke: input" in failed.stderr
    states = post(server, "flow_runs/filter", {"sort": "START_TIME_DESC"})
    assert [run["state"]["type"] for run in states] == ["FAILED", "COMPLETED"]
    assert "a broke: input" in states[0]["state"]["message"]


def test_a_clone_leaves_the_workspace_unchanged_and_returns_the_result(
    project: Project, notes: Notes, tmp_path: Path
) -> None:
    folder = project()
    (folder / "input").write_text("edited while the flow runs")
    done = run_flow()
    assert done.returncode == 0, done.stderr
    assert len(notes()) == 5
    assert not (folder / "a").exists()
    assert not (folder / "dvc.lock").exists()
    assert not list((tmp_path / "work/clones").iterdir())
    name = subprocess.run(
        [sys.executable, "-m", "dvc", "exp", "list", "--name-only"],
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    assert name.startswith("flow-")
    (folder / "input").write_text("1")
    subprocess.run([sys.executable, "-m", "dvc", "exp", "apply", name.strip()], check=True)
    assert (folder / "a").read_text() == "a", "from the cache that both share"
    status = subprocess.run(
        [sys.executable, "-m", "dvc", "status"], capture_output=True, text=True, check=True
    )
    assert "up to date" in status.stdout
    assert notes() == []

    subprocess.run(["git", "add", "dvc.lock", "metrics"], check=True)
    subprocess.run(["git", "commit", "-qm", "result"], check=True)
    shutil.rmtree(folder / ".dvc/cache/runs")
    second = run_flow()
    assert second.returncode == 0, second.stderr
    assert notes() == [], "results in the cache are used, even if DVC has no record of the run"


def test_a_second_flow_in_one_workspace_is_refused_and_one_in_a_clone_is_not(
    project: Project, notes: Notes, tmp_path: Path
) -> None:
    folder = project()
    (tmp_path / "order-a").write_text("sleep 40")
    with subprocess.Popen(
        [*FLOW, "--no-plan", "--here"], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    ) as first:
        end = time.monotonic() + 120
        while (tmp_path / "order-a").exists():
            assert first.poll() is None and time.monotonic() < end
            time.sleep(0.2)
        refused = run_flow("--here")
        assert refused.returncode == 75
        assert str(folder) in refused.stderr
        assert "--here" in refused.stderr
        (folder.parent / "work/clones/abandoned").mkdir(parents=True)  # by a flow that was killed
        (folder.parent / "work/clones/abandoned.lock").touch()
        second = run_flow("side")
        assert second.returncode == 0, second.stderr
        assert not list((folder.parent / "work/clones").iterdir())
        assert first.wait(120) == 0
    assert set(notes()) == {"a", "b-x", "b-y", "score", "side"}
    names = subprocess.run(
        [sys.executable, "-m", "dvc", "exp", "list", "--name-only"],
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    assert names.startswith("flow-")


def test_a_push_without_a_remote_is_not_tried_again(project: Project) -> None:
    project()
    done = run_flow("--push", "a")
    assert done.returncode == 2
    assert "dvc remote add" in done.stderr
