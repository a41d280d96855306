"""The divergence of two masked copies, against the formula, and what it does to a training."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from components.ctc.objective import sum_divergence_per_frame
from tests import world as tones
from tests.ctc.test_ctc import put_headless, weights

MASKS = {"train.spec_augment.enabled": True, "train.spec_augment.time_frames": 8}


def divergence_by_formula(first: torch.Tensor, second: torch.Tensor) -> float:
    """Mean of KL(second ‖ first) and KL(first ‖ second), averaged over the steps."""
    total = 0.0
    for row, other in zip(first.double(), second.double(), strict=True):
        p, q = row.softmax(-1), other.softmax(-1)
        total += float((q * (q / p).log()).sum() + (p * (p / q).log()).sum()) / 2
    return total / len(first)


def test_the_divergence_is_that_of_the_formula_whatever_the_padding() -> None:
    torch.manual_seed(1)
    scores, lengths = torch.randn(4, 9, 5), torch.tensor([9, 4])
    expected = sum(
        divergence_by_formula(scores[row, :length], scores[row + 2, :length])
        for row, length in enumerate(lengths.tolist())
    )
    assert float(sum_divergence_per_frame(scores, lengths)) == pytest.approx(expected, rel=1e-5)
    scores[1, 4:], scores[3, 4:] = 100, -100
    assert float(sum_divergence_per_frame(scores, lengths)) == pytest.approx(expected, rel=1e-5)


def test_equal_copies_do_not_diverge() -> None:
    scores = torch.randn(2, 6, 4).repeat(2, 1, 1)
    assert float(sum_divergence_per_frame(scores, torch.tensor([6, 3]))) == pytest.approx(0)


def test_the_other_copy_is_a_target_without_a_gradient() -> None:
    """The gradient of KL(q ‖ p) by the scores of p alone is p - q (half of it, in the mean)."""
    torch.manual_seed(2)
    scores = torch.randn(2, 7, 5, requires_grad=True)
    sum_divergence_per_frame(scores, torch.tensor([7])).backward()
    first, second = scores.detach().softmax(-1)
    assert scores.grad is not None
    assert torch.allclose(scores.grad[0], (first - second) / 2 / 7, atol=1e-6)
    assert torch.allclose(scores.grad[1], (second - first) / 2 / 7, atol=1e-6)


def test_consistency_trains_another_head_which_two_processes_repeat(
    world: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    put_headless()
    tones.change("params.yaml", MASKS)
    tones.run("ctc")
    once = weights()
    tones.change("params.yaml", {"ctc.consistency": 0.2})
    tones.run("ctc")
    twice = weights()
    assert twice["head.safetensors"] != once["head.safetensors"]
    monkeypatch.setenv("LIBRETTO_WORK", str(tmp_path / "other"))
    monkeypatch.setenv("LIBRETTO_WORKERS", "2")
    tones.run_features()
    tones.run("ctc")
    assert weights() == twice
