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
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import torch
import torch.distributed as dist

from components.config.errors import InputError, LibrettoError, TransientError
from components.config.pool import die_with_parent

Item = TypeVar("Item")


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
        held = [parameter for parameter in parameters if parameter.requires_grad]
        # None counts as zero in one process too, or the optimiser would leave out there what it decays elsewhere.
        grads = [torch.zeros_like(parameter) if parameter.grad is None else parameter.grad for parameter in held]
        if self.count > 1:
            flat = torch.cat([grad.flatten() for grad in grads])
            dist.all_reduce(flat)
            grads = [part.view_as(parameter) for parameter, part in zip(held, flat.split([p.numel() for p in held]), strict=True)]
        for parameter, grad in zip(held, grads, strict=True):
            parameter.grad = grad

    def sum(self, values: torch.Tensor) -> torch.Tensor:
        """``values`` summed over ranks."""
        if self.count > 1:
            dist.all_reduce(values)
        return values

    def wait(self) -> None:
        """Returns when every rank has come here."""
        if self.count > 1:
            dist.barrier()


def cut(batch: Sequence[Item], parts: int) -> list[list[Item]]:
    """``batch`` dealt into ``parts`` micro-batches of nearly equal size; empty ones are dropped."""
    return [part for part in (list(batch[start::parts]) for start in range(parts)) if part]


def train_together(function: Callable[..., None], arguments: tuple[Any, ...], processes: int, threads: int) -> None:
    """Runs ``function(ranks, *arguments)`` in so many processes of ``threads`` threads each.

    One process runs in place. Raises what a worker raised of our own errors, TransientError when one was killed.
    """
    if processes == 1:
        torch.set_num_threads(threads)
        function(Ranks(), *arguments)
        return
    import torch.multiprocessing as multiprocessing

    # gloo listens on the address of an interface: keep it to this machine.
    os.environ.setdefault("GLOO_SOCKET_IFNAME", "lo")
    os.environ["OMP_NUM_THREADS"] = str(threads)
    with tempfile.TemporaryDirectory() as meeting:
        try:
            multiprocessing.start_processes(
                _worker, (processes, threads, meeting, function, arguments), nprocs=processes, start_method="spawn"
            )
        except multiprocessing.ProcessRaisedException as error:
            raise _raised(Path(meeting), error) from None
        except multiprocessing.ProcessExitedException as error:
            raise TransientError(f"A training process ended: {error}.", way_out="Run again: it goes on from its checkpoint.") from None


def _worker(rank: int, processes: int, threads: int, meeting: str, function: Callable[..., None], arguments: tuple[Any, ...]) -> None:
    die_with_parent()
    torch.set_num_threads(threads)
    dist.init_process_group("gloo", init_method=f"file://{meeting}/store", rank=rank, world_size=processes)
    try:
        function(Ranks(rank, processes), *arguments)
    except LibrettoError as error:
        (Path(meeting) / "error").write_text(f"{error.exit_code}\n{error}")
        raise
    finally:
        dist.destroy_process_group()


def _raised(meeting: Path, error: Exception) -> Exception:
    path = meeting / "error"
    if not path.is_file():
        return error
    code, _, message = path.read_text().partition("\n")
    return TransientError(message) if code == "75" else InputError(message)
