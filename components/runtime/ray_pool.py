"""Units as plain Ray tasks on a running cluster (``ray start``); the extra ``cluster`` installs
Ray.

In: a function of a module of this project, and items that pickle. A task runs in the folder of the
workspace with the runtime settings of this process. So all nodes need the workspace and the work
cache at the same paths (a shared file system with file locks, such as NFS 4), and the same
packages. Keys are not sent: a node has them from the environment in which ``ray start`` ran. Out:
results, in the order in which tasks finish. Ray pickles between processes of this project, as
worker processes do; nothing that comes from a file or a network is unpickled here. Cost: about 3 s
to connect.
"""

from __future__ import annotations

import importlib
import os
import socket
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import Any, TypeVar

from components.config.errors import InputError, TransientError
from components.runtime.instruction_set import pinned_variables
from components.runtime.logs import configure_logging
from components.runtime.settings import ray_address

Item = TypeVar("Item")
Result = TypeVar("Result")

# A unit runs again so many times after its worker was killed: one that kills its worker each time
# is no accident.
MAX_RESTARTS = 2
# Tasks that Ray has at a time: its search through waiting tasks costs the square of their number.
MAX_QUEUED_TASKS = 1000
# Beginnings of the names of variables that go to the workers: settings, no keys.
PASSED_VARIABLES = (
    "LIBRETTO_",
    "OMP_WAIT_POLICY",
    "TOKENIZERS_PARALLELISM",
    "HF_HUB_OFFLINE",
    "HF_HUB_DISABLE",
)


def run_ray_tasks(
    function: Callable[[Item], Result], items: Sequence[Item], gpus: float
) -> Iterator[tuple[Item, Result]]:
    """Yields (item, result) as tasks finish, each with one core and ``gpus`` GPUs (a count, or a
    share of one).

    A task whose worker or node was lost runs again on another one. Raises what ``function`` raises,
    InputError where no node has so many GPUs, and TransientError where no cluster answers or a unit
    was lost too often.
    """
    ray = _connect()
    _check_gpus(ray, gpus)
    settings = {
        name: value for name, value in os.environ.items() if name.startswith(PASSED_VARIABLES)
    }
    task = ray.remote(num_cpus=1, num_gpus=gpus, max_retries=MAX_RESTARTS, retry_exceptions=False)(
        _run_unit
    )
    shared = ray.put((function, str(Path.cwd()), settings))
    waiting = iter(items)
    running: dict[Any, Item] = {}
    try:
        while True:
            free = MAX_QUEUED_TASKS - len(running)
            running.update((task.remote(shared, item), item) for item in islice(waiting, free))
            if not running:
                return
            for reference in ray.wait(list(running), num_returns=1)[0]:
                yield running.pop(reference), ray.get(reference)
    except ray.exceptions.RayTaskError as error:
        raise error.cause from None
    except ray.exceptions.RayError as error:
        raise worker_killed_error() from error
    finally:
        for reference in running:
            ray.cancel(reference, force=True)


def worker_killed_error() -> TransientError:
    """The error of a unit whose workers were killed more than ``MAX_RESTARTS`` times."""
    return TransientError(
        f"The workers of one unit were killed {MAX_RESTARTS + 1} times.",
        hint="Run again: finished units stay in the work cache. If it happens again, the memory "
        "may be too small: set LIBRETTO_WORKERS lower.",
    )


def _check_gpus(ray: Any, gpus: float) -> None:
    """Raises InputError where no node has so many GPUs: the tasks would wait forever."""
    if not gpus:
        return
    nodes = (node for node in ray.nodes() if node["Alive"])
    if max((float(node["Resources"].get("GPU", 0)) for node in nodes), default=0) < gpus:
        raise InputError(
            f"No node of the Ray cluster has {gpus:g} GPUs.",
            subject="LIBRETTO_GPUS",
            hint="'ray status' lists the nodes; LIBRETTO_GPUS sets how many a worker takes.",
        )


def _run_unit(shared: tuple[Callable[[Any], Any], str, Mapping[str, str]], item: Any) -> Any:
    """What a worker does: enters the workspace, adopts the settings, computes. Its messages go to
    Ray's log file of this worker.
    """
    function, folder, settings = shared
    os.chdir(folder)
    os.environ.update(settings)
    configure_logging()
    return function(item)


def _connect() -> Any:
    """The module ``ray``, connected; raises InputError where it is not installed, TransientError
    where no cluster answers.
    """
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    try:
        ray = importlib.import_module("ray")
    except ModuleNotFoundError:
        raise InputError(
            "LIBRETTO_FANOUT=ray, but Ray is not installed.",
            subject="LIBRETTO_FANOUT",
            hint="Install the extra 'cluster' (pip install '.[cluster]'), on every node.",
        ) from None
    if not ray.is_initialized():
        try:
            _check_port(ray_address())
            # Workers import modules of this project from the workspace, whatever the folder is in
            # which 'ray start' ran.
            ray.init(
                address=ray_address(),
                runtime_env={"env_vars": {"PYTHONPATH": _python_path(), **pinned_variables()}},
                log_to_driver=False,
                logging_level="ERROR",
            )
        except (OSError, RuntimeError) as error:
            raise TransientError(
                f"No Ray cluster answers at '{ray_address()}': {error}",
                subject="LIBRETTO_RAY",
                hint="'ray start --head' starts one.",
            ) from None
    return ray


def _check_port(address: str) -> None:
    """Raises OSError where nothing listens: Ray itself would try for minutes."""
    host, _, port = address.rpartition(":")
    if host and port.isdecimal():
        socket.create_connection((host, int(port)), timeout=10).close()


def _python_path() -> str:
    folders = [str(Path.cwd()), *os.environ.get("PYTHONPATH", "").split(os.pathsep)]
    return os.pathsep.join(dict.fromkeys(filter(None, folders)))
