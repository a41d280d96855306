"""One ``dvc repro`` in a process of its own, followed stage by stage.

DVC prints which stage starts, is up to date or comes from its run cache; a flow needs no more to
show each stage as a task. A process for each stage would load the project anew (about a second a
stage).
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from components.config.errors import BY_KIND, LibrettoError
from components.runtime.json_files import read_json
from components.runtime.stage import error_path
from flows.command import DVC, Command

RAN, UP_TO_DATE, CACHED = "ran", "up to date", "taken from the run cache"
# What DVC 3.67 prints when a stage starts (dvc/stage/run.py, dvc/stage/__init__.py,
# dvc/stage/cache.py).
HEADINGS = {
    RAN: re.compile(r"Running stage '(.+)':"),
    UP_TO_DATE: re.compile(r"(?:Stage )?'(.+)' didn't change, skipping"),
    CACHED: re.compile(r"Stage '(.+)' is cached - skipping run, checking out outputs"),
}
FAILED = re.compile(r"failed to reproduce '([^']+)'")
Log = Callable[[str], None]
OnProgress = Callable[[dict[str, Any]], None]


class Reproduction:
    """``dvc repro`` of some targets: ``follow`` each stage of ``order`` once, in that order, and
    ``terminate`` in any case.
    """

    def __init__(self, targets: Sequence[str], order: Sequence[str]) -> None:
        self._arguments = [*DVC, "repro", *targets]
        self._order = list(order)
        self._pending: list[str] = []  # stages whose heading has not come yet
        self._command: Command | None = None
        self._lines: Iterator[str] = iter(())
        # Outcome and stage of a heading that was read while the stage before was followed.
        self._heading: tuple[str, str] | None = None
        self._heading_line = ""

    def follow(self, stage: str, log: Log, on_progress: OnProgress) -> str:
        """Waits until ``stage`` is done and returns how: RAN, UP_TO_DATE or CACHED.

        ``log`` gets each line of output as it comes, ``on_progress`` the stage's last progress
        about every two seconds. Raises the error that the stage wrote to its ``error.json``; a
        stage that is followed once more after that runs again.
        """
        if self._command is None:
            self._start(stage)
        outcome = UP_TO_DATE  # DVC prints nothing of a stage that it need not check
        if self._heading and self._heading[1] == stage:
            outcome, self._heading = self._heading[0], None
            log(self._heading_line)
        last_line = ""
        while self._heading is None and (line := next(self._lines, None)) is not None:
            if not line:
                self._report(stage, on_progress)
                continue
            heading = self._parse_heading(line)
            if heading and heading[1] != stage:
                self._heading, self._heading_line = heading, line  # in the log of that stage
                continue
            last_line = line
            log(line)
            if heading:
                outcome = heading[0]
        if self._heading is None:
            self._finish(stage, last_line)
        return outcome

    def _start(self, stage: str) -> None:
        self._pending = self._order[self._order.index(stage) :]
        for pending in self._pending:
            error_file(pending).unlink(missing_ok=True)  # of an earlier run
        progress = error_file(stage).parent.with_name("progress.jsonl")
        self._command = Command(self._arguments, progress)
        self._lines, self._heading = self._command.read_lines(), None

    def _parse_heading(self, line: str) -> tuple[str, str] | None:
        """Outcome and stage if a pending stage starts with this line; a stage may print what it
        likes.
        """
        for outcome, pattern in HEADINGS.items():
            match = pattern.fullmatch(line)
            if match and match[1] in self._pending:
                del self._pending[: self._pending.index(match[1]) + 1]
                return outcome, match[1]
        return None

    def _report(self, stage: str, on_progress: OnProgress) -> None:
        assert self._command is not None
        progress = self._command.read_progress()
        if progress and progress["stage"] == stage:
            on_progress(progress)

    def _finish(self, stage: str, last_line: str) -> None:
        """The process has ended: with the last stage, or with an error, which is raised if it is
        this stage's.
        """
        assert self._command is not None
        code = self._command.wait()
        self.terminate()
        failed = FAILED.search(last_line)
        # If a later stage failed before it started, that is raised when it is followed.
        if code and (failed is None or failed[1] == stage):
            raise read_error(stage, last_line)

    def terminate(self) -> None:
        """Ends what still runs."""
        if self._command:
            self._command.terminate()
            self._command = None


def error_file(stage: str) -> Path:
    """The ``error.json`` of a stage; roles of one stage share it, since they run one after the
    other.
    """
    return error_path(stage.split("@")[0])


def read_error(stage: str, last_line: str) -> LibrettoError:
    """The error that a stage wrote, or one with the last line of its output."""
    file = error_file(stage)
    if not file.is_file():
        return LibrettoError(
            f"{stage}: {last_line or 'no output'}",
            subject=stage,
            hint="See the log of this task run.",
        )
    keys = {"kind": str, "message": str, "subject": str}
    record = read_json(file, keys=keys, hint="See the log of this task run.")
    return BY_KIND.get(record["kind"], LibrettoError)(
        f"{stage}: {record['message']}", subject=record["subject"]
    )
