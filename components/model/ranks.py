"""Data-parallel training by hand: a step's batch is cut into a fixed number of micro-batches, each rank takes its share,
and gradients are summed over ranks.

The cut comes from the parameters, never from the number of processes. With two micro-batches one process adds g1 + g2 and
two processes exchange them and add the same two numbers, so both end with the same bits; with more the order of the sum may
differ by rounding.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import FIRST_EXCEPTION, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from multiprocessing import active_children, get_context
from typing import TYPE_CHECKING, Any, TypeVar

from components.config.errors import LibrettoError, TransientError
from components.config.pool import die_with_parent

if TYPE_CHECKING:  # the process that starts the others computes nothing: it need not wait for torch
    import torch

Item = TypeVar("Item")
NOTICE_SECONDS = 5  # until a killed process is noticed: milliseconds as a rule


@dataclass(frozen=True)
class Ranks:
    """This process among those that train together."""

    rank: int = 0
    count: int = 1

    def mine(self, micro_batches: Sequence[Item]) -> list[Item]:
        """The micro-batches that this rank computes."""
        return list(micro_batches[self.rank :: self.count])

    def sum_gradients(self, parameters: Iterable[torch.nn.Parameter]) -> None:
        """Replaces each gradient by its sum over ranks; one exchange for all of them."""
        import torch

        held = [parameter for parameter in parameters if parameter.requires_grad]
        # None counts as zero in one process too, or the optimiser would leave out there what it decays elsewhere.
        grads = [torch.zeros_like(parameter) if parameter.grad is None else parameter.grad for parameter in held]
        if self.count > 1:
            flat = torch.cat([grad.flatten() for grad in grads])
            torch.distributed.all_reduce(flat)
            grads = [part.view_as(parameter) for parameter, part in zip(held, flat.split([p.numel() for p in held]), strict=True)]
        for parameter, grad in zip(held, grads, strict=True):
            parameter.grad = grad

    def sum(self, values: torch.Tensor) -> torch.Tensor:
        """``values`` summed over ranks."""
        if self.count > 1:
            import torch.distributed

            torch.distributed.all_reduce(values)
        return values

    def wait(self) -> None:
        """Returns when every rank has come here."""
        if self.count > 1:
            import torch.distributed

            torch.distributed.barrier()


def cut(batch: Sequence[Item], parts: int) -> list[list[Item]]:
    """``batch`` dealt into ``parts`` micro-batches of nearly equal size; empty ones are dropped."""
    return [part for part in (list(batch[start::parts]) for start in range(parts)) if part]


def train_together(function: Callable[..., None], arguments: tuple[Any, ...], processes: int, threads: int) -> None:
    """Runs ``function(ranks, *arguments)`` in so many processes of ``threads`` threads each.

    One process runs in place. Raises what a worker raised, TransientError when one was killed.
    """
    if processes == 1:
        import torch

        torch.set_num_threads(threads)
        function(Ranks(), *arguments)
        return
    # gloo listens on the address of an interface: keep it to this machine.
    os.environ.setdefault("GLOO_SOCKET_IFNAME", "lo")
    os.environ["OMP_NUM_THREADS"] = str(threads)
    with tempfile.TemporaryDirectory() as meeting, ProcessPoolExecutor(
        processes, mp_context=get_context("spawn"), initializer=die_with_parent
    ) as pool:  # fmt: skip
        # A rank waits for the others, so that each of them has a process of its own.
        running = [pool.submit(_worker, rank, processes, threads, meeting, function, arguments) for rank in range(processes)]
        error = _first_error(running)
        if error is not None:
            for child in active_children():  # the other ranks wait for one that is gone
                child.kill()
            raise error


def _first_error(running: Sequence[Future[None]]) -> BaseException | None:
    """What made the ranks fail; None when all came to their end."""
    failed = [each for each in wait(running, return_when=FIRST_EXCEPTION).done if each.exception()]
    if failed and not any(isinstance(each.exception(), (LibrettoError, BrokenProcessPool)) for each in failed):
        # A rank that lost its peer may say so before the pool notices that the peer was killed.
        failed = [each for each in wait(running, timeout=NOTICE_SECONDS).done if each.exception()]
    errors = sorted((each.exception() for each in failed), key=lambda error: not isinstance(error, (LibrettoError, BrokenProcessPool)))
    if errors and isinstance(errors[0], BrokenProcessPool):
        return TransientError("A training process was killed.", way_out="Run again: it goes on from its checkpoint.")
    return errors[0] if errors else None


def _worker(rank: int, processes: int, threads: int, meeting: str, function: Callable[..., None], arguments: tuple[Any, ...]) -> None:
    import torch
    import torch.distributed as dist

    torch.set_num_threads(threads)
    dist.init_process_group("gloo", init_method=f"file://{meeting}/store", rank=rank, world_size=processes)
    function(Ranks(rank, processes), *arguments)
    # Only at a good end: closing it on an error would have the other ranks fail first, with less to say.
    dist.destroy_process_group()
