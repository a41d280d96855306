"""Noise on an encoder's frames, so that a head which has heard the training voices errs on them as
it does on other voices.

In: one utterance, a scale, a seed. Out: a noisy copy. Ours. Cost: that of a copy.
"""

from __future__ import annotations

import torch


def add_noise(frames: torch.Tensor, scale: float, seed: int) -> torch.Tensor:
    """(frames, width) → the same with Gaussian noise, drawn from ``seed``, of ``scale`` times the
    standard deviation that each of the width's values has over the utterance.
    """
    if not scale or len(frames) < 2:
        return frames
    generator = torch.Generator().manual_seed(seed)
    noise = torch.randn(frames.shape, generator=generator).to(frames)
    return frames + scale * frames.std(0) * noise
