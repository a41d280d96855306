"""The bridge of discrete units: each frame becomes the number of its nearest k-means centroid, runs
of one number become one unit, and each unit is a word that the LLM's vocabulary is grown by.

In: frames of the layer that the centroids were fitted on (the stage ``units``). Out: the embedding
of the start of speech, of each unit, of the end of speech: as many vectors as the speech has units,
and two. After SpeechGPT (Zhang et al. 2023, arXiv 2305.11000, section 3). The table is the grown
part of the LLM's input embeddings; its output has no such rows, since only text is predicted. Cost:
a matrix of centroids for each frame, in fp64.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import nn

from components.config.errors import InputError
from components.config.projector import DiscreteUnits
from components.model.bridges.bridge import Bridge

CENTROIDS = Path("centroids.safetensors")  # in the folder of the stage units
INIT_STD = 0.02  # standard deviation of new embeddings, as LLaMA's own weights


def read_centroids(folder: Path) -> torch.Tensor:
    """The centroids of a folder of the stage ``units``, (units, encoder width); raises InputError
    where it has none.
    """
    path = folder / CENTROIDS
    if not path.is_file():
        raise InputError(
            f"{path} is missing: the projector reads frames by k-means centroids.",
            subject=str(path),
            hint="Run 'dvc repro units'.",
        )
    return load_file(path)[CENTROIDS.stem]


def nearest_centroids(
    frames: torch.Tensor, centroids: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """Of frames (N, width) the index of the nearest of ``centroids`` (units, width), the lower one
    of two as near, and the squared distance to it, (N,) each.

    In fp64, so that the index depends on the size of the batch only where two centroids are equally
    near.
    """
    wide, centroids = frames.double(), centroids.double()
    scores = torch.addmm(centroids.square().sum(1), wide, centroids.T, alpha=-2)  # (N, units)
    index = scores.argmin(1)  # the first of equal ones
    smallest = scores.gather(1, index[:, None]).squeeze(1)
    return index, (smallest + wide.square().sum(1)).clamp(min=0)


class DiscreteUnitsBridge(Bridge):
    """The nearest centroid → runs collapsed → embeddings between those of start and end.

    ``set_centroids`` or a saved bridge has to give it the centroids before ``forward``; they are
    saved with it and never trained.
    """

    centroids: torch.Tensor

    def __init__(self, entry: DiscreteUnits, encoder_width: int, llm_width: int) -> None:
        super().__init__()
        self.stride = 1.0  # the least: how many units there are depends on the speech
        self.register_buffer("centroids", torch.full((entry.units, encoder_width), math.nan))
        self.embedding = nn.Embedding(entry.units + 2, llm_width)  # then start, then end
        nn.init.normal_(self.embedding.weight, std=INIT_STD)

    def set_centroids(self, centroids: torch.Tensor) -> None:
        """Takes the centroids (units, encoder width) by which frames are read."""
        self.centroids.copy_(centroids)

    def count_tokens(self, frames: int) -> int:
        """Vectors of so many frames at most: one each, start and end."""
        return frames + 2

    def read_units(self, frames: torch.Tensor) -> torch.Tensor:
        """Frames (frames, encoder width) → the units, (units of the utterance,), neighbours
        different. Raises RuntimeError without centroids.
        """
        if bool(self.centroids[0, 0].isnan()):
            raise RuntimeError("The bridge has no centroids: call set_centroids first.")
        units: torch.Tensor = torch.unique_consecutive(nearest_centroids(frames, self.centroids)[0])
        return units

    def forward(self, frames: Sequence[torch.Tensor]) -> list[torch.Tensor]:
        """Each (frames, encoder width) → (units of the utterance + 2, H)."""
        num_units = len(self.centroids)
        edges = torch.arange(num_units, num_units + 2, device=self.centroids.device)
        start, end = torch.split(edges, 1)
        ids = [torch.cat([start, self.read_units(utterance), end]) for utterance in frames]
        vectors: torch.Tensor = self.embedding(torch.cat(ids))  # (all ids, H)
        return list(torch.split(vectors, [len(utterance) for utterance in ids]))
