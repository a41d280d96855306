"""A rank of ``components.optim.rank`` that also leaves the gradients of its first step, summed over
ranks, in the folder that ``GRADIENTS`` names; ``KILLED`` (rank:step) has a rank die.
"""

from __future__ import annotations

import itertools
import os
import signal
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from components.optim import engine, rank
from components.optim.ranks import Ranks, full_tensor

if TYPE_CHECKING:
    import pytest

original = Ranks.clip_gradients
calls = itertools.count()


def record_ranks(monkeypatch: pytest.MonkeyPatch, folder: Path, name: str, ranks: int) -> None:
    """Has the next training start ``ranks`` of these by the engine ``name``, with its work cache
    and its gradients in ``folder``.
    """
    monkeypatch.setattr(engine, "RANK_MODULE", __name__)
    settings = {
        "PYTHONPATH": Path(__file__).parents[2],
        "LIBRETTO_WORK": folder / "work",
        "LIBRETTO_ENGINE": name,
        "LIBRETTO_WORKERS": ranks,
        "GRADIENTS": folder,
    }
    for key, value in settings.items():
        monkeypatch.setenv(key, str(value))


def clip(self: Ranks, parameters: Sequence[torch.nn.Parameter], most: float) -> float:
    call = next(calls)
    if f"{self.rank}:{call}" == os.environ.get("KILLED"):
        os.kill(os.getpid(), signal.SIGKILL)
    if call == 0:
        gradients = [
            full_tensor(parameter.grad).clone()
            for parameter in parameters
            if parameter.grad is not None
        ]
        torch.save(gradients, Path(os.environ["GRADIENTS"]) / f"{self.rank}.pt")
    return original(self, parameters, most)


if __name__ == "__main__":
    Ranks.clip_gradients = clip  # type: ignore[method-assign]
    sys.exit(rank.main(sys.argv[1], sys.argv[2], Path(sys.argv[3]), sys.argv[4]))
