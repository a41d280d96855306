"""Fan-out of independent units over worker processes of this machine.

The number of workers never changes a result: a unit is computed whole by one worker with the thread count that the
parameters name. A worker that dies costs its unit; what the others finished is in the work cache.
"""

from __future__ import annotations

import ctypes
import signal
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from multiprocessing import get_context
from typing import TypeVar

from components.config.errors import TransientError
from components.config.settings import workers

Item = TypeVar("Item")
Result = TypeVar("Result")


def die_with_parent() -> None:
    """Has the kernel kill this process when its parent dies (prctl(2), PR_SET_PDEATHSIG): no orphan goes on writing."""
    ctypes.CDLL(None).prctl(1, signal.SIGKILL)


def fan_out(function: Callable[[Item], Result], items: Sequence[Item], *, most: int | None = None) -> Iterator[tuple[Item, Result]]:
    """Yields (item, result) as units finish; runs in-process where one worker or one unit is all there is.

    ``most`` bounds the workers (a GPU serves one). Raises TransientError when a worker was killed.
    """
    count = min(workers(), len(items), most or len(items))
    if count <= 1:
        yield from ((item, function(item)) for item in items)
        return
    # spawn: a fork of a process whose libraries run threads can hang.
    with ProcessPoolExecutor(count, mp_context=get_context("spawn"), initializer=die_with_parent) as pool:
        try:
            futures = {pool.submit(function, item): item for item in items}
            for future in as_completed(futures):
                yield futures[future], future.result()
        except BrokenProcessPool:
            raise TransientError("A worker process was killed.", way_out="Run again: finished units are kept.") from None
        finally:
            pool.shutdown(cancel_futures=True)
