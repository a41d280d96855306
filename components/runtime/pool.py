"""Fan-out of independent units over workers: in this process, in processes of this machine, or as
Ray tasks on a cluster.

In: a function, items, and the runtime settings that decide between the three (``LIBRETTO_FANOUT``,
``LIBRETTO_WORKERS``, ``LIBRETTO_GPUS``). Out: results, which do not depend on that choice: one
worker computes a unit with the thread count that the parameters name, and its output goes to the
work cache. If a worker is killed, its unit alone is lost, and another worker takes it. Cost: the
start of a process for each worker.
"""

from __future__ import annotations

import os
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
from components.runtime.signals import die_with_parent

Item = TypeVar("Item")
Result = TypeVar("Result")


def fan_out(
    function: Callable[[Item], Result],
    items: Sequence[Item],
    *,
    uses_gpu: bool = False,
    is_local: bool = False,
) -> Iterator[tuple[Item, Result]]:
    """Yields (item, result) in the order in which units finish. ``uses_gpu``: a unit runs on the
    accelerator; ``is_local``: units are too small for a cluster.

    Raises what ``function`` raises, and TransientError where the workers of a unit were killed
    more than ``MAX_RESTARTS`` times.
    """
    if fanout() == "ray" and not is_local and items:
        yield from run_ray_tasks(function, items, gpu_share() if uses_gpu else 0)
        return
    slots = _device_slots(uses_gpu)[: len(items)]
    if len(slots) <= 1:
        yield from ((item, function(item)) for item in items)
    else:
        yield from _run_processes(function, items, slots)


def _device_slots(uses_gpu: bool) -> list[str]:
    """``CUDA_VISIBLE_DEVICES`` for each worker of this machine; empty where a worker sees all GPUs,
    or there are none.
    """
    name = device() if uses_gpu else "cpu"
    if name == "cpu":
        return [""] * workers()
    gpus, share = visible_gpus(), gpu_share()
    # Where the driver has no file for each GPU (WSL, ROCm) they can't be shared: one worker sees
    # all of them.
    if name == "cuda" and (gpus or "CUDA_VISIBLE_DEVICES" in os.environ):
        return share_gpus(gpus, share)
    return [""]


def _run_processes(
    function: Callable[[Item], Result], items: Sequence[Item], slots: Sequence[str]
) -> Iterator[tuple[Item, Result]]:
    """Runs a pool of one process for each slot, so that a killed process stops no other one."""
    queue, restarts = deque(range(len(items))), [0] * len(items)
    pools = [_start_pool(slot) for slot in slots]
    running: dict[Future[Result], tuple[int, int]] = {}  # → (index of the unit, of the pool)
    idle = list(range(len(pools)))
    try:
        while queue or running:
            while queue and idle:
                unit, index = queue.popleft(), idle.pop()
                try:
                    future = pools[index].submit(function, items[unit])
                except BrokenProcessPool:  # killed while it waited for work: no unit is lost
                    pools[index] = _start_pool(slots[index])
                    future = pools[index].submit(function, items[unit])
                running[future] = unit, index
            done, _ = wait(running, return_when=FIRST_COMPLETED)
            for future in done:
                unit, index = running.pop(future)
                idle.append(index)
                try:
                    result = future.result()
                except BrokenProcessPool:
                    restarts[unit] += 1
                    if restarts[unit] > MAX_RESTARTS:
                        raise worker_killed_error() from None
                    pools[index] = _start_pool(slots[index])
                    queue.appendleft(unit)
                    continue
                yield items[unit], result
    finally:
        for pool in pools:
            pool.shutdown(wait=False, cancel_futures=True)
        for pool in pools:
            pool.shutdown()


def _start_pool(slot: str) -> ProcessPoolExecutor:
    # spawn: a fork of a process whose libraries run threads can hang.
    return ProcessPoolExecutor(
        1, mp_context=get_context("spawn"), initializer=_init_worker, initargs=(slot,)
    )


def _init_worker(slot: str) -> None:
    die_with_parent()
    configure_logging()
    if slot:
        os.environ["CUDA_VISIBLE_DEVICES"] = slot
