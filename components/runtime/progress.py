"""Progress of long work: a bar with rate and remaining time on the terminal, plain lines where
standard error is no terminal, and JSON lines in the file that ``LIBRETTO_PROGRESS`` names.

The file gets at most one line in a second: ``{"stage", "task", "done", "total", "unit",
"per_second", "seconds_left", "note"}``.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from components.runtime.settings import progress_file

WRITE_INTERVAL_S = 1  # of JSON lines
PRINT_INTERVAL_S = 10  # of plain lines


class Progress:
    """Counts finished work; ``advance`` may be called at any rate.

    An earlier process did ``done_before`` of it, which does not count for the rate.
    """

    def __init__(
        self,
        stage: str,
        task: str,
        total: float,
        unit: str,
        advance_bar: Callable[[float, str], object],
        done_before: int = 0,
    ) -> None:
        self.stage, self.task, self.total, self.unit = stage, task, total, unit
        self.done = self._done_before = float(done_before)
        self._note = ""
        self._advance_bar = advance_bar
        self._start = self._last_write = time.monotonic()
        self._path = progress_file()

    def advance(self, amount: float = 1, note: str = "") -> None:
        """Adds ``amount`` of the unit to the finished work; the bar has ``note`` beside it."""
        self.done += amount
        self._note = note or self._note
        self._advance_bar(amount, note)
        is_due = time.monotonic() - self._last_write > WRITE_INTERVAL_S
        if self._path and (is_due or self.done >= self.total):
            self._last_write = time.monotonic()
            self._write()

    def end(self, note: str) -> None:
        """Sets the total to the finished work: no more follows, for the reason ``note``."""
        self.total = self.done
        self.advance(0, note)

    def _write(self) -> None:
        assert self._path is not None
        rate = (self.done - self._done_before) / max(time.monotonic() - self._start, 1e-9)
        remaining_s = (self.total - self.done) / rate if rate else None
        line = {
            "stage": self.stage,
            "task": self.task,
            "done": round(self.done, 3),
            "total": round(self.total, 3),
            "unit": self.unit,
            "per_second": round(rate, 3),
            "seconds_left": remaining_s and round(remaining_s, 1),
            "note": self._note,
        }
        with self._path.open("a") as stream:
            stream.write(json.dumps(line) + "\n")


@contextmanager
def progress(
    stage: str, task: str, total: float, unit: str, done_before: int = 0
) -> Iterator[Progress]:
    """Within this block, displays the progress of ``total`` of ``unit``; an earlier process did
    ``done_before`` of it.
    """
    if sys.stderr.isatty():
        yield from _show_bar(stage, task, total, unit, done_before)
    else:
        yield from _print_lines(stage, task, total, unit, done_before)


def _show_bar(
    stage: str, task: str, total: float, unit: str, done_before: int
) -> Iterator[Progress]:
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
        row = bar.add_task(f"{stage}: {task}", total=total, completed=done_before, note="")
        yield Progress(
            stage,
            task,
            total,
            unit,
            lambda amount, note: bar.update(row, advance=amount, note=note),
            done_before,
        )


def _print_lines(
    stage: str, task: str, total: float, unit: str, done_before: int
) -> Iterator[Progress]:
    """A line on standard error every ``PRINT_INTERVAL_S`` at most, for logs."""
    start = last_print = time.monotonic()
    done = float(done_before)

    def advance(amount: float, note: str) -> None:
        nonlocal last_print, done
        done += amount
        now = time.monotonic()
        if now - last_print > PRINT_INTERVAL_S:
            last_print = now
            rate = (done - done_before) / (now - start)
            remaining_s = (total - done) / rate if rate else 0
            sys.stderr.write(
                f"{stage}: {task} {done:.0f}/{total:.0f} {unit}, {rate:.3g}/s, "
                f"{remaining_s:.0f} s left {note}\n"
            )
            sys.stderr.flush()

    yield Progress(stage, task, total, unit, advance, done_before)
