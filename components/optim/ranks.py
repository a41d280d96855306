"""Data-parallel training by hand: a step's batch is cut into a fixed number of micro-batches, each
rank takes its share, and gradients are summed over ranks.

The cut comes from the parameters, never from the number of processes. With two micro-batches one
process adds g1 + g2 and two processes exchange them and add the same two numbers, so both end with
the same bits; with more the order of the sum may differ by rounding.
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
from components.runtime.logs import configure_logging
from components.runtime.pool import die_with_parent

if TYPE_CHECKING:  # the process that starts the others computes nothing: it need not wait for torch
    import torch

Item = TypeVar("Item")
BUCKET = 2**25  # gradient values exchanged at once: 134 MB in fp32
NOTICE_SECONDS = 5  # until a killed process is noticed: milliseconds as a rule


@dataclass(frozen=True)
class Ranks:
    """This process among those that train together."""

    rank: int = 0
    count: int = 1
    # the LLM lies in parts on all ranks (components.optim.sharding), which run its layers together
    sharded: bool = False

    def own_items(self, micro_batches: Sequence[Item]) -> list[Item]:
        """The micro-batches that this rank computes."""
        return list(micro_batches[self.rank :: self.count])

    def assigned_items(self, batches: Sequence[Item]) -> list[tuple[Item, bool]]:
        """What this rank computes of ``batches``, and whether it counts.

        Ranks that hold an LLM together must run it equally often: who has nothing left repeats a
        batch that does not count.
        """
        turns = [(batch, True) for batch in self.own_items(batches)]
        idle = -(-len(batches) // self.count) - len(turns) if self.sharded else 0
        return turns + [(batches[0], False)] * idle

    def sum_gradients(self, parameters: Iterable[torch.nn.Parameter]) -> None:
        """Replaces each gradient by its sum over ranks, a bucket of them in each exchange; those of
        sharded parameters are sums already (reduced in the backward pass).
        """
        import torch

        held = [parameter for parameter in parameters if parameter.requires_grad]
        for parameter in held:
            # None counts as zero in one process too, or the optimiser would leave out there what it
            # decays elsewhere.
            if parameter.grad is None:
                parameter.grad = torch.zeros_like(parameter)
        if self.count == 1:
            return
        for bucket in _buckets(
            [
                parameter.grad
                for parameter in held
                if parameter.grad is not None and not is_sharded(parameter)
            ]
        ):
            flat = torch.cat([grad.flatten() for grad in bucket])
            torch.distributed.all_reduce(flat)
            for grad, part in zip(
                bucket, flat.split([grad.numel() for grad in bucket]), strict=True
            ):
                grad.copy_(part.view_as(grad))

    def clip(self, parameters: Sequence[torch.nn.Parameter], most: float) -> float:
        """Scales gradients down to the norm ``most`` over all of them, shards on other ranks
        included; returns the norm it was.
        """
        from torch.nn.utils import clip_grads_with_norm_, get_total_norm

        sides = [
            [p for p in parameters if p.grad is not None and is_sharded(p) == side]
            for side in (False, True)
        ]
        norms = [
            get_total_norm([p.grad for p in side if p.grad is not None]) for side in sides if side
        ]
        norm = norms[0] if len(norms) == 1 else sum(full_tensor(each) ** 2 for each in norms) ** 0.5
        for side in filter(None, sides):
            clip_grads_with_norm_(side, most, full_tensor(norm))
        return float(full_tensor(norm))

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


def is_sharded(tensor: torch.Tensor) -> bool:
    """Whether a tensor lies in parts on several ranks."""
    from torch.distributed.tensor import DTensor

    return isinstance(tensor, DTensor)


def full_tensor(tensor: torch.Tensor) -> torch.Tensor:
    """A tensor as it is without sharding; all ranks must ask together where it is sharded."""
    return tensor.full_tensor() if is_sharded(tensor) else tensor  # type: ignore[attr-defined]


def _buckets(grads: Sequence[torch.Tensor]) -> list[list[torch.Tensor]]:
    """Gradients of one dtype and device in groups of at most ``BUCKET`` values, so that the copy
    stays small.
    """
    buckets: list[list[torch.Tensor]] = []
    for grad in grads:
        last = buckets[-1] if buckets else []
        fits = (
            last
            and (last[0].dtype, last[0].device) == (grad.dtype, grad.device)
            and sum(map(_size, last)) + grad.numel() <= BUCKET
        )
        if fits:
            last.append(grad)
        else:
            buckets.append([grad])
    return buckets


def _size(tensor: torch.Tensor) -> int:
    return tensor.numel()


def split_micro_batches(batch: Sequence[Item], parts: int) -> list[list[Item]]:
    """``batch`` dealt into ``parts`` micro-batches of nearly equal size; empty ones are dropped."""
    return [part for part in (list(batch[start::parts]) for start in range(parts)) if part]


def train_together(
    function: Callable[..., None], arguments: tuple[Any, ...], processes: int, threads: int
) -> None:
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
    with (
        tempfile.TemporaryDirectory() as meeting,
        ProcessPoolExecutor(
            processes, mp_context=get_context("spawn"), initializer=die_with_parent
        ) as pool,
    ):
        # A rank waits for the others, so that each of them has a process of its own.
        running = [
            pool.submit(_worker, rank, processes, threads, meeting, function, arguments)
            for rank in range(processes)
        ]
        error = _first_error(running)
        if error is not None:
            for child in active_children():  # the other ranks wait for one that is gone
                child.kill()
            raise error


def _first_error(running: Sequence[Future[None]]) -> BaseException | None:
    """What made the ranks fail; None when all came to their end."""
    failed = [each for each in wait(running, return_when=FIRST_EXCEPTION).done if each.exception()]
    if failed and not any(
        isinstance(each.exception(), (LibrettoError, BrokenProcessPool)) for each in failed
    ):
        # A rank that lost its peer may say so before the pool notices that the peer was killed.
        failed = [each for each in wait(running, timeout=NOTICE_SECONDS).done if each.exception()]
    errors = sorted(
        (each.exception() for each in failed),
        key=lambda error: not isinstance(error, (LibrettoError, BrokenProcessPool)),
    )
    if errors and isinstance(errors[0], BrokenProcessPool):
        return TransientError(
            "A training process was killed.", hint="Run again: it goes on from its checkpoint."
        )
    return errors[0] if errors else None


def _worker(
    rank: int,
    processes: int,
    threads: int,
    meeting: str,
    function: Callable[..., None],
    arguments: tuple[Any, ...],
) -> None:
    import torch
    import torch.distributed as dist

    configure_logging()
    torch.set_num_threads(threads)
    dist.init_process_group(
        "gloo", init_method=f"file://{meeting}/store", rank=rank, world_size=processes
    )
    function(Ranks(rank, processes), *arguments)
    # Only at a good end: closing it on an error would have the other ranks fail first, with less to
    # say.
    dist.destroy_process_group()
