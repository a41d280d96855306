"""Fan-out over worker processes: every unit once, whoever computes it, and a lost worker says that trying again helps."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from components.config.errors import InputError, TransientError
from components.config.pool import fan_out
from tests.conftest import REPOSITORY

# Two workers that write their process ids and then work for longer than any test.
SCRIPT = """
import os, sys, time
from pathlib import Path
from components.config.pool import fan_out

def work(name):
    Path(sys.argv[1], name).write_text(str(os.getpid()))
    time.sleep(600)

if __name__ == "__main__":
    list(fan_out(work, ["one", "two"]))
"""


def square(number: int) -> tuple[int, int]:
    return number * number, os.getpid()


def killed_at_three(number: int) -> int:
    if number == 3:
        os.kill(os.getpid(), signal.SIGKILL)
    return number


def refused_at_three(number: int) -> int:
    if number == 3:
        raise InputError("3.wav is broken.", unit="3", way_out="Mend it.")
    return number


@pytest.mark.parametrize("workers", [1, 2])
def test_every_unit_is_given_once_with_its_result(workers: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LIBRETTO_WORKERS", str(workers))
    found = list(fan_out(square, range(9)))
    assert sorted((number, result) for number, (result, _) in found) == [(number, number**2) for number in range(9)]
    assert (os.getpid() in {process for _, (_, process) in found}) == (workers == 1)


def test_few_units_or_a_bound_need_no_processes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LIBRETTO_WORKERS", "4")
    assert list(fan_out(square, [])) == []
    assert list(fan_out(square, [5])) == [(5, (25, os.getpid()))]
    assert {process for _, (_, process) in fan_out(square, range(3), most=1)} == {os.getpid()}


def test_results_come_as_they_are_asked_for_in_one_process(monkeypatch: pytest.MonkeyPatch) -> None:
    """So that progress shows, and what is finished before a kill is kept."""
    monkeypatch.setenv("LIBRETTO_WORKERS", "1")
    done: list[int] = []
    units = fan_out(lambda number: done.append(number), range(5))
    next(units)
    assert done == [0]


def test_a_killed_worker_is_an_error_that_may_pass(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LIBRETTO_WORKERS", "2")
    with pytest.raises(TransientError, match=r"worker process was killed.*Run again") as stopped:
        list(fan_out(killed_at_three, range(6)))
    assert stopped.value.exit_code == 75


@pytest.mark.parametrize("workers", [1, 2])
def test_an_error_of_a_unit_arrives_as_it_was_raised(workers: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LIBRETTO_WORKERS", str(workers))
    with pytest.raises(InputError) as stopped:
        list(fan_out(refused_at_three, range(6)))
    assert (str(stopped.value), stopped.value.unit, stopped.value.exit_code) == ("3.wav is broken. Mend it.", "3", 2)


def test_workers_die_with_the_process_that_started_them(tmp_path: Path) -> None:
    """An orphan would go on writing beside the run that is started next."""
    script = tmp_path / "script.py"
    script.write_text(SCRIPT)
    environment = {**os.environ, "LIBRETTO_WORKERS": "2", "PYTHONPATH": str(REPOSITORY)}
    parent = subprocess.Popen([sys.executable, str(script), str(tmp_path)], env=environment, stderr=subprocess.DEVNULL)
    try:
        workers = [int(written(tmp_path / name)) for name in ("one", "two")]
    finally:
        parent.kill()
        parent.wait()
    for _ in range(500):
        if not any(runs(worker) for worker in workers):
            return
        time.sleep(0.02)
    for worker in filter(runs, workers):
        os.kill(worker, signal.SIGKILL)
    raise AssertionError("a worker outlived its parent")


def written(path: Path) -> str:
    for _ in range(1500):
        if path.exists() and path.read_text():
            return path.read_text()
        time.sleep(0.02)
    raise AssertionError(f"{path} never came")


def runs(process: int) -> bool:
    """Whether a process of this id is alive, and not only waiting to be buried."""
    try:
        return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False
