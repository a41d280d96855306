"""One ``dvc repro`` in a process of its own, followed stage by stage.

DVC says which stage begins, is up to date or comes out of its cache; that is all that a flow needs
to show each as a task. Asking DVC for one stage after the other would load the project anew for
each (about a second a stage).
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from components.config.errors import BY_KIND, LibrettoError
from components.runtime.stage import error_path
from flows.command import DVC, Command

RAN, UP_TO_DATE, CACHED = "ran", "up to date", "taken from the run cache"
# what DVC 3.67 says where a stage begins (dvc/stage/run.py, dvc/stage/__init__.py,
# dvc/stage/cache.py)
HEADINGS = {
    RAN: re.compile(r"Running stage '(.+)':"),
    UP_TO_DATE: re.compile(r"(?:Stage )?'(.+)' didn't change, skipping"),
    CACHED: re.compile(r"Stage '(.+)' is cached - skipping run, checking out outputs"),
}
FAILED = re.compile(r"failed to reproduce '([^']+)'")
Say = Callable[[str], None]
Show = Callable[[dict[str, Any]], None]


class Reproduction:
    """``dvc repro`` of some targets: ``follow`` each stage of ``order`` once, in that order, and
    ``end`` in any case.
    """

    def __init__(self, targets: Sequence[str], order: Sequence[str]) -> None:
        self._arguments = [*DVC, "repro", *targets]
        self._order = list(order)
        self._left: list[str] = []  # stages whose heading has not come yet
        self._command: Command | None = None
        self._lines: Iterator[str] = iter(())
        self._heading: tuple[str, str] | None = (
            None  # of the next stage, read while the one before was followed
        )

    def follow(self, stage: str, say: Say, show: Show) -> str:
        """Waits until ``stage`` is done and tells how: RAN, UP_TO_DATE or CACHED.

        ``say`` gets each line of output as it comes, ``show`` the stage's last progress about every
        two seconds. Raises the error that the stage left in its ``error.json``; followed once more
        after that, it is run again.
        """
        if self._command is None:
            self._start(stage)
        outcome = UP_TO_DATE  # DVC has no word for a stage that it need not look at
        if self._heading and self._heading[1] == stage:
            outcome, self._heading = self._heading[0], None
        last = ""
        while self._heading is None and (line := next(self._lines, None)) is not None:
            if not line:
                self._show(stage, show)
                continue
            last = line
            say(line)
            found = self._heading_of(line)
            if found and found[1] == stage:
                outcome = found[0]
            elif found:
                self._heading = found
        if self._heading is None:
            self._finish(stage, last)
        return outcome

    def _start(self, stage: str) -> None:
        self._left = self._order[self._order.index(stage) :]
        for each in self._left:
            report_of(each).unlink(missing_ok=True)  # of an earlier run
        self._command = Command(
            self._arguments, report_of(stage).parent.with_name("progress.jsonl")
        )
        self._lines, self._heading = self._command.lines(), None

    def _heading_of(self, line: str) -> tuple[str, str] | None:
        """(how, stage) where a stage that has not begun yet begins with this line; a stage may
        print what it likes.
        """
        for how, pattern in HEADINGS.items():
            match = pattern.fullmatch(line)
            if match and match[1] in self._left:
                del self._left[: self._left.index(match[1]) + 1]
                return how, match[1]
        return None

    def _show(self, stage: str, show: Show) -> None:
        assert self._command is not None
        progress = self._command.progress()
        if progress and progress["stage"] == stage:
            show(progress)

    def _finish(self, stage: str, last: str) -> None:
        """The process has ended: with the last stage, or with an error in this one."""
        assert self._command is not None
        code = self._command.code()
        self.end()
        failed = FAILED.search(last)
        if code and (
            failed is None or failed[1] == stage
        ):  # else a later one failed before it began: it will say so when it is followed
            raise error_of(stage, last)

    def end(self) -> None:
        """Ends what still runs."""
        if self._command:
            self._command.end()
            self._command = None


def report_of(stage: str) -> Path:
    """Where a stage leaves its ``error.json``; roles of one stage share it, since they run one
    after the other.
    """
    return error_path(stage.split("@")[0])


def error_of(stage: str, last: str) -> LibrettoError:
    """The error that a stage left behind, or one with the last line of its output."""
    report = report_of(stage)
    if not report.is_file():
        return LibrettoError(
            f"{stage}: {last or 'no output'}", subject=stage, hint="See the log of this task run."
        )
    record = json.loads(report.read_text())
    return BY_KIND[record["kind"]](f"{stage}: {record['message']}", subject=record["subject"])
