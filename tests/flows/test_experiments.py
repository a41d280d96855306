"""The queue of experiments, with a worker that answers late or not at all."""

from __future__ import annotations

import pytest

from flows import experiments


@pytest.mark.parametrize(
    ("answers", "failed"),
    [([1], []), ([0, 0, 1], []), ([0] * experiments.PINGS, ["mine"])],
)
def test_an_experiment_fails_only_where_no_ping_of_several_is_answered(
    answers: list[int], failed: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A worker on a busy machine misses one. Nobody else's experiment and none that waits fails."""
    remaining, killed = iter(answers), []
    running = {"mine": experiments.RUNNING, "other": experiments.RUNNING}
    monkeypatch.setattr(experiments, "count_workers", lambda: next(remaining))
    monkeypatch.setattr(
        experiments, "list_unfinished", lambda: {**running, "next": experiments.QUEUED}
    )
    monkeypatch.setattr(experiments, "run", lambda *command: killed.extend(command[-1:]))
    assert experiments.fail_orphans(["mine", "next"]) == failed
    assert killed == failed
