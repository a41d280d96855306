"""What every family of speech encoders tells about itself and does: the interface behind
``SpeechEncoder``.

Those that satisfy it stand in ``families``, ``whisper`` and ``events``; they cost nothing but
loading their weights.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

import numpy as np
import torch


class Family(Protocol):
    """What every family tells about itself; sample counts are at 16 kHz."""

    network: Any  # torch module
    hop: int  # samples from one frame to the next
    least: int  # samples that give a frame
    equal_lengths: bool  # it normalises over time: padding would change the frames

    @property
    def layers(self) -> int | None:
        """Hidden states that can be taken: 0 (what enters the first layer) to this; None: the last
        alone.
        """

    def frames_of(self, samples: int) -> int:
        """Frames that so many samples give; 0 below ``least``."""

    def padded(self, samples: int) -> int:
        """Samples that are computed for so many."""

    def frames(self, waveforms: Sequence[np.ndarray], layer: int | str) -> list[torch.Tensor]:
        """Frames of each waveform, shape (frames, width), on the device; padding is cut off."""
