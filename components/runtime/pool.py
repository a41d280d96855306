"""Fan-out of independent units over workers: in this process, in processes of this machine, or as
Ray tasks on a cluster.

Which it is the runtime settings say (``LIBRETTO_FANOUT``, ``LIBRETTO_WORKERS``, ``LIBRETTO_GPUS``);
it never changes a result: a unit is computed whole by one worker with the thread count that the
parameters name, and what it makes goes to the work cache. A worker that is killed loses its unit
alone, which another one takes.
"""

from __future__ import annotations

import ctypes
import os
import signal
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from multiprocessing import get_context
from typing import TypeVar

from components.runtime.devices import share_gpus, visible_gpus
from components.runtime.logs import configure_logging
from components.runtime.ray_pool import MAX_RESTARTS, run_ray_tasks, worker_killed_error
from components.runtime.settings import device, fanout, gpu_share, workers

Item = TypeVar("Item")
Result = TypeVar("Result")


def die_with_parent() -> None:
    """Has the kernel kill this process when its parent dies (prctl(2), PR_SET_PDEATHSIG): no orphan
    goes on writing.
    """
    ctypes.CDLL(None).prctl(1, signal.SIGKILL)


def fan_out(
    function: Callable[[Item], Result],
    items: Sequence[Item],
    *,
    uses_gpu: bool = False,
    is_local: bool = False,
) -> Iterator[tuple[Item, Result]]:
    """Yields (item, result) as units finish. ``uses_gpu``: a unit runs on the accelerator.
    ``is_local``: the work is too small for a cluster.

    Raises what ``function`` raises, and TransientError if the workers of one unit were killed more
    than ``MAX_RESTARTS`` times.
    """
    if fanout() == "ray" and not is_local and items:
        yield from run_ray_tasks(function, items, gpu_share() if uses_gpu else 0)
        return
    slots = _device_slots(uses_gpu)[: len(items)]
    if len(slots) <= 1:
        yield from ((item, function(item)) for item in items)
    else:
        yield from _processes(function, items, slots)


def _device_slots(gpu: bool) -> list[str]:
    """For each worker of this machine which GPUs it sees; empty where it sees them all, or there
    are none.
    """
    chosen = device() if gpu else "cpu"
    if chosen == "cpu":
        return [""] * workers()
    gpus, share = visible_gpus(), gpu_share()
    # Where the driver has no file for each GPU (WSL, ROCm) they can't be shared out: one worker,
    # which sees them all.
    return (
        share_gpus(gpus, share)
        if chosen == "cuda" and (gpus or "CUDA_VISIBLE_DEVICES" in os.environ)
        else [""]
    )


def _processes(
    function: Callable[[Item], Result], items: Sequence[Item], slots: Sequence[str]
) -> Iterator[tuple[Item, Result]]:
    """A pool of one process for each seat, so that a killed one takes no other with it."""
    left, killed = deque(range(len(items))), [0] * len(items)
    pools = [_pool(seat) for seat in slots]
    running: dict[Future[Result], tuple[int, int]] = {}  # → (place of the unit, place of the pool)
    idle = list(range(len(pools)))
    try:
        while left or running:
            while left and idle:
                unit, seat = left.popleft(), idle.pop()
                try:
                    future = pools[seat].submit(function, items[unit])
                except BrokenProcessPool:  # killed while it waited for work: no unit is lost
                    pools[seat] = _pool(slots[seat])
                    future = pools[seat].submit(function, items[unit])
                running[future] = unit, seat
            done, _ = wait(running, return_when=FIRST_COMPLETED)
            for future in done:
                unit, seat = running.pop(future)
                idle.append(seat)
                try:
                    result = future.result()
                except BrokenProcessPool:
                    killed[unit] += 1
                    if killed[unit] > MAX_RESTARTS:
                        raise worker_killed_error() from None
                    pools[seat] = _pool(slots[seat])
                    left.appendleft(unit)
                    continue
                yield items[unit], result
    finally:
        for pool in pools:
            pool.shutdown(wait=False, cancel_futures=True)
        for pool in pools:
            pool.shutdown()


def _pool(seat: str) -> ProcessPoolExecutor:
    # spawn: a fork of a process whose libraries run threads can hang.
    return ProcessPoolExecutor(
        1, mp_context=get_context("spawn"), initializer=_init_worker, initargs=(seat,)
    )


def _init_worker(seat: str) -> None:
    die_with_parent()
    configure_logging()
    if seat:
        os.environ["CUDA_VISIBLE_DEVICES"] = seat
