"""How processes end before their work is done: a stage at Ctrl-C, at SIGTERM and with the DVC that
started it; its workers with the stage.

In: the name of a stage; ``DVC_STAGE``, which DVC sets for the stages that it starts. Out: one line
on standard error and the exit code that shells use (130, 143). Nothing is lost: what is
half-written counts as missing, as after a kill. Cost: a thread that wakes once a second.
"""

from __future__ import annotations

import contextlib
import ctypes
import multiprocessing
import os
import select
import signal
import sys
import threading
from pathlib import Path

INTERRUPTED = 128 + signal.SIGINT  # exit code after Ctrl-C, as shells have it
TERMINATED = 128 + signal.SIGTERM
POLL_S = 1.0  # between two looks at the processes that started a stage
PR_SET_PDEATHSIG = 1  # prctl(2)
PROCESSES = Path("/proc")
# The first process of a machine or container: who has it for a parent has lost its own.
INITS = ("systemd", "init", "tini", "dumb-init", "docker-init", "catatonit")


def end_early(name: str) -> None:
    """Lets Ctrl-C and SIGTERM end the stage ``name``, which this process runs, at once; if DVC has
    started it, the end of DVC too. A stage that a user has started outlives its terminal's shell.

    A thread does it: in the main thread, Python would wait for the end of a long computation. The
    kernel ends the worker processes (``die_with_parent``).
    """
    # The helper of multiprocessing removes what an early end leaves of it, and warns of that.
    warnings = (os.environ.get("PYTHONWARNINGS"), "ignore:resource_tracker")
    os.environ["PYTHONWARNINGS"] = ",".join(filter(None, warnings))
    read_end, write_end = os.pipe()
    os.set_blocking(write_end, False)
    signal.set_wakeup_fd(write_end, warn_on_full_buffer=False)
    for number in (signal.SIGINT, signal.SIGTERM):
        if signal.getsignal(number) != signal.SIG_IGN:  # of nohup, or of a job in the background
            signal.signal(number, _leave_to_thread)
    os.register_at_fork(after_in_child=_restore_signals)
    starters = _list_starters() if os.environ.get("DVC_STAGE") else []
    threading.Thread(target=_watch, args=(name, read_end, starters), daemon=True).start()


def _leave_to_thread(*_: object) -> None:
    """The handler of the main thread: the pipe of ``_watch`` has the signal already."""


def _restore_signals() -> None:
    """In a process that was forked from a stage: its signals are not those of the stage."""
    signal.set_wakeup_fd(-1)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)


def _watch(name: str, read_end: int, starters: list[int]) -> None:
    while True:
        ready, _, _ = select.select([read_end], [], [], POLL_S)
        numbers = os.read(read_end, 64) if ready else b""
        if signal.SIGINT in numbers:
            _end(name, "interrupted", INTERRUPTED)
        elif signal.SIGTERM in numbers:
            _end(name, "ended by SIGTERM", TERMINATED)
        elif not _is_running(starters):
            _end(name, "ended, since the DVC that started it has ended", TERMINATED)


def _end(name: str, reason: str, exit_code: int) -> None:
    with contextlib.suppress(OSError):  # nobody reads it any more
        os.write(
            sys.stderr.fileno(),
            f"\n{name}: {reason}. The same command goes on from the last finished unit or "
            "checkpoint.\n".encode(),
        )
    os._exit(exit_code)


def _list_starters() -> list[int]:
    """The processes from the parent of this one up to DVC: a shell may be between them."""
    starters = [os.getppid()]
    with contextlib.suppress(OSError):
        while _is_shell(starters[-1]):
            starters.append(_parent_of(starters[-1]))
    return starters


def _is_shell(process: int) -> bool:
    """Whether a process is a shell that runs a stage's command line."""
    words = (PROCESSES / str(process) / "cmdline").read_bytes().split(b"\0")
    return b"-c" in words and any(b"components." in word for word in words)


def _is_running(starters: list[int]) -> bool:
    """Whether all processes that started this one still run; true where there are none."""
    if not starters:
        return True
    with contextlib.suppress(OSError):
        if (PROCESSES / str(starters[-1]) / "comm").read_text().strip() in INITS:
            return False  # DVC ended before this process could look
    parents = [os.getppid(), *(_parent_of(process) for process in starters[:-1])]
    return parents == starters


def _parent_of(process: int) -> int:
    """The parent of a process; 0 where the process has ended."""
    try:
        status = (PROCESSES / str(process) / "stat").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return 0
    return int(status.rpartition(")")[2].split()[1])


def die_with_parent(parent: int | None = None) -> None:
    """Makes the kernel kill this process when its parent dies, so that no orphan continues to
    write. ``parent`` is its id; by default it is the one that multiprocessing knows.

    Ctrl-C, which the terminal sends to all processes, is the parent's to handle: a worker that
    handled it too would print a traceback.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    if parent is None and (process := multiprocessing.parent_process()):
        parent = process.pid
    end_with(parent, signal.SIGKILL)


def end_with(parent: int | None, number: int) -> None:
    """Makes the kernel send the signal ``number`` to this process when ``parent`` dies, a process
    id; None for one that is not known.
    """
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, number)
    if parent is not None and os.getppid() != parent:  # it died before the kernel was asked
        os._exit(128 + number)


def is_started_by(module: str) -> bool:
    """Whether the parent of this process runs ``module``; true where that can't be read."""
    try:
        return module.encode() in (PROCESSES / str(os.getppid()) / "cmdline").read_bytes()
    except OSError:
        return True
