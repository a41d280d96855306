"""The queue of experiments, with a worker that answers late or not at all."""

from __future__ import annotations

import pytest

from components.config.errors import TransientError
from flows import experiments


@pytest.mark.parametrize(("is_alive", "failed"), [(True, []), (False, ["mine"])])
def test_an_experiment_fails_only_where_its_worker_is_gone(
    is_alive: bool, failed: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """One that lives and answers nobody is at work. Nobody else's experiment and none that waits
    fails.
    """
    killed: list[str] = []
    running = {"mine": experiments.RUNNING, "other": experiments.RUNNING}
    monkeypatch.setattr(experiments, "has_worker", lambda: is_alive)
    monkeypatch.setattr(experiments, "count_workers", lambda: 0)
    monkeypatch.setattr(
        experiments, "list_unfinished", lambda: {**running, "next": experiments.QUEUED}
    )
    monkeypatch.setattr(experiments, "run", lambda *command: killed.extend(command[-1:]))
    assert experiments.fail_orphans(["mine", "next"]) == failed
    assert killed == failed


def test_a_queued_experiment_whose_worker_has_ended_gets_another(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A worker stops ten seconds after the queue is empty, so it may end just after an experiment
    was queued.
    """
    unfinished = {"mine": experiments.QUEUED}
    started: list[str] = []

    def start(devices: list[str]) -> None:
        started.extend(devices)
        unfinished.clear()

    monkeypatch.setattr(experiments, "POLL_S", 0.0)
    monkeypatch.setattr(experiments, "has_worker", lambda: False)
    monkeypatch.setattr(experiments, "list_unfinished", lambda: dict(unfinished))
    monkeypatch.setattr(experiments, "start_workers", start)
    experiments.wait_for("mine", ["3"])
    assert started == ["3"]


def test_a_running_experiment_whose_worker_has_ended_is_an_error(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(experiments, "POLL_S", 0.0)
    monkeypatch.setattr(experiments, "has_worker", lambda: False)
    monkeypatch.setattr(experiments, "list_unfinished", lambda: {"mine": experiments.RUNNING})
    monkeypatch.setattr(experiments, "run", lambda *_command: "")
    with pytest.raises(TransientError, match="mine"):
        experiments.wait_for("mine", [""])
