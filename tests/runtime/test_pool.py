"""Fan-out over worker processes: each unit is computed once, by any worker, and a killed worker is
an error that may pass.
"""

from __future__ import annotations

import logging
import os
import signal
import subprocess
import sys
import time
from functools import partial
from pathlib import Path

import pytest

from components.config.errors import InputError, TransientError
from components.runtime import devices
from components.runtime.devices import share_gpus, visible_gpus
from components.runtime.pool import fan_out
from components.runtime.ray_pool import _run_unit
from tests.conftest import REPOSITORY

# Two workers that write their process ids and then work for longer than any test.
SCRIPT = """
import os, sys, time
from pathlib import Path
from components.runtime.pool import fan_out

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


def killed_once(folder: Path, number: int) -> int:
    """Counts the starts of the unit in a file; the first worker of unit 3 is killed while another
    unit runs.
    """
    with (folder / f"starts-{number}").open("a") as file:
        file.write("1")
    if number == 3 and (folder / "starts-3").read_text() == "1":
        time.sleep(0.3)
        os.kill(os.getpid(), signal.SIGKILL)
    time.sleep(0.5)
    return number


def ignores_interrupts(_: int) -> bool:
    return signal.getsignal(signal.SIGINT) == signal.SIG_IGN


def visible_devices(_: int) -> tuple[int, str]:
    time.sleep(0.5)  # so that every worker gets one
    return os.getpid(), os.environ["CUDA_VISIBLE_DEVICES"]


def refused_at_three(number: int) -> int:
    if number == 3:
        raise InputError("3.wav is broken.", subject="3", hint="Mend it.")
    return number


@pytest.mark.parametrize("workers", [1, 2])
def test_every_unit_comes_once_with_its_result(
    workers: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LIBRETTO_WORKERS", str(workers))
    results = list(fan_out(square, range(9)))
    assert sorted((number, result) for number, (result, _) in results) == [
        (number, number**2) for number in range(9)
    ]
    assert (os.getpid() in {process for _, (_, process) in results}) == (workers == 1)


def test_a_worker_leaves_interrupts_to_the_process_that_started_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Ctrl-C reaches all of them: each would print a traceback."""
    monkeypatch.setenv("LIBRETTO_WORKERS", "2")
    assert all(is_ignored for _, is_ignored in fan_out(ignores_interrupts, range(2)))


