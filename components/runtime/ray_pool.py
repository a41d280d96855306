"""Units as plain Ray tasks on a cluster that is up (``ray start``); the extra ``cluster`` installs
Ray.

In: a function of a module of this project, and items that pickle. A task runs in the workspace's
folder with this process's runtime settings, so all nodes need the workspace and the work cache at
the same paths (a shared file system that keeps file locks, such as NFS 4), and the same packages.
Keys are not passed on: a node has them from the environment that ``ray start`` ran in. Out: results
as they come. Between our own processes Ray pickles, as worker processes do; nothing that is loaded
from a file or a network is unpickled here. Cost: about 3 s to connect.
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
from components.runtime.settings import ray_address

Item = TypeVar("Item")
Result = TypeVar("Result")
# times that a unit is taken up again after its worker was killed: a unit that kills its worker each
# time is no accident
MAX_RESTARTS = 2
# units that Ray has at a time: to look through those that are waiting costs the square of their
# number
MAX_QUEUED_TASKS = 1000
PASSED_VARIABLES = (
    "LIBRETTO_",
    "OMP_WAIT_POLICY",
    "TOKENIZERS_PARALLELISM",
    "HF_HUB_OFFLINE",
    "HF_HUB_DISABLE",
)  # settings; no keys


def run_ray_tasks(
    function: Callable[[Item], Result], items: Sequence[Item], gpus: float
) -> Iterator[tuple[Item, Result]]:
    """Yields (item, result) as tasks finish, each with one core and ``gpus`` GPUs (a count, or a
    share of one).

    A task whose worker or node was lost runs again elsewhere. Raises what ``function`` raises,
    InputError where the cluster has nowhere the GPUs that one asks for, and TransientError where no
    cluster answers or a unit was lost too often.
    """
    ray = _connect()
    if (
        gpus
        and max(
            (float(node["Resources"].get("GPU", 0)) for node in ray.nodes() if node["Alive"]),
            default=0,
        )
        < gpus
    ):
        raise InputError(
            f"No node of the Ray cluster has {gpus:g} GPUs.",
            subject="LIBRETTO_GPUS",
            hint="'ray status' shows what there is; LIBRETTO_GPUS says how many a worker takes.",
        )
    settings = {
        name: value for name, value in os.environ.items() if name.startswith(PASSED_VARIABLES)
    }
    task = ray.remote(num_cpus=1, num_gpus=gpus, max_retries=MAX_RESTARTS, retry_exceptions=False)(
        _run_unit
    )
    shared = ray.put((function, str(Path.cwd()), settings))
    waiting = iter(items)
    left: dict[Any, Item] = {}
    try:
        while True:
            left.update(
                (task.remote(shared, item), item)
                for item in islice(waiting, MAX_QUEUED_TASKS - len(left))
            )
            if not left:
                return
            for reference in ray.wait(list(left), num_returns=1)[0]:
                yield left.pop(reference), ray.get(reference)
    except ray.exceptions.RayTaskError as error:
        raise error.cause from None
    except ray.exceptions.RayError as error:
        raise worker_killed_error() from error
    finally:
        for reference in left:
            ray.cancel(reference, force=True)


def worker_killed_error() -> TransientError:
    return TransientError(
        f"The workers of one unit were killed {MAX_RESTARTS + 1} times.",
        hint="Run again: finished units are kept. If it happens again, the memory may be too "
        "small: set LIBRETTO_WORKERS lower.",
    )


def _run_unit(shared: tuple[Callable[[Any], Any], str, Mapping[str, str]], item: Any) -> Any:
    """What a worker does: goes to the workspace, takes over the settings, computes."""
    function, folder, settings = shared
    os.chdir(folder)
    os.environ.update(settings)
    return function(item)


def _connect() -> Any:
    """The module ``ray``, connected; raises InputError where it is not installed."""
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
            # Modules of this project are found in the workspace, whatever folder 'ray start' ran
            # in.
            ray.init(
                address=ray_address(),
                runtime_env={"env_vars": {"PYTHONPATH": _python_path()}},
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
    """Raises OSError where nobody listens: Ray itself would ask for minutes."""
    host, _, port = address.rpartition(":")
    if host and port.isdecimal():
        socket.create_connection((host, int(port)), timeout=10).close()


def _python_path() -> str:
    return os.pathsep.join(
        dict.fromkeys(
            filter(None, [str(Path.cwd()), *os.environ.get("PYTHONPATH", "").split(os.pathsep)])
        )
    )
