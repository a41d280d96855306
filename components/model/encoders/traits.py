"""What an encoder is by its configuration alone: rate, width, shortest input, rule for batches.

Starts without torch, and costs nothing. A family of checkpoints gives its traits from a
configuration (``CheckpointFamily.describe``), for a loaded encoder and for one that a plan only
counts; log-mel features and joined encoders have ``filterbank_traits`` and ``join_traits``.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from components.audio.sound import RATE

FBANK, JOINED = "fbank", "joined-encoders"  # model types of folders that this project writes
MEL_STEP, MEL_WINDOW = 160, 400  # samples at 16 kHz: 10 ms and 25 ms, of log-mel front ends


@dataclass(frozen=True)
class EncoderTraits:
    """Traits of an encoder; samples are at 16 kHz."""

    width: int  # values per frame
    hop: int  # samples from one frame to the next
    least_samples: int  # that give a frame
    num_layers: int | None  # a hidden state is 0 (input of the first) to this; None: the last only
    needs_equal_lengths: bool = False  # normalises over time: padding would change the frames
    window: int = 0  # samples that are computed at least, and in multiples; 0: as many as there are
    uses_full_window: bool = False  # frames of what fills a window up are frames of the utterance
    positions_per_frame: int = 1  # that its layers compute, for a count of operations

    @property
    def frame_rate(self) -> float:
        """Frames per second."""
        return RATE / self.hop

    @property
    def window_s(self) -> float:
        """Seconds that are computed at least, and in multiples; 0: as many as there are."""
        return self.window / RATE

    def count_computed_samples(self, samples: int) -> int:
        """Samples that are computed for so many: more where windows are filled up."""
        return -(-samples // self.window) * self.window if self.window else samples

    def count_output_samples(self, samples: int) -> int:
        """Samples whose frames an utterance of so many has: more where ``uses_full_window``."""
        return self.count_computed_samples(samples) if self.uses_full_window else samples


def filterbank_traits(num_mel: int, hop_length: int = MEL_STEP) -> EncoderTraits:
    """Log-mel itself as frames; its normalisation takes a variance, which needs two of them."""
    least_samples = 2 * hop_length
    return EncoderTraits(num_mel, hop_length, least_samples, None, positions_per_frame=0)


def join_traits(parts: Sequence[EncoderTraits]) -> EncoderTraits:
    """Encoders side by side: frames at the rate of the first, which alone has layers to choose;
    widths add up.
    """
    first = parts[0]
    return EncoderTraits(
        width=sum(part.width for part in parts),
        hop=first.hop,
        least_samples=max(part.least_samples for part in parts),
        num_layers=first.num_layers,
        needs_equal_lengths=any(part.needs_equal_lengths for part in parts),
        window=max(part.window for part in parts),
        uses_full_window=first.uses_full_window,
    )
