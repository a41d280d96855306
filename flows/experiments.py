"""DVC's queue of experiments: what is in it, what came out, and the workers that run it, one a GPU.

DVC's workers are processes of their own: they go on when the process that queued has ended, and
stop ten seconds after the queue is empty. A worker that was killed leaves its experiment as running
for ever; ``fail_orphans`` marks it as failed.
"""

from __future__ import annotations

import contextlib
import hashlib
import subprocess
import threading
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import psutil
import yaml
from dvc.repo import Repo
from dvc.repo.experiments.refs import ExpRefInfo

from components.config.errors import InputError, TransientError
from components.config.params import read_overridden_params
from components.plan.recipe import RecipeCell
from components.runtime.json_files import parse_json
from flows.command import DVC, run
from libretto.environment import build_environment

# Files in which the commit of an experiment may differ from the one that it is based on.
RESULT_FILES = ("params.yaml", "dvc.lock", "metrics/")
POLL_S = 5.0  # between two reads of the queue, each of which takes 0.3 s
START_S = 60.0  # in which a worker must have started
QUEUED, RUNNING = "Queued", "Running"
_STARTING = threading.Lock()


def list_unfinished() -> dict[str, str]:
    """The experiments that are not done, by name: QUEUED or RUNNING.

    One that a worker took and gave back as it ended is in DVC's queue twice: it is queued.
    """
    with Repo() as repo:
        queue = repo.experiments.celery_queue
        return {
            **{entry.name: RUNNING for entry in queue.iter_active()},
            **{entry.name: QUEUED for entry in queue.iter_queued()},
        }


def list_results() -> dict[str, str]:
    """The commit of each experiment of the last commit that succeeded, by name.

    Read from Git: ``dvc exp show`` looks into the copies in which experiments run, and waits for
    ever if one is removed meanwhile.
    """
    prefix = f"{ExpRefInfo(run('git', 'rev-parse', 'HEAD'))}/"
    lines = run("git", "for-each-ref", "--format=%(refname) %(objectname)", prefix).splitlines()
    return dict(line.removeprefix(prefix).split() for line in lines)


def read_committed(revision: str, file: Path) -> Any:
    """The content of a JSON file in a commit; None if the commit has no such file."""
    if not run("git", "ls-tree", "--name-only", revision, "--", str(file)):
        return None
    text = run("git", "show", f"{revision}:{file}")
    return parse_json(text, f"{file} of {revision}", hint="Score that revision again.")


def is_done(cell: RecipeCell, revision: str | None) -> bool:
    """Whether this commit is the result of the cell: it has these parameters, and all else is as
    committed.
    """
    if revision is None or run("git", "status", "--porcelain", "--untracked-files=no"):
        return False
    changed = run("git", "diff", "--name-only", "HEAD", revision).split()
    params = yaml.safe_load(run("git", "show", f"{revision}:params.yaml"))
    return (
        all(name.startswith(RESULT_FILES) for name in changed)
        and params == read_overridden_params(cell.overrides, cell.name).raw
    )


def build_command(name: str, cell: RecipeCell) -> list[str]:
    """The arguments of ``dvc`` that queue a cell as an experiment."""
    return ["exp", "run", "--queue", "-n", name, *cell.build_arguments()]


def enqueue(cells: Mapping[str, RecipeCell]) -> None:
    """Queues the cells, in place of earlier experiments of the same names."""
    names = set(run(*DVC, "exp", "list", "--name-only").split())
    earlier = [name for name in cells if name in names]
    if earlier:
        run(*DVC, "exp", "remove", *earlier)
    for name, cell in cells.items():
        run(*DVC, *build_command(name, cell))


def fail_orphans(names: Sequence[str]) -> list[str]:
    """Marks those of ``names`` as failed that count as running although there is no worker; returns
    them.
    """
    if has_worker():
        return []
    orphans = [
        name for name, state in list_unfinished().items() if state == RUNNING and name in names
    ]
    if orphans:
        run(*DVC, "queue", "kill", *orphans)
    return orphans