def test_one_unit_or_one_gpu_needs_no_process(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LIBRETTO_WORKERS", "4")
    assert list(fan_out(square, [])) == []
    assert list(fan_out(square, [5])) == [(5, (25, os.getpid()))]
    monkeypatch.setenv("LIBRETTO_DEVICE", "cuda:1")
    assert {process for _, (_, process) in fan_out(square, range(3), uses_gpu=True)} == {
        os.getpid()
    }, "one GPU, one worker"


def test_one_process_computes_a_unit_when_its_result_is_read(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """So that progress is displayed, and finished work survives a kill."""
    monkeypatch.setenv("LIBRETTO_WORKERS", "1")
    done: list[int] = []
    units = fan_out(lambda number: done.append(number), range(5))
    next(units)
    assert done == [0]


def test_a_unit_whose_worker_is_killed_each_time_is_an_error_that_may_pass(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("LIBRETTO_WORKERS", "2")
    done: list[int] = []
    with pytest.raises(TransientError) as stopped:
        done += (number for number, _ in fan_out(killed_at_three, range(6)))
    assert stopped.value.exit_code == 75
    assert stopped.value.hint


def test_a_killed_worker_loses_its_unit_alone(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Another worker takes it; the units of other workers are not affected."""
    monkeypatch.setenv("LIBRETTO_WORKERS", "2")
    results = dict(fan_out(partial(killed_once, tmp_path), range(6)))
    assert results == {number: number for number in range(6)}
    assert sorted(path.read_text() for path in tmp_path.glob("starts-*")) == [
        "1",
        "1",
        "1",
        "1",
        "1",
        "11",
    ]


@pytest.mark.parametrize(
    ("visible", "share", "slots"),
    [
        ("0,1,2,3", 1, ["0", "1", "2", "3"]),
        ("0,1,2,3", 2, ["0,1", "2,3"]),
        ("0,1,2", 2, ["0,1"]),
        ("4,5", 0.5, ["4", "5", "4", "5"]),
        ("GPU-a1", 0.25, ["GPU-a1"] * 4),
    ],
)
def test_a_worker_sees_its_gpus(
    visible: str, share: float, slots: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in {
        "CUDA_VISIBLE_DEVICES": visible,
        "LIBRETTO_DEVICE": "cuda",
        "LIBRETTO_GPUS": str(share),
    }.items():
        monkeypatch.setenv(name, value)
    assert share_gpus(visible_gpus(), share) == slots
    if len(slots) > 1:
        devices_of = {
            process: devices
            for _, (process, devices) in fan_out(
                visible_devices, range(2 * len(slots)), uses_gpu=True
            )
        }
        assert sorted(devices_of.values()) == sorted(slots)


def test_gpus_are_those_of_the_driver_or_those_that_are_named(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    for name in ("nvidia0", "nvidia1", "nvidiactl", "nvidia-uvm"):
        (tmp_path / name).touch()
    monkeypatch.setattr(devices, "DEVICES", tmp_path)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    assert visible_gpus() == ["0", "1"]
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    assert visible_gpus() == []
    with pytest.raises(InputError) as stopped:
        share_gpus(["0"], 2)
    assert stopped.value.subject == "LIBRETTO_GPUS"


@pytest.mark.parametrize(
    ("name", "value"),
    [("LIBRETTO_FANOUT", "dask"), ("LIBRETTO_GPUS", "1.5"), ("LIBRETTO_GPUS", "some")],
)
def test_a_wrong_setting_is_named(name: str, value: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LIBRETTO_DEVICE", "cuda")
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0,1")
    monkeypatch.setenv(name, value)
    with pytest.raises(InputError) as stopped:
        list(fan_out(square, range(3), uses_gpu=True))
    assert stopped.value.subject == name


@pytest.mark.parametrize("workers", [1, 2])
def test_an_error_of_a_unit_arrives_as_it_was_raised(
    workers: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LIBRETTO_WORKERS", str(workers))
    with pytest.raises(InputError) as stopped:
        list(fan_out(refused_at_three, range(6)))
    assert (str(stopped.value), stopped.value.subject, stopped.value.exit_code) == (
        "3.wav is broken. Mend it.",
        "3",
        2,
    )


def test_workers_die_with_the_process_that_started_them(tmp_path: Path) -> None:
    """An orphan would continue to write while the next run starts."""
    script = tmp_path / "script.py"
    script.write_text(SCRIPT)
    environment = {**os.environ, "LIBRETTO_WORKERS": "2", "PYTHONPATH": str(REPOSITORY)}
    parent = subprocess.Popen(
        [sys.executable, str(script), str(tmp_path)], env=environment, stderr=subprocess.DEVNULL
    )
    try:
        workers = [int(read_when_written(tmp_path / name)) for name in ("one", "two")]
    finally:
        parent.kill()
        parent.wait()
    for _ in range(500):
        if not any(is_running(worker) for worker in workers):
            return
        time.sleep(0.02)
    for worker in filter(is_running, workers):
        os.kill(worker, signal.SIGKILL)
    raise AssertionError("a worker outlived its parent")


def read_when_written(path: Path) -> str:
    for _ in range(1500):
        if path.exists() and path.read_text():
            return path.read_text()
        time.sleep(0.02)
    raise AssertionError(f"{path} was not written")


def is_running(process: int) -> bool:
    """Whether a process of this id runs and is no zombie."""
    try:
        return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def log_number(number: int) -> int:
    logging.getLogger("components.anything").info("unit %d", number)
    return number


def test_messages_of_a_unit_are_written_also_by_a_worker_of_ray(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    logger = logging.getLogger("components")
    monkeypatch.setattr(logger, "handlers", [])
    monkeypatch.setattr(logger, "level", logging.NOTSET)
    monkeypatch.chdir(tmp_path)
    for _ in range(2):  # a worker runs many units
        assert _run_unit((log_number, str(tmp_path), {}), 3) == 3
    assert capsys.readouterr().out == "unit 3\nunit 3\n"
