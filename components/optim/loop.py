"""Learning-rate schedules: linear warm-up, then constant (SLAM-ASR paper), linear decay (its
released code) or cosine.
"""

from __future__ import annotations

import math


def rate_at(step: int, steps: int, warmup: int, decay: str) -> float:
    """Factor of the peak learning rate at ``step`` (from 0) of ``steps``."""
    if step < warmup:
        return (step + 1) / warmup
    share = (step - warmup) / max(1, steps - warmup)
    return {
        "constant": 1.0,
        "linear": 1.0 - share,
        "cosine": 0.5 * (1 + math.cos(math.pi * share)),
    }[decay]
