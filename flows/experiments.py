"""DVC's queue of experiments: what is in it and what came out, put in, worked off by one worker a
GPU.

DVC's workers are processes of their own: they go on when whoever queued goes, and stop ten seconds
after the queue is empty. One that was killed leaves its experiment as running for ever; ``settle``
marks it failed.
"""

from __future__ import annotations

import json
import subprocess
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml
from dvc.repo import Repo
from dvc.repo.experiments.refs import ExpRefInfo

from components.config.errors import InputError, TransientError
from components.config.params import read_overridden_params
from flows.command import DVC, environment, run
from flows.recipe import Cell

OF_A_RESULT = (
    "params.yaml",
    "dvc.lock",
    "metrics/",
)  # in what the commit of an experiment may differ from the one it hangs on
POLL = 5.0  # seconds between two looks at the queue, each of which costs 0.3
STARTED = 60.0  # seconds in which a worker must have come up


def waiting() -> dict[str, str]:
    """The experiments that are not done, by name: ``Queued`` or ``Running``."""
    with Repo() as repo:
        held = repo.experiments.celery_queue
        return {
            **{each.name: "Queued" for each in held.iter_queued()},
            **{each.name: "Running" for each in held.iter_active()},
        }


def results() -> dict[str, str]:
    """The commit of each experiment of the last commit that succeeded, by name.

    Asked of Git: ``dvc exp show`` looks into the copies in which experiments run, and hangs for
    ever where one goes meanwhile.
    """
    place = f"{ExpRefInfo(run('git', 'rev-parse', 'HEAD'))}/"
    lines = run("git", "for-each-ref", "--format=%(refname) %(objectname)", place).splitlines()
    return dict(line.removeprefix(place).split() for line in lines)


def committed(revision: str, file: Path) -> Any:
    """What a commit holds as JSON at this path, None where it holds nothing there."""
    if not run("git", "ls-tree", "--name-only", revision, "--", str(file)):
        return None
    return json.loads(run("git", "show", f"{revision}:{file}"))


def is_done(cell: Cell, revision: str | None) -> bool:
    """Whether this commit is what the cell would give: it has these parameters, and is of nothing
    but what is committed.
    """
    if revision is None or run("git", "status", "--porcelain", "--untracked-files=no"):
        return False
    changed = run("git", "diff", "--name-only", "HEAD", revision).split()
    params = yaml.safe_load(run("git", "show", f"{revision}:params.yaml"))
    return (
        all(name.startswith(OF_A_RESULT) for name in changed)
        and params == read_overridden_params(cell.overrides, cell.name).raw
    )


def queue_command(name: str, cell: Cell) -> list[str]:
    return ["exp", "run", "--queue", "-n", name, *cell.arguments()]


def put(cells: Mapping[str, Cell]) -> None:
    """Queues the cells, in place of earlier experiments of the same names."""
    present = set(run(*DVC, "exp", "list", "--name-only").split())
    earlier = [name for name in cells if name in present]
    if earlier:
        run(*DVC, "exp", "remove", *earlier)
    for name, cell in cells.items():
        run(*DVC, *queue_command(name, cell))


def settle(names: Sequence[str]) -> list[str]:
    """Marks those of ``names`` failed that count as running while no worker works; returns them."""
    if workers():
        return []
    left = [name for name, state in waiting().items() if state == "Running" and name in names]
    if left:
        run(*DVC, "queue", "kill", *left)
    return left


def workers() -> int:
    """DVC's workers that answer; asking takes some seconds."""
    with Repo() as repo:
        return len(repo.experiments.celery_queue.worker_status())


def start(devices: Sequence[str]) -> None:
    """A worker for each device that has none yet; a device is what CUDA_VISIBLE_DEVICES is to say,
    or empty for none.

    Raises TransientError where one does not come up.
    """
    for count, device in enumerate(devices, 1):
        seen = {"CUDA_VISIBLE_DEVICES": device} if device else {}
        _start_worker(count, seen)  # those that work already stay
        end = time.monotonic() + STARTED
        while workers() < count and waiting():
            if time.monotonic() > end:
                raise TransientError(
                    f"Worker {count} of DVC's queue did not start in {STARTED:g} s.",
                    hint="'dvc queue start' says why.",
                )
            time.sleep(1)


def _start_worker(count: int, seen: Mapping[str, str]) -> None:
    """Has DVC see to ``count`` workers. Their output goes to DVC's files: a worker that held a pipe
    of ours would be waited for.
    """
    command = [*DVC, "queue", "start", "--jobs", str(count)]
    done = subprocess.run(
        command,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        check=False,
        env={**environment(), **seen},
    )
    if done.returncode:
        raise InputError("'dvc queue start' failed.", hint="Run it by hand: it says why.")


def wait(name: str) -> None:
    """Waits until the experiment is done, well or not; raises TransientError where its worker is
    gone.
    """
    quiet = time.monotonic()
    while name in waiting():
        time.sleep(POLL)
        if time.monotonic() - quiet > STARTED:
            if not workers() and name in waiting():
                settle([name])
                raise TransientError(
                    f"'{name}': its worker was killed.",
                    subject=name,
                    hint="Run again: finished units are kept.",
                )
            quiet = time.monotonic()


def stop(names: Sequence[str]) -> None:
    """Takes the experiments that are not done out of the queue and kills those that run."""
    found = waiting()
    for word, state in (("remove", "Queued"), ("kill", "Running")):
        own = [name for name in names if found.get(name) == state]
        if own:
            subprocess.run(
                [*DVC, "queue", word, *own], capture_output=True, check=False
            )  # one may have ended meanwhile


def reason(name: str) -> str:
    """The last line that a failed experiment's stage wrote, from its log."""
    log = subprocess.run([*DVC, "queue", "logs", name], capture_output=True, text=True, check=False)
    lines = [
        line.strip()
        for line in log.stdout.splitlines()
        if line.strip() and not line.startswith("ERROR: failed to reproduce")
    ]
    return lines[-1] if lines else log.stderr.strip()
