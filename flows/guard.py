"""A command that ends with whoever started it: ``python flows/guard.py COMMAND …``, its standard
input a pipe that the starter holds.

When the pipe closes, be it that the starter closed it, was killed or crashed, the whole process
group is killed: a stage without its flow would hold DVC's locks, a GPU and the work cache for a
result that nobody records. Imports nothing of the project, so that it starts in 30 ms.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading


def end_with_starter() -> None:
    """Waits until standard input closes, then kills the process group, this process with it."""
    os.read(sys.stdin.fileno(), 1)  # nothing is ever written: it returns when the pipe closes
    os.killpg(0, signal.SIGKILL)


if __name__ == "__main__":
    threading.Thread(target=end_with_starter, daemon=True).start()
    sys.exit(subprocess.run(sys.argv[1:], stdin=subprocess.DEVNULL, check=False).returncode)
