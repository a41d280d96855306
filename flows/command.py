"""A command in a process of its own, heard line by line as it runs, with the progress that a stage
reports beside its output.
"""

from __future__ import annotations

import contextlib
import json
import os
import queue
import shlex
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from components.config.errors import InputError

DVC = (sys.executable, "-m", "dvc")
GUARD = Path(__file__).with_name("guard.py")
POLL = 2.0  # seconds without output after which progress is looked at
GRACE = 10.0  # seconds that a command has to end by itself when it is asked to
END = None  # behind the last line


def environment() -> dict[str, str]:
    """Ours, with the ``python`` of a stage being the one that runs this."""
    return {**os.environ, "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"}


def run(*command: str, hint: str = "") -> str:
    """Standard output of a command; raises InputError with what it says where it fails."""
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment())
    if done.returncode:
        raise InputError(
            f"'{shlex.join(command).replace(shlex.join(DVC), 'dvc')}' failed: "
            f"{done.stderr.strip()}",
            hint=hint,
        )
    return done.stdout.strip()


class Command:
    """A running command. What it started ends with it, and it ends with this process, however that
    ends.
    """

    def __init__(self, arguments: Sequence[str], progress: Path) -> None:
        """Starts ``arguments``; a stage among them reports its progress to the file ``progress``,
        which is emptied.
        """
        progress.parent.mkdir(parents=True, exist_ok=True)
        progress.write_text("")
        self._progress = progress
        extended = {**environment(), "PYTHONUNBUFFERED": "1", "LIBRETTO_PROGRESS": str(progress)}
        self._process = subprocess.Popen(
            [sys.executable, str(GUARD), *arguments],
            env=extended,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
            start_new_session=True,
        )
        self._lines: queue.Queue[str | None] = queue.Queue()
        threading.Thread(target=self._read, daemon=True).start()

    def _read(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            if line.strip():
                self._lines.put(line.rstrip())
        self._lines.put(END)

    def lines(self) -> Iterator[str]:
        """Each line as it comes, and an empty one after each ``POLL`` seconds without any."""
        while True:
            try:
                line = self._lines.get(timeout=POLL)
            except queue.Empty:
                yield ""
                continue
            if line is END:
                return
            yield line

    def progress(self) -> dict[str, Any] | None:
        """The last line of progress (components.runtime.progress), if there is one."""
        lines = self._progress.read_text().splitlines(keepends=True)
        whole = [line for line in lines[-2:] if line.endswith("\n")]
        return json.loads(whole[-1]) if whole else None

    def code(self) -> int:
        """The exit code, once it has ended."""
        return self._process.wait()

    def end(self) -> None:
        """Ends the command and all that it started; harmless where it has ended."""
        if self._process.poll() is None:
            os.killpg(self._process.pid, signal.SIGTERM)
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._process.wait(GRACE)
        assert self._process.stdin is not None
        self._process.stdin.close()  # the guard kills what is left
        self._process.wait()
