"""How frames are computed: the one place for the stage ``features``, live mode and ``transcribe``,
so that all of them give the same values to the bit.

In: an encoder, the numerics of its catalogue entry, and waveforms (mono float32 at 16 kHz). Out:
frames, shape (frames, width), on the encoder's device. Cost: the encoder's.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from typing import TYPE_CHECKING

import numpy as np

from components.config.entries import EncoderNumerics
from components.config.errors import InputError
from components.features.waveforms import UNAUGMENTED, AugmentedView
from components.shards.order import batch_by_length
from components.shards.reader import IndexedUtterance

if TYPE_CHECKING:  # the stage imports this module before its workers need torch
    import torch

    from components.model.encoders.encoder import SpeechEncoder


def encode(
    encoder: SpeechEncoder, waveforms: Sequence[np.ndarray], batching: str
) -> list[torch.Tensor]:
    """Frames of each waveform, shape (frames, width), in the order of ``waveforms`` and in the
    encoder's dtype.

    With ``batching`` "equal-length" only waveforms of one length are encoded together: group norm
    over time would include the padding. Raises InputError for a waveform shorter than a frame.
    """
    groups: dict[int, list[int]] = {}
    for index, waveform in enumerate(waveforms):
        groups.setdefault(len(waveform) if batching == "equal-length" else 0, []).append(index)
    frames: dict[int, torch.Tensor] = {}
    for indices in groups.values():
        frames |= zip(indices, encoder([waveforms[index] for index in indices]), strict=True)
    return [frames[index] for index in range(len(waveforms))]


def encode_utterances(
    encoder: SpeechEncoder,
    utterances: Sequence[IndexedUtterance],
    batch_seconds: float,
    batching: str,
    view: AugmentedView = UNAUGMENTED,
) -> Iterator[tuple[IndexedUtterance, torch.Tensor]]:
    """Each utterance with its frames; batches are formed by length under ``batch_seconds`` of
    audio, the encoder's padding included.

    Raises InputError before any computation if an utterance is shorter than a frame.
    """
    lengths = [view.num_samples(utterance) for utterance in utterances]
    check_lengths(encoder, zip((utterance.id for utterance in utterances), lengths, strict=True))
    seconds = [encoder.computed_duration_s(length) for length in lengths]
    for batch in batch_by_length(utterances, seconds, batch_seconds):
        waveforms = [view.waveform(utterance) for utterance in batch]
        yield from zip(batch, encode(encoder, waveforms, batching), strict=True)


def check_lengths(encoder: SpeechEncoder, lengths: Iterable[tuple[str, int]]) -> None:
    """Raises InputError if an utterance has too few samples for a frame; ``lengths`` are pairs of
    utterance id and samples at 16 kHz.
    """
    for utterance_id, num_samples in lengths:
        if encoder.count_frames(num_samples) < 1:
            raise InputError(
                f"Utterance '{utterance_id}' is shorter than one frame of the encoder: "
                f"{num_samples} samples, {encoder.least_samples} are needed.",
                subject=utterance_id,
                hint="Leave it out of its source; features.augment.speed shortens too.",
            )


def largest_magnitude(frames: torch.Tensor) -> float:
    """The largest absolute value of frames, shape (frames, width); nan if one of them is nan."""
    return float(frames.float().abs().max())


def is_storable(magnitude: float, numerics: EncoderNumerics) -> bool:
    """Whether frames whose largest absolute value is ``magnitude`` can be stored."""
    return math.isfinite(magnitude) and magnitude <= numerics.max_abs


def to_stored_dtype(frames: torch.Tensor, numerics: EncoderNumerics) -> torch.Tensor:
    """Frames in the dtype in which the stage ``features`` stores them, shape (frames, width)."""
    import torch

    return frames.float().to(torch.float16 if numerics.features == "float16" else torch.float32)
