"""k-means: against a plain computation, from run to run, and where it is degenerate."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from components.model.bridges.discrete import nearest_centroids
from components.units import kmeans
from components.units.kmeans import choose_seeds, fit_centroids, refine


def blobs(count: int = 600, width: int = 3) -> torch.Tensor:
    """Frames around eight centres, the corners of a cube."""
    random = np.random.default_rng(5)
    corners = 10.0 * (np.arange(count)[:, None] >> np.arange(width) & 1)
    return torch.from_numpy(corners + random.normal(0, 0.3, (count, width))).float()


def brute_force(frames: np.ndarray, centroids: np.ndarray, passes: int) -> np.ndarray:
    """Lloyd's passes, frame by frame."""
    for _ in range(passes):
        members: list[list[np.ndarray]] = [[] for _ in centroids]
        for frame in frames:
            distances = [((frame - centroid) ** 2).sum() for centroid in centroids]
            members[int(np.argmin(distances))].append(frame)
        centroids = np.array([np.mean(frames, axis=0) for frames in members])
    return centroids


def test_passes_are_those_of_a_plain_computation() -> None:
    frames = torch.randn(400, 5, generator=torch.Generator().manual_seed(2))
    seeds = choose_seeds(frames, 7, 3)
    expected = brute_force(frames.double().numpy(), seeds.numpy(), 4)
    np.testing.assert_allclose(fit_centroids(frames, 7, 4, 3).numpy(), expected, rtol=1e-5)


def test_centres_that_are_far_apart_are_each_a_centroid() -> None:
    frames = blobs()
    centroids = fit_centroids(frames, 8, 50, 1)
    corners = {tuple((centroid / 10).round().int().tolist()) for centroid in centroids}
    assert len(corners) == 8
    assert float((centroids - 10 * (centroids / 10).round()).abs().max()) < 0.2


def test_seeds_are_frames_that_differ() -> None:
    frames = blobs()
    seeds = choose_seeds(frames, 40, 9)
    assert len(seeds.unique(dim=0)) == 40
    assert all(bool((frames.double() == seed).all(1).any()) for seed in seeds)


def test_equal_bits_from_run_to_run_and_others_from_another_seed() -> None:
    frames = blobs()
    first, again = (fit_centroids(frames, 20, 6, 4).numpy().tobytes() for _ in range(2))
    assert first == again
    assert fit_centroids(frames, 20, 6, 5).numpy().tobytes() != first


def test_the_size_of_a_chunk_changes_rounding_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    frames = blobs()
    centroids = fit_centroids(frames, 20, 6, 4)
    monkeypatch.setattr(kmeans, "CHUNK_FRAMES", 37)
    torch.testing.assert_close(fit_centroids(frames, 20, 6, 4), centroids, rtol=1e-6, atol=1e-6)


def test_passes_end_where_no_frame_moves() -> None:
    passes: list[int] = []
    fit_centroids(blobs(), 8, 50, 1, lambda: passes.append(1))
    assert 2 <= len(passes) < 50


def test_a_centroid_without_frames_becomes_the_frame_farthest_from_its_own() -> None:
    frames = torch.tensor([[0.0], [1.0], [2.0], [30.0]])
    centroids = torch.tensor([[1.0], [900.0], [800.0]], dtype=torch.float64)
    refined, nearest, is_final = refine(frames, centroids, None)
    assert nearest.tolist() == [0, 0, 0, 0]
    # of two as far from theirs the earlier frame
    assert refined.flatten().tolist() == [8.25, 30.0, 0.0]
    assert not is_final


def test_fewer_different_frames_than_centroids_end_with_finite_ones() -> None:
    frames = torch.tensor([[1.0, 0.0], [0.0, 1.0]]).repeat(10, 1)
    centroids = fit_centroids(frames, 5, 3, 1)
    assert torch.isfinite(centroids).all()
    assert {tuple(centroid) for centroid in centroids.tolist()} == {(1.0, 0.0), (0.0, 1.0)}


def test_the_lower_of_two_centroids_as_near_is_taken() -> None:
    centroids = torch.tensor([[5.0], [1.0], [-1.0], [1.0]])
    index, distance = nearest_centroids(torch.tensor([[0.0], [1.0], [4.0]]), centroids)
    assert index.tolist() == [1, 1, 0]
    assert distance.tolist() == [1.0, 0.0, 1.0]
