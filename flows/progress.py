"""The progress of a stage as an artifact of its task run.

In: lines of progress (components.runtime.progress), as plain data. Out: one artifact a stage, which
Prefect's page shows as a bar with a text. Cost: a request to the server for each change.
"""

from __future__ import annotations

from typing import Any, cast
from uuid import UUID

from prefect.artifacts import create_progress_artifact, update_progress_artifact


class StageProgress:
    """Writes a stage's progress; a stage that reports none has no artifact."""

    def __init__(self, stage: str) -> None:
        self._key = f"progress-{stage.replace('@', '-')}"
        self._artifact: UUID | None = None
        self._last: dict[str, Any] = {}

    def __call__(self, progress: dict[str, Any]) -> None:
        """Writes the progress if it has changed."""
        if progress != self._last:
            self._last = progress
            percent = 100 * progress["done"] / max(progress["total"], 1e-9)
            self._write(percent, describe_progress(progress))

    def _write(self, percent: float, text: str) -> None:
        if self._artifact is None:
            artifact = create_progress_artifact(percent, key=self._key, description=text)
            self._artifact = cast(UUID, artifact)
        else:
            update_progress_artifact(self._artifact, percent, text)

    def finish(self) -> None:
        """Writes that the stage is done, if it reported any progress."""
        if self._last:
            self._write(100.0, "done")


def describe_progress(progress: dict[str, Any]) -> str:
    """A line of progress as text: ``spoken-train: 10 of 38 shards, 0.5 a second, 56 s left``."""
    parts = [
        f"{progress['task']}: {progress['done']:g} of {progress['total']:g} {progress['unit']}",
        f"{progress['per_second']:g} a second",
    ]
    parts += [] if progress["seconds_left"] is None else [f"{progress['seconds_left']:.0f} s left"]
    return ", ".join([*parts, *filter(None, [progress["note"]])])
