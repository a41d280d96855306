"""Progress of long work: a bar with rate and time left on the terminal, JSON lines where LIBRETTO_PROGRESS says.

One JSON line at most every second: ``{"stage", "task", "done", "total", "unit", "per_second", "seconds_left"}``.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager

from components.config.settings import progress_file


class Progress:
    """Counts work done; ``advance`` may be called as often as one likes."""

    def __init__(self, stage: str, task: str, total: float, unit: str, advance_bar) -> None:
        self.stage, self.task, self.total, self.unit = stage, task, total, unit
        self.done = 0.0
        self._bar = advance_bar
        self._start = self._last = time.monotonic()
        self._path = progress_file()

    def advance(self, amount: float = 1, note: str = "") -> None:
        """Adds ``amount`` of the unit to what is done; ``note`` shows beside the bar."""
        self.done += amount
        self._bar(amount, note)
        if self._path and (time.monotonic() - self._last > 1 or self.done >= self.total):
            self._last = time.monotonic()
            self._write()

    def _write(self) -> None:
        assert self._path is not None
        rate = self.done / max(time.monotonic() - self._start, 1e-9)
        left = (self.total - self.done) / rate if rate else None
        line = {"stage": self.stage, "task": self.task, "done": round(self.done, 3), "total": round(self.total, 3),
                "unit": self.unit, "per_second": round(rate, 3), "seconds_left": left and round(left, 1)}  # fmt: skip
        with self._path.open("a") as stream:
            stream.write(json.dumps(line) + "\n")


@contextmanager
def progress(stage: str, task: str, total: float, unit: str) -> Iterator[Progress]:
    """A progress display for ``total`` of ``unit``; plain lines where standard error is no terminal."""
    if sys.stderr.isatty():
        yield from _bar(stage, task, total, unit)
    else:
        yield from _lines(stage, task, total, unit)


def _bar(stage: str, task: str, total: float, unit: str) -> Iterator[Progress]:
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeElapsedColumn, TimeRemainingColumn
    from rich.progress import Progress as RichProgress

    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TextColumn(unit),
               TimeElapsedColumn(), TextColumn("left"), TimeRemainingColumn(), TextColumn("{task.fields[note]}"))  # fmt: skip
    with RichProgress(*columns, console=Console(stderr=True)) as bar:
        row = bar.add_task(f"{stage}: {task}", total=total, note="")
        yield Progress(stage, task, total, unit, lambda amount, note: bar.update(row, advance=amount, note=note))


def _lines(stage: str, task: str, total: float, unit: str) -> Iterator[Progress]:
    """One line every ten seconds, for logs."""
    start = last = time.monotonic()
    done = 0.0

    def advance(amount: float, note: str) -> None:
        nonlocal last, done
        done += amount
        now = time.monotonic()
        if now - last > 10:
            last = now
            rate = done / (now - start)
            left = (total - done) / rate if rate else 0
            print(f"{stage}: {task} {done:.0f}/{total:.0f} {unit}, {rate:.3g}/s, {left:.0f} s left {note}", file=sys.stderr, flush=True)

    yield Progress(stage, task, total, unit, advance)
