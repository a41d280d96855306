"""A rank of ``components.train.rank`` that also leaves the gradients of its first step, summed over ranks, in the folder that
``GRADIENTS`` names."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from pathlib import Path

import torch

from components.model.ranks import Ranks, whole
from components.train import rank

known = Ranks.clip
left = ["once"]


def clip(self: Ranks, parameters: Sequence[torch.nn.Parameter], most: float) -> float:
    if left and left.pop():
        gradients = [whole(parameter.grad).clone() for parameter in parameters if parameter.grad is not None]
        torch.save(gradients, Path(os.environ["GRADIENTS"]) / f"{self.rank}.pt")
    return known(self, parameters, most)


if __name__ == "__main__":
    Ranks.clip = clip  # type: ignore[method-assign]
    sys.exit(rank.main(sys.argv[1], Path(sys.argv[2])))
