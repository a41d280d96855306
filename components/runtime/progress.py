"""Progress of long work: a bar with rate and time left on the terminal, JSON lines where
LIBRETTO_PROGRESS says.

One JSON line at most every second: ``{"stage", "task", "done", "total", "unit", "per_second",
"seconds_left", "note"}``.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager

from components.runtime.settings import progress_file


class Progress:
    """Counts work done; ``advance`` may be called as often as one likes."""

    def __init__(
        self, stage: str, task: str, total: float, unit: str, advance_bar, already: int = 0
    ) -> None:
        self.stage, self.task, self.total, self.unit = stage, task, total, unit
        self.done = self._already = float(already)
        self._note = ""
        self._bar = advance_bar
        self._start = self._last = time.monotonic()
        self._path = progress_file()

    def advance(self, amount: float = 1, note: str = "") -> None:
        """Adds ``amount`` of the unit to what is done; ``note`` shows beside the bar."""
        self.done += amount
        self._note = note or self._note
        self._bar(amount, note)
        if self._path and (time.monotonic() - self._last > 1 or self.done >= self.total):
            self._last = time.monotonic()
            self._write()

    def end(self, note: str) -> None:
        """Nothing more will be done, for the reason ``note``: what is done is all."""
        self.total = self.done
        self.advance(0, note)

    def _write(self) -> None:
        assert self._path is not None
        rate = (self.done - self._already) / max(time.monotonic() - self._start, 1e-9)
        left = (self.total - self.done) / rate if rate else None
        line = {
            "stage": self.stage,
            "task": self.task,
            "done": round(self.done, 3),
            "total": round(self.total, 3),
            "unit": self.unit,
            "per_second": round(rate, 3),
            "seconds_left": left and round(left, 1),
            "note": self._note,
        }
        with self._path.open("a") as stream:
            stream.write(json.dumps(line) + "\n")


@contextmanager
def progress(
    stage: str, task: str, total: float, unit: str, already: int = 0
) -> Iterator[Progress]:
    """A progress display for ``total`` of ``unit``, of which ``already`` was done by an earlier
    process and says nothing about the rate; plain lines where standard error is no terminal.
    """
    if sys.stderr.isatty():
        yield from _bar(stage, task, total, unit, already)
    else:
        yield from _lines(stage, task, total, unit, already)


def _bar(stage: str, task: str, total: float, unit: str, already: int) -> Iterator[Progress]:
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        TextColumn,
        TimeElapsedColumn,
        TimeRemainingColumn,
    )
    from rich.progress import Progress as RichProgress

    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn(unit),
        TimeElapsedColumn(),
        TextColumn("left"),
        TimeRemainingColumn(),
        TextColumn("{task.fields[note]}"),
    )
    with RichProgress(*columns, console=Console(stderr=True)) as bar:
        row = bar.add_task(f"{stage}: {task}", total=total, completed=already, note="")
        yield Progress(
            stage,
            task,
            total,
            unit,
            lambda amount, note: bar.update(row, advance=amount, note=note),
            already,
        )


def _lines(stage: str, task: str, total: float, unit: str, already: int) -> Iterator[Progress]:
    """One line every ten seconds, for logs."""
    start = last = time.monotonic()
    done = float(already)

    def advance(amount: float, note: str) -> None:
        nonlocal last, done
        done += amount
        now = time.monotonic()
        if now - last > 10:
            last = now
            rate = (done - already) / (now - start)
            left = (total - done) / rate if rate else 0
            print(
                f"{stage}: {task} {done:.0f}/{total:.0f} {unit}, {rate:.3g}/s, {left:.0f} s "
                f"left {note}",
                file=sys.stderr,
                flush=True,
            )

    yield Progress(stage, task, total, unit, advance, already)
