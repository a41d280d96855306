"""A stage ends at once at Ctrl-C and SIGTERM, and with the DVC that started it, workers included;
one that a user has started does not end with the shell. Real processes.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import yaml

from components.runtime.signals import INTERRUPTED, TERMINATED
from tests.conftest import REPOSITORY
from tests.runtime.test_pool import is_running, read_when_written

# A stage that computes for long in one call of a library, in this process or in two workers, and
# has written the ids of its processes.
COMPUTE = """
import hashlib, os
from pathlib import Path

def compute(name):
    Path("ids", name).write_text(str(os.getpid()))
    hashlib.pbkdf2_hmac("sha256", b"a", b"b", 2**31 - 1)
"""
SCRIPT = """
import os
from pathlib import Path
from components.runtime.pool import fan_out
from components.runtime.stage import run_stage
from components.shards.compute import compute

def work(stage):
    Path("ids", "stage").write_text(str(os.getpid()))
    list(fan_out(compute, ["one", "two"]))

if __name__ == "__main__":
    run_stage("shards", work, names=("corpus",), roles=True)
"""
COMMAND = "-m components.shards --corpus spoken --role test"
LIMIT_S = 10


@pytest.fixture
def project(work: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A workspace in which ``python -m components.shards`` is the stage of SCRIPT."""
    folder = tmp_path / "project"
    shutil.copytree(REPOSITORY / "catalogue", folder / "catalogue")
    params = yaml.safe_load((REPOSITORY / "params.yaml").read_text())
    names = {"corpus": "spoken", "encoder": "ctc-tiny", "projector": "linear", "llm": "llama-tiny"}
    (folder / "params.yaml").write_text(yaml.safe_dump({**params, **names}))
    (folder / "components").mkdir()
    for path in (REPOSITORY / "components").iterdir():
        if path.name != "shards":
            (folder / "components" / path.name).symlink_to(path)
    (folder / "components" / "shards").mkdir()
    (folder / "components" / "shards" / "__init__.py").touch()
    (folder / "components" / "shards" / "compute.py").write_text(COMPUTE)
    (folder / "components" / "shards" / "__main__.py").write_text(SCRIPT)
    (folder / "ids").mkdir()
    monkeypatch.chdir(folder)
    for name in ("WORK_GB", "PROGRESS", "DEVICE", "SETTINGS"):
        monkeypatch.delenv(f"LIBRETTO_{name}", raising=False)
    monkeypatch.setenv("PATH", f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.setenv("LIBRETTO_WORKERS", "1")
    monkeypatch.setenv("DVC_NO_ANALYTICS", "1")
    monkeypatch.delenv("DVC_STAGE", raising=False)
    return folder


@pytest.fixture
def start(project: Path) -> Iterator[Callable[..., subprocess.Popen[str]]]:
    """Starts a command in the workspace; what it has started is killed at the end of the test."""
    processes = []

    def started(*command: str, **variables: str) -> subprocess.Popen[str]:
        processes.append(
            subprocess.Popen(
                command,
                env={**os.environ, **variables},
                text=True,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                start_new_session=True,
            )
        )
        return processes[-1]

    yield started
    for process in processes:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.communicate()
    for path in (project / "ids").iterdir():
        with contextlib.suppress(ProcessLookupError):
            os.kill(int(path.read_text()), signal.SIGKILL)


def ids(*names: str) -> list[int]:
    """The ids of the processes of a stage, once they compute."""
    return [int(read_when_written(Path("ids", name))) for name in names]


def have_ended(processes: list[int]) -> bool:
    deadline = time.monotonic() + LIMIT_S
    while any(map(is_running, processes)):
        if time.monotonic() > deadline:
            return False
        time.sleep(0.05)
    return True


@pytest.mark.parametrize(
    ("number", "code"), [(signal.SIGINT, INTERRUPTED), (signal.SIGTERM, TERMINATED)]
)
@pytest.mark.parametrize("to_all", [False, True])
def test_a_signal_ends_a_stage_within_a_long_computation(
    number: int, code: int, to_all: bool, start: Callable[..., subprocess.Popen[str]]
) -> None:
    stage = start("python", *COMMAND.split(), LIBRETTO_WORKERS="2" if to_all else "1")
    processes = ids("stage", "one", *(["two"] if to_all else []))
    (os.killpg if to_all else os.kill)(stage.pid, number)
    _, errors = stage.communicate(timeout=LIMIT_S)
    assert stage.returncode == code
    assert len(errors.strip().splitlines()) == 1 and "shards" in errors
    assert have_ended(processes)


# Starts a command line as DVC does, by a shell that runs it or becomes it.
STARTER = "import subprocess, sys; subprocess.run([*sys.argv[1:]])"


@pytest.mark.parametrize("line", [f"python {COMMAND}", f"python {COMMAND}; true"])
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_a_stage_ends_with_what_started_it_for_dvc(
    number: int, line: str, start: Callable[..., subprocess.Popen[str]]
) -> None:
    starter = start(sys.executable, "-c", STARTER, "/bin/sh", "-c", line, DVC_STAGE="shards@test")
    [stage] = ids("stage")
    ids("one")
    starter.send_signal(number)
    starter.wait()
    assert have_ended([stage])


def test_a_stage_that_a_user_has_started_outlives_the_shell(
    start: Callable[..., subprocess.Popen[str]],
) -> None:
    shell = start("/bin/sh", "-c", f"nohup python {COMMAND} > nohup.out 2>&1 & sleep 600")
    [stage] = ids("stage")
    ids("one")
    shell.kill()
    shell.wait()
    time.sleep(2.5)
    assert is_running(stage)
    os.kill(stage, signal.SIGTERM)
    assert have_ended([stage])


@pytest.mark.slow
@pytest.mark.parametrize(
    ("number", "shell"),
    [(signal.SIGTERM, "/bin/bash"), (signal.SIGKILL, "/bin/bash"), (signal.SIGKILL, "/bin/sh")],
)
def test_a_stage_and_its_workers_end_with_dvc(
    number: int,
    shell: str,
    project: Path,
    start: Callable[..., subprocess.Popen[str]],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    subprocess.run(["git", "init", "-q"], check=True)
    subprocess.run([sys.executable, "-m", "dvc", "init", "-q"], check=True)
    Path("dvc.yaml").write_text(f"stages:\n  shards:\n    cmd: python {COMMAND}\n")
    monkeypatch.setenv("SHELL", shell)
    monkeypatch.setenv("LIBRETTO_WORKERS", "2")
    dvc = start(sys.executable, "-m", "dvc", "repro")
    processes = ids("stage", "one", "two")
    dvc.send_signal(number)
    dvc.wait()
    assert have_ended(processes)
    # DVC itself can go on: nothing that the dead one has locked is in the way.
    again = start(sys.executable, "-m", "dvc", "status")
    assert again.wait(timeout=60) == 0


@pytest.mark.slow
def test_dvc_and_its_stage_end_with_libretto_run(
    project: Path, start: Callable[..., subprocess.Popen[str]]
) -> None:
    subprocess.run(["git", "init", "-q"], check=True)
    subprocess.run([sys.executable, "-m", "dvc", "init", "-q"], check=True)
    Path("dvc.yaml").write_text(f"stages:\n  shards:\n    cmd: python {COMMAND}\n")
    script = "from libretto.environment import call_dvc; call_dvc('repro')"
    libretto = start(sys.executable, "-c", script, PYTHONPATH=str(REPOSITORY))
    [stage] = ids("stage")
    ids("one")
    libretto.kill()
    libretto.wait()
    assert have_ended([stage])