def has_worker() -> bool:
    """Whether a worker of this queue runs on this machine: one that does not answer may be at work.

    On a busy machine a worker of dvc-task 0.40 takes its own unanswered request for an empty queue;
    it then answers nobody and ends with its experiment.
    """
    return bool(_list_workers())


def _list_workers() -> list[psutil.Process]:
    with Repo() as repo:
        folder = repo.experiments.celery_queue.wdir
    name = f"dvc-exp-{hashlib.sha256(folder.encode()).hexdigest()[:6]}-"  # as DVC names them
    return [
        process
        for process in psutil.process_iter(["cmdline"])
        if any(argument.startswith(name) for argument in process.info["cmdline"] or ())
    ]


def end_idle_workers() -> None:
    """Ends the workers of an empty queue: one that ends by itself, ten seconds after the queue was
    empty, can take an experiment with it that is queued at that moment.
    """
    if list_unfinished():
        return
    workers = _list_workers()
    for process in workers:
        with contextlib.suppress(psutil.NoSuchProcess):
            process.terminate()  # a worker of Celery ends its work first
    psutil.wait_procs(workers, timeout=START_S)


def count_workers() -> int:
    """DVC's workers that answer; that takes some seconds."""
    with Repo() as repo:
        return len(repo.experiments.celery_queue.worker_status())


def start_workers(devices: Sequence[str]) -> None:
    """Starts a worker for each device that has none yet; a device is the worker's
    CUDA_VISIBLE_DEVICES, or empty for none.

    Raises TransientError if one does not start.
    """
    for count, device in enumerate(devices, 1):
        _start_worker(count, {"CUDA_VISIBLE_DEVICES": device} if device else {})
        end = time.monotonic() + START_S
        while count_workers() < count and list_unfinished():
            if time.monotonic() > end:
                raise TransientError(
                    f"Worker {count} of DVC's queue did not start in {START_S:g} s.",
                    subject="dvc queue",
                    hint="'dvc queue start' says why.",
                )
            time.sleep(1)


def _start_worker(count: int, variables: Mapping[str, str]) -> None:
    """Has DVC start workers until there are ``count``. Their output goes to DVC's files: a worker
    that had a pipe of this process would have to be waited for.
    """
    command = [*DVC, "queue", "start", "--jobs", str(count)]
    done = subprocess.run(
        command,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        check=False,
        env={**build_environment(), **variables},
    )
    if done.returncode:
        raise InputError(
            "'dvc queue start' failed.",
            subject="dvc queue",
            hint="Run it in a terminal: it says why.",
        )


def wait_for(name: str, devices: Sequence[str]) -> None:
    """Waits until the experiment has ended, well or not; raises TransientError if its worker was
    killed.

    A worker that ends while an experiment is queued leaves it there: workers are started again.
    """
    while name in list_unfinished():
        time.sleep(POLL_S)
        with _STARTING:  # by one watcher at a time
            if has_worker():
                continue
            state = list_unfinished().get(name)  # its worker may have ended with it
            if state == QUEUED:
                start_workers(devices)
        if state == RUNNING:
            fail_orphans([name])
            raise TransientError(
                f"'{name}': its worker was killed.",
                subject=name,
                hint="Run again: finished units are in the work cache.",
            )


def cancel(names: Sequence[str]) -> None:
    """Removes the experiments from the queue that have not started, and kills those that run."""
    unfinished = list_unfinished()
    for command, state in (("remove", QUEUED), ("kill", RUNNING)):
        chosen = [name for name in names if unfinished.get(name) == state]
        if chosen:  # one may have ended meanwhile, so a failure is ignored
            subprocess.run([*DVC, "queue", command, *chosen], capture_output=True, check=False)


def read_failure(name: str) -> str:
    """The last line that a failed experiment's stage wrote, from its log."""
    log = subprocess.run([*DVC, "queue", "logs", name], capture_output=True, text=True, check=False)
    lines = [
        line.strip()
        for line in log.stdout.splitlines()
        if line.strip() and not line.startswith("ERROR: failed to reproduce")
    ]
    return lines[-1] if lines else log.stderr.strip()
