"""Sizes of encoder, LLM and bridge as plain figures.

``components.plan.counts`` counts them and ``components.plan.size_reader`` stores them as JSON.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from components.audio.sound import RATE
from components.model.encoders.traits import EncoderTraits


@dataclass(frozen=True)
class EncoderSize:
    """A speech encoder: the part of it that runs."""

    num_parameters: int
    traits: EncoderTraits
    token_rate: float  # positions that the layers compute a second of audio
    has_ctc: bool = False  # whether it ends in a CTC head
    decoder_parameters: int = 0  # of a Whisper, whose decoder transcribes besides the LLM

    @property
    def width(self) -> int:
        """Values of a frame."""
        return self.traits.width

    @property
    def frame_rate(self) -> float:
        """Frames a second of audio."""
        return self.traits.frame_rate

    @property
    def window_s(self) -> float:
        """Audio is computed in multiples of so many seconds; 0: as long as it is."""
        return self.traits.window_s

    def count_frames(self, seconds: float) -> float:
        """Frames of an utterance of so many seconds, those of a kept window included."""
        samples = round(seconds * RATE)
        return self.traits.count_output_samples(samples) / self.traits.hop

    def frame_duration_s(self, seconds: float) -> float:
        """Seconds that the frames of an utterance of so many seconds last, by which batches are
        formed: full windows, where their padding has frames too.
        """
        if not self.traits.uses_full_window:
            return seconds
        return self.window_s * max(1, math.ceil(seconds / self.window_s))

    def utterances_per_batch(self, seconds: float, batch_seconds: float) -> float:
        """Utterances of so many seconds in a full batch, at least one; a whole number of them where
        their windows are full, since these have one length.
        """
        if not seconds:
            return 1.0
        count = batch_seconds / self.frame_duration_s(seconds)
        return max(1.0, math.floor(count) if self.traits.uses_full_window else count)

    @property
    def num_layers(self) -> int:
        """Layers, of joined encoders those of the first; 0 for a filterbank."""
        return self.traits.num_layers or 0


@dataclass(frozen=True)
class LlmSize:
    """A causal LLM."""

    num_parameters: int
    width: int  # values of an embedding
    num_layers: int
    vocabulary_size: int  # tokens
    kv_width: int  # values that a token leaves in a layer's cache, keys and values together
    layer_parameters: int  # of all layers: what ranks can share
    has_position_ids: bool  # without them, sequences packed into one row would see each other


@dataclass(frozen=True)
class LayerSizes:
    """Parameters of a network by the names that they have in it."""

    parameters: dict[str, int]  # parameters of each tensor that training may tune
    linear: dict[str, tuple[int, int]]  # inputs and outputs of each linear layer


@dataclass(frozen=True)
class EncoderCounts:
    """An encoder and its checkpoint."""

    size: EncoderSize
    layers: LayerSizes
    checkpoint_parameters: int  # of all that its files hold


@dataclass(frozen=True)
class LlmCounts:
    """An LLM and its layers."""

    size: LlmSize
    layers: LayerSizes


@dataclass(frozen=True)
class BridgeSize:
    """A bridge, and the matching head that is trained beside it."""

    stride: float  # frames of the encoder that one token stands for
    period: int  # frames by which a longer utterance always has the same number of tokens more
    # tokens of an utterance of 0, 1, 2 … frames, at least 2 · period; the most it can give
    num_tokens: tuple[int, ...]
    bridge: dict[str, int]  # parameters of each tensor
    matching: dict[str, int]  # parameters of each tensor
    is_in_prompt: bool = True  # whether its tokens are part of the LLM's sequence
    num_blocks: int = 0  # that run in the LLM, for every token of its sequence
    block_parameters: int = 0  # of all of them

    def tokens_of(self, num_frames: int) -> int:
        """Tokens that the bridge makes of an utterance; beyond the listed lengths by its period."""
        last = len(self.num_tokens) - 1
        num_periods = max(0, math.ceil((num_frames - last) / self.period))
        period_tokens = self.num_tokens[last] - self.num_tokens[last - self.period]
        listed_frames = num_frames - num_periods * self.period
        return self.num_tokens[listed_frames] + num_periods * period_tokens
