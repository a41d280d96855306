"""The queue of experiments, with a worker that answers late or not at all."""

from __future__ import annotations

import pytest

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
