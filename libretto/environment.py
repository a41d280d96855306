"""The environment in which DVC runs the stages, and DVC itself as a command.

In: arguments of ``dvc``. Out: its output in this terminal, and its exit code, 255 for every failure
of a stage. Cost: a second of DVC, and the stages.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
from functools import partial
from pathlib import Path

from components.runtime.signals import end_with

ENVIRONMENT = {
    "OMP_WAIT_POLICY": "PASSIVE",  # idle OpenMP threads that spin slow down the other workers
    "TOKENIZERS_PARALLELISM": "false",
    "DO_NOT_TRACK": "1",
}


def call_dvc(*arguments: str) -> int:
    """Runs a command of DVC in this terminal; returns its exit code. Ctrl-C reaches DVC and its
    stage too: they end by themselves, and this waits for them. They also end when this process is
    killed.
    """
    sys.stdout.flush()
    command = [sys.executable, "-m", "dvc", *arguments]
    follow = partial(end_with, os.getpid(), signal.SIGTERM)
    with subprocess.Popen(command, env=build_environment(), preexec_fn=follow) as process:
        while True:
            with contextlib.suppress(KeyboardInterrupt):
                return process.wait()


def build_environment() -> dict[str, str]:
    """This process's environment for DVC: ``python`` in ``dvc.yaml`` is the interpreter that runs
    this.
    """
    folder = str(Path(sys.executable).parent)
    return {**os.environ, "PATH": os.pathsep.join([folder, os.environ.get("PATH", "")])}
