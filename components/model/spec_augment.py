"""SpecAugment (Park et al. 2019, arXiv 1904.08779) on anything of time × width: log-mel or an
encoder's frames.

In: one utterance, settings, a seed. Out: a copy with stretches of time and of width set to zero, by
torchaudio's masks. Cost: that of a copy for each mask.
"""

from __future__ import annotations

import torch

from components.config.augment import SpecAugment

TIME, WIDTH = 0, 1  # axes of frames


def mask_frames(frames: torch.Tensor, settings: SpecAugment, seed: int) -> torch.Tensor:
    """(frames, width) → the same with stretches of time and of width set to zero, drawn from
    ``seed``; at most half of the time with each mask.
    """
    if not settings.enabled:
        return frames
    from torchaudio.functional import mask_along_axis

    length, width = frames.shape
    longest_time = min(settings.time_frames, length // 2)
    longest_width = int(settings.width_share * width)
    # torchaudio draws from torch's generator, whose state belongs to the training.
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        for longest, axis in [
            *[(longest_time, TIME)] * settings.time_masks,
            *[(longest_width, WIDTH)] * settings.width_masks,
        ]:
            # its masks are shorter than what it is given
            frames = mask_along_axis(frames, longest + 1, 0.0, axis)
    return frames
