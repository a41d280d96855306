"""Data-parallel training: the batch of a step is split into a fixed number of micro-batches, each
rank computes its share, and gradients are summed over ranks.

The split comes from the parameters, never from the number of processes. With two micro-batches one
process adds g1 + g2, and two processes exchange them and add the same two numbers, so both get the
same bits; with more micro-batches the order of the sum may differ by rounding.
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
from components.runtime.signals import die_with_parent

if TYPE_CHECKING:  # the process that starts the ranks need not load torch
    import torch

Item = TypeVar("Item")
BUCKET_SIZE = 2**25  # gradient values exchanged at once: 134 MB in fp32
KILL_DETECTION_S = 5  # until the pool reports a killed process; milliseconds as a rule


@dataclass(frozen=True)
class Ranks:
    """This process among those that train together."""

    rank: int = 0
    world_size: int = 1
    # the LLM is sharded over all ranks (components.optim.sharding), which run its layers together
    is_sharded: bool = False

    def own_items(self, micro_batches: Sequence[Item]) -> list[Item]:
        """The micro-batches that this rank computes."""
        return list(micro_batches[self.rank :: self.world_size])

    def assigned_items(self, batches: Sequence[Item]) -> list[tuple[Item, bool]]:
        """The batches that this rank computes, each with whether its result counts.

        Ranks that share a sharded LLM must run it equally often: a rank without a batch of its own
        repeats one whose result does not count.
        """
        assigned = [(batch, True) for batch in self.own_items(batches)]
        num_idle = -(-len(batches) // self.world_size) - len(assigned) if self.is_sharded else 0
        return assigned + [(batches[0], False)] * num_idle

    def sum_gradients(self, parameters: Iterable[torch.nn.Parameter]) -> None:
        """Replaces each gradient by its sum over ranks, a bucket of them in each exchange; those of
        sharded parameters are sums already (reduced in the backward pass).
        """
        import torch

        trainable = [parameter for parameter in parameters if parameter.requires_grad]
        for parameter in trainable:
            # None counts as zero in one process too, or the optimiser would not decay there what it
            # decays in several.
            if parameter.grad is None:
                parameter.grad = torch.zeros_like(parameter)
        if self.world_size == 1:
            return
        grads = [
            parameter.grad
            for parameter in trainable
            if parameter.grad is not None and not is_sharded(parameter)
        ]
        for bucket in _buckets(grads):
            flat = torch.cat([grad.flatten() for grad in bucket])
            torch.distributed.all_reduce(flat)
            summed = torch.split(flat, [grad.numel() for grad in bucket])
            for grad, values in zip(bucket, summed, strict=True):
                grad.copy_(values.view_as(grad))

    def clip_gradients(self, parameters: Sequence[torch.nn.Parameter], max_norm: float) -> float:
        """Scales gradients down to the norm ``max_norm`` over all of them, shards on other ranks
        included; returns the norm before.
        """
        from torch.nn.utils import clip_grads_with_norm_, get_total_norm

        with_grad = [parameter for parameter in parameters if parameter.grad is not None]
        replicated = [parameter for parameter in with_grad if not is_sharded(parameter)]
        sharded = [parameter for parameter in with_grad if is_sharded(parameter)]
        groups = [group for group in (replicated, sharded) if group]
        norms = [
            get_total_norm([parameter.grad for parameter in group if parameter.grad is not None])
            for group in groups
        ]
        norm = norms[0] if len(norms) == 1 else sum(full_tensor(part) ** 2 for part in norms) ** 0.5
        for group in groups:
            clip_grads_with_norm_(group, max_norm, full_tensor(norm))
        return float(full_tensor(norm))

    def sum(self, values: torch.Tensor) -> torch.Tensor:
        """``values`` summed over ranks, in place."""
        if self.world_size > 1:
            import torch.distributed

            torch.distributed.all_reduce(values)
        return values

    def barrier(self) -> None:
        """Returns when every rank has called it."""
        if self.world_size > 1:
            import torch.distributed

            torch.distributed.barrier()


def is_sharded(tensor: torch.Tensor) -> bool:
    """Whether a tensor is sharded over ranks."""
    from torch.distributed.tensor import DTensor

    return isinstance(tensor, DTensor)


def full_tensor(tensor: torch.Tensor) -> torch.Tensor:
    """A tensor gathered from its shards; all ranks must call it where it is sharded."""
    return tensor.full_tensor() if is_sharded(tensor) else tensor  # type: ignore[attr-defined]


def gather_tensors(
    tensors: Iterable[tuple[str, torch.Tensor]], *, is_writer: bool
) -> dict[str, torch.Tensor]:
    """Full tensors by name, on the CPU and as safetensors writes them: contiguous, none in the
    memory of another. Tensors of the CPU are not copied otherwise.

    All ranks must call it with the same names in the same order. The result is empty on a rank that
    is not ``is_writer``: it gathers one sharded tensor at a time and drops it, since all of a large
    LLM on each rank of a machine are more than its memory.
    """
    gathered: dict[str, torch.Tensor] = {}
    addresses: set[int] = set()
    for name, tensor in tensors:
        if not (is_writer or is_sharded(tensor)):
            continue
        complete = full_tensor(tensor.detach())
        if is_writer:
            gathered[name] = complete.cpu().contiguous()
            address = gathered[name].untyped_storage().data_ptr()
            if address in addresses:
                gathered[name] = gathered[name].clone()
            addresses.add(address)
        del complete  # before the next one is gathered
    return gathered


def _buckets(grads: Sequence[torch.Tensor]) -> list[list[torch.Tensor]]:
    """Gradients of one dtype and device in groups of at most ``BUCKET_SIZE`` values, so that the
    copy is small.
    """
    buckets: list[list[torch.Tensor]] = []
    for grad in grads:
        bucket = buckets[-1] if buckets else []
        is_same_kind = bucket and (bucket[0].dtype, bucket[0].device) == (grad.dtype, grad.device)
        size = sum(member.numel() for member in bucket) + grad.numel()
        if is_same_kind and size <= BUCKET_SIZE:
            bucket.append(grad)
        else:
            buckets.append([grad])
    return buckets


def split_micro_batches(batch: Sequence[Item], num_parts: int) -> list[list[Item]]:
    """Splits ``batch`` into ``num_parts`` micro-batches of nearly equal size, item by item in turn;
    empty ones are dropped.
    """
    parts = [list(batch[start::num_parts]) for start in range(num_parts)]
    return [part for part in parts if part]


def train_together(
    function: Callable[..., None], arguments: tuple[Any, ...], num_processes: int, num_threads: int
) -> None:
    """Runs ``function(ranks, *arguments)`` in ``num_processes`` processes, each with
    ``num_threads`` threads; a single one is the calling process.

    Raises what a rank raised, and TransientError where one was killed.
    """
    if num_processes == 1:
        import torch

        torch.set_num_threads(num_threads)
        function(Ranks(), *arguments)
        return
    # gloo listens on the address of an interface: restrict it to this machine.
    os.environ.setdefault("GLOO_SOCKET_IFNAME", "lo")
    os.environ["OMP_NUM_THREADS"] = str(num_threads)
    with (
        tempfile.TemporaryDirectory() as rendezvous,
        ProcessPoolExecutor(
            num_processes, mp_context=get_context("spawn"), initializer=die_with_parent
        ) as pool,
    ):
        # A rank waits for the others, so each of them gets a process of its own.
        futures = [
            pool.submit(
                _run_rank, rank, num_processes, num_threads, rendezvous, function, arguments
            )
            for rank in range(num_processes)
        ]
        error = _first_error(futures)
        if error is not None:
            for child in active_children():  # the other ranks wait for one that is gone
                child.kill()
            raise error


def _first_error(futures: Sequence[Future[None]]) -> BaseException | None:
    """The error that made the ranks fail; None where all finished."""
    errors = _errors(wait(futures, return_when=FIRST_EXCEPTION).done)
    if errors and not any(map(_is_cause, errors)):
        # A rank that lost its peer may fail before the pool notices that the peer was killed.
        errors = _errors(wait(futures, timeout=KILL_DETECTION_S).done)
    errors.sort(key=lambda error: not _is_cause(error))
    if errors and isinstance(errors[0], BrokenProcessPool):
        return TransientError(
            "A training process was killed.", hint="Run again: it resumes from its checkpoint."
        )
    return errors[0] if errors else None


def _errors(futures: Iterable[Future[None]]) -> list[BaseException]:
    errors = (future.exception() for future in futures)
    return [error for error in errors if error is not None]


def _is_cause(error: BaseException) -> bool:
    """Whether an error is more than the loss of another rank."""
    return isinstance(error, (LibrettoError, BrokenProcessPool))


def _run_rank(
    rank: int,
    num_processes: int,
    num_threads: int,
    rendezvous: str,
    function: Callable[..., None],
    arguments: tuple[Any, ...],
) -> None:
    import torch
    import torch.distributed as dist

    configure_logging()
    torch.set_num_threads(num_threads)
    dist.init_process_group(
        "gloo", init_method=f"file://{rendezvous}/store", rank=rank, world_size=num_processes
    )
    function(Ranks(rank, num_processes), *arguments)
    # Only after success: after an error it would make the other ranks fail first, with a less
    # useful message.
    dist.destroy_process_group()
