"""Fixtures of the training's tests."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from components.optim.loop import StepBatch
from components.train.objective import StageObjective


@pytest.fixture
def before_step(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Registers a function that is called with (objective, step, examples) before each step of a
    training.
    """
    original = StageObjective.batch

    def register(function: Callable[[StageObjective, int, Any], object]) -> None:
        def batch(self: StageObjective, step: int) -> StepBatch[Any]:
            result = original(self, step)
            function(self, step, result.items)
            return result

        monkeypatch.setattr(StageObjective, "batch", batch)

    return register
