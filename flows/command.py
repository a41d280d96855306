"""A command in a process of its own, read line by line while it runs, with the progress that a
stage reports besides its output.
"""

from __future__ import annotations

import contextlib
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
from components.runtime.json_files import parse_json
from libretto.environment import build_environment

DVC = (sys.executable, "-m", "dvc")
POLL_S = 2.0  # without output, after which progress is read
GRACE_S = 10.0  # in which a command that was asked to end may end by itself
END = None  # in the queue behind the last line
# Runs a command, and kills the process group when standard input closes: the flow has closed it, or
# was killed. Without it a stage would go on, and keep DVC's locks, a GPU and the work cache for a
# result that nobody records. It imports nothing of the project, so that it starts in 30 ms.
GUARD = """# the guard of a flow's command
import os, signal, subprocess, sys, threading

def end_with_starter():
    os.read(sys.stdin.fileno(), 1)  # nothing is ever written: it returns when the pipe closes
    os.killpg(0, signal.SIGKILL)

threading.Thread(target=end_with_starter, daemon=True).start()
sys.exit(subprocess.run(sys.argv[1:], stdin=subprocess.DEVNULL, check=False).returncode)
"""


def run(*command: str, hint: str = "") -> str:
    """Standard output of a command; raises InputError with its errors if it fails."""
    done = subprocess.run(
        command, capture_output=True, text=True, check=False, env=build_environment()
    )
    if done.returncode:
        words = shlex.join(command).replace(shlex.join(DVC), "dvc")
        raise InputError(f"'{words}' failed: {done.stderr.strip()}", subject=words, hint=hint)
    return done.stdout.strip()


class Command:
    """A running command. It ends with this process, however that ends, and all that it started ends
    with it.
    """

    def __init__(self, arguments: Sequence[str], progress: Path) -> None:
        """Starts ``arguments``; a stage among them reports its progress to the file ``progress``,
        which is emptied.
        """
        progress.parent.mkdir(parents=True, exist_ok=True)
        progress.write_text("")
        self._progress = progress
        environment = {
            **build_environment(),
            "PYTHONUNBUFFERED": "1",
            "LIBRETTO_PROGRESS": str(progress),
        }
        self._process = subprocess.Popen(
            [sys.executable, "-c", GUARD, *arguments],
            env=environment,
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

    def read_lines(self) -> Iterator[str]:
        """Each line as it comes, and an empty one after each ``POLL_S`` seconds without any."""
        while True:
            try:
                line = self._lines.get(timeout=POLL_S)
            except queue.Empty:
                yield ""
                continue
            if line is END:
                return
            yield line

    def read_progress(self) -> dict[str, Any] | None:
        """The last line of progress (components.runtime.progress), if there is one."""
        lines = self._progress.read_text().splitlines(keepends=True)
        complete = [line for line in lines[-2:] if line.endswith("\n")]
        if not complete:
            return None
        where, hint = str(self._progress), "Remove it: it has the progress of a run alone."
        line: dict[str, Any] = parse_json(complete[-1], where, hint=hint)
        return line

    def wait(self) -> int:
        """Waits until the command has ended; returns its exit code."""
        return self._process.wait()

    def terminate(self) -> None:
        """Ends the command and all that it started; does nothing if it has ended."""
        if self._process.poll() is None:
            os.killpg(self._process.pid, signal.SIGTERM)
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._process.wait(GRACE_S)
        assert self._process.stdin is not None
        self._process.stdin.close()  # the guard kills what still runs
        self._process.wait()
