"""Processes that train together: the bits of one process, and errors that come through."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest
import torch

from components.config.errors import InputError, TransientError
from components.optim.ranks import Ranks, split_micro_batches, train_together

# A worker process imports its function by name, so these are at the top level.


def train(ranks: Ranks, out: str) -> None:
    """Ten steps of two micro-batches; weights and last gradients of the first rank go
    to ``out``.
    """
    torch.manual_seed(1)
    module = torch.nn.Sequential(torch.nn.Linear(6, 16), torch.nn.ReLU(), torch.nn.Linear(16, 4))
    unused = torch.nn.Linear(3, 3)  # gets no gradient, in one process as in two
    frozen = torch.nn.Parameter(torch.ones(2), requires_grad=False)
    parameters = [*module.parameters(), *unused.parameters(), frozen]
    optimiser = torch.optim.AdamW(parameters[:-1], lr=0.01, weight_decay=0.1)
    for step in range(10):
        data = torch.randn(7, 6, generator=torch.Generator().manual_seed(step))
        optimiser.zero_grad()
        count = torch.zeros(1)
        for indices in ranks.own_items(split_micro_batches(list(range(7)), 2)):
            loss = module(data[indices]).pow(2).sum() / 7
            loss.backward()
            count += len(indices)
        ranks.sum_gradients(iter(parameters))
        assert ranks.sum(count).item() == 7
        if step < 9:
            optimiser.step()
    if ranks.rank == 0:
        torch.save(
            [parameter.detach() for parameter in parameters]
            + [parameter.grad for parameter in parameters[:4]],
            out,
        )
    ranks.barrier()


def refuse(ranks: Ranks, out: str) -> None:
    if ranks.rank == ranks.world_size - 1:
        raise InputError("Utterance 'u7' is broken.", subject="u7", hint="Leave it out.")
    ranks.barrier()


def die(ranks: Ranks, out: str) -> None:
    if ranks.rank == 1:
        os.kill(os.getpid(), signal.SIGKILL)
    ranks.barrier()


def fail(ranks: Ranks, out: str) -> None:
    if ranks.rank == 1:
        raise TransientError("The disk is away.", hint="Run again.")
    ranks.barrier()


@pytest.mark.slow
def test_two_processes_have_the_gradients_and_weights_of_one(tmp_path: Path) -> None:
    for processes in (1, 2):
        train_together(train, (str(tmp_path / str(processes)),), processes, 1)
    one, two = (torch.load(tmp_path / name, weights_only=True) for name in "12")
    assert len(one) == 11
    assert all(torch.equal(tensor, other) for tensor, other in zip(one, two, strict=True))


@pytest.mark.parametrize("processes", [1, pytest.param(2, marks=pytest.mark.slow)])
def test_an_error_of_a_worker_comes_through_with_its_hint(processes: int, tmp_path: Path) -> None:
    with pytest.raises(InputError) as refused:
        train_together(refuse, ("",), processes, 1)
    assert (refused.value.subject, refused.value.hint) == ("u7", "Leave it out.")


@pytest.mark.slow
def test_a_killed_worker_and_a_transient_error_may_be_retried() -> None:
    with pytest.raises(TransientError) as killed:
        train_together(die, ("",), 2, 1)
    assert killed.value.hint
    with pytest.raises(TransientError, match="The disk is away"):
        train_together(fail, ("",), 2, 1)


def test_a_batch_is_dealt_into_parts_of_nearly_equal_size() -> None:
    assert split_micro_batches(list(range(7)), 2) == [[0, 2, 4, 6], [1, 3, 5]]
    assert split_micro_batches([1], 2) == [[1]]
    assert split_micro_batches(list(range(8)), 3) == [[0, 3, 6], [1, 4, 7], [2, 5]]


@pytest.mark.parametrize("count", [1, 2, 3])
def test_the_ranks_share_all_parts_whatever_their_number(count: int) -> None:
    parts = split_micro_batches(list(range(9)), 4)
    shares = [Ranks(rank, count).own_items(parts) for rank in range(count)]
    assert sorted(part for share in shares for part in share) == sorted(parts)
