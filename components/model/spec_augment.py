"""SpecAugment (Park et al. 2019, arXiv 1904.08779) on anything of time × width: log-mel or an
encoder's frames.

In: one utterance, settings, a seed. Out: a copy with stretches of time and of width set to zero.
Cost: that of the copy.
"""

from __future__ import annotations

import numpy as np
import torch

from components.config.augment import SpecAugment


def mask_frames(frames: torch.Tensor, settings: SpecAugment, seed: int) -> torch.Tensor:
    """(frames, width) → the same with stretches of time and of width set to zero, drawn from
    ``seed``.
    """
    if not settings.enabled:
        return frames
    random = np.random.default_rng(seed)
    frames = frames.clone()
    length, width = frames.shape
    for _ in range(settings.time_masks):
        span = int(random.integers(0, min(settings.time_frames, length // 2) + 1))
        start = int(random.integers(0, length - span + 1))
        frames[start : start + span] = 0
    for _ in range(settings.width_masks):
        span = int(random.integers(0, int(settings.width_share * width) + 1))
        start = int(random.integers(0, width - span + 1))
        frames[:, start : start + span] = 0
    return frames
