"""Noise on frames: of the asked size in each value, the same for a seed, none where it is off."""

from __future__ import annotations

import pytest
import torch

from components.model.frame_noise import add_noise


def test_noise_follows_the_deviation_of_each_value() -> None:
    deviations = torch.tensor([0.0, 1.0, 50.0])
    frames = torch.randn(20_000, 3, generator=torch.Generator().manual_seed(1)) * deviations + 7
    noise = add_noise(frames, 0.5, 3) - frames
    assert noise.std(0).tolist() == pytest.approx((0.5 * deviations).tolist(), rel=0.05)
    assert noise.mean(0).abs().max() < 1
    assert torch.equal(add_noise(frames, 0.5, 3), add_noise(frames, 0.5, 3))
    assert not torch.equal(add_noise(frames, 0.5, 3), add_noise(frames, 0.5, 4))


def test_no_noise_where_it_is_off_or_has_no_measure() -> None:
    frames = torch.randn(5, 3)
    assert torch.equal(add_noise(frames, 0.0, 1), frames)
    assert torch.equal(add_noise(frames[:1], 0.5, 1), frames[:1])
