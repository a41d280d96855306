"""Several encoders side by side, as SALMONN (Tang et al. 2023, section 3) joins Whisper and BEATs:
the frames of the first, each with those of the others at the same time.

A frame of a slower encoder is repeated for all frames of the first that start within it, so all
have the rate of the first; widths add up. Where the first keeps frames of padding, the others are
zero there.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch

from components.model.encoders.family import Family
from components.model.encoders.traits import join_traits


class JoinedFamily(Family):
    """Encoders side by side; ``layer`` is that of the first, the others give their last."""

    def __init__(self, parts: Sequence[Family]) -> None:
        self.parts = parts
        self.network = torch.nn.ModuleList([part.network for part in parts])
        self.traits = join_traits([part.traits for part in parts])

    def count_frames(self, samples: int) -> int:
        """The frames of the first encoder."""
        return self.parts[0].count_frames(samples) if samples >= self.traits.least_samples else 0

    def count_computed_samples(self, samples: int) -> int:
        """Samples that are computed for so many, by the encoder that computes most."""
        return max(part.count_computed_samples(samples) for part in self.parts)

    def encode(self, waveforms: Sequence[np.ndarray], layer: int | str) -> list[torch.Tensor]:
        """Frames of each waveform, (frames, sum of the widths)."""
        first, *following = [
            part.encode(waveforms, layer if index == 0 else "last")
            for index, part in enumerate(self.parts)
        ]
        joined = []
        for index, frames in enumerate(first):
            starts = torch.arange(len(frames), device=frames.device) * self.traits.hop  # samples
            aligned = []
            for part, part_frames in zip(self.parts[1:], following, strict=True):
                utterance = part_frames[index]  # (part's frames, part's width)
                frame_index = (starts // part.traits.hop).clamp(max=len(utterance) - 1)
                part_states = utterance[frame_index]  # (frames, part's width)
                aligned.append(part_states * (starts < len(waveforms[index]))[:, None])
            joined.append(torch.cat([frames, *aligned], dim=-1))  # (frames, sum of the widths)
        return joined
