"""k-means: frames → centroids, the same bits in every run on one type of processor.

Seeds by k-means++ (Arthur and Vassilvitskii 2007), then passes of Lloyd (1982). Distances and sums
are in fp64 over chunks of one size; sums are products of matrices, since a scattered addition has
no fixed order on a GPU. In: frames (N, width). Out: centroids (units, width) in fp32. Cost: 4 · N ·
units · width operations in a pass; a chunk at a time in fp64.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import nn

from components.model.bridges.discrete import nearest_centroids

CHUNK_FRAMES = 8192  # 70 MB of distances to 1,000 units in fp64
# Frames per unit among which k-means++ chooses, evenly spaced: it takes a pass for each unit, and
# more of them hardly change where the passes of Lloyd end.
SEED_FRAMES = 100


@torch.no_grad()
def fit_centroids(
    frames: torch.Tensor,
    num_units: int,
    iterations: int,
    seed: int,
    on_pass: Callable[[], object] = lambda: None,
) -> torch.Tensor:
    """At most so many passes over ``frames`` (N, width), fewer where no frame changes its centroid:
    centroids (units, width) in fp32. N is at least ``num_units``.
    """
    spacing = max(1, len(frames) // (num_units * SEED_FRAMES))
    centroids = choose_seeds(frames[::spacing], num_units, seed)
    before = None
    for _ in range(iterations):
        centroids, nearest, is_final = refine(frames, centroids, before)
        before = nearest
        on_pass()
        if is_final:
            break
    return centroids.float()


def choose_seeds(frames: torch.Tensor, num_units: int, seed: int) -> torch.Tensor:
    """Frames as first centroids, (units, width) in fp64: the first at random, each of the others
    with a probability that grows with the square of its distance to the nearest one before it.
    """
    generator = torch.Generator().manual_seed(seed)
    draws = torch.rand(num_units, generator=generator, dtype=torch.float64)  # on the CPU
    chosen = [int(draws[0] * len(frames))]
    distances = torch.full((len(frames),), torch.inf, dtype=torch.float64)
    for draw in draws[1:]:
        newest = frames[chosen[-1]].double()[None]  # (1, width)
        parts = [nearest_centroids(chunk, newest)[1] for chunk in torch.split(frames, CHUNK_FRAMES)]
        # Summed on the CPU: on a GPU a cumulative sum has no fixed order.
        distances = torch.minimum(distances, torch.cat(parts).cpu())
        cumulative = distances.cumsum(0)  # (N,)
        index = int(torch.searchsorted(cumulative, draw * cumulative[-1], right=True))
        chosen.append(min(index, len(frames) - 1))
    return frames[torch.tensor(chosen, device=frames.device)].double()


def refine(
    frames: torch.Tensor, centroids: torch.Tensor, before: torch.Tensor | None
) -> tuple[torch.Tensor, torch.Tensor, bool]:
    """A pass of Lloyd: the mean of the frames (N, width) of each centroid; the indices (N,) of
    these centroids; whether they are those of the pass ``before`` and all have frames.

    A centroid without frames becomes one of the frames that are farthest from theirs, the farthest
    first.
    """
    sums = torch.zeros_like(centroids)  # (units, width)
    counts = centroids.new_zeros(len(centroids))
    indices, distances = [], []
    for chunk in torch.split(frames, CHUNK_FRAMES):
        nearest, distance = nearest_centroids(chunk, centroids)
        membership = nn.functional.one_hot(nearest, len(centroids)).double()  # (chunk, units)
        sums += membership.T @ chunk.double()
        counts += membership.sum(0)
        indices.append(nearest)
        distances.append(distance)
    nearest, is_empty = torch.cat(indices), counts == 0
    refined = sums / counts.clamp(min=1)[:, None]
    num_empty = int(is_empty.sum())
    if num_empty:
        farthest = torch.cat(distances).sort(descending=True, stable=True).indices[:num_empty]
        refined[is_empty] = frames[farthest].double()
    is_final = not num_empty and before is not None and torch.equal(nearest, before)
    return refined, nearest, is_final
