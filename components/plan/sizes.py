"""Sizes of encoder, LLM and bridge as plain figures, kept in the work cache from one plan to the
next.

In: what a ``config.json`` or a catalogue entry says of a network. Out: figures that
``components.plan.counts`` counts once; those of the networks of the committed ``params.yaml`` come
with this package (``counts.json``). Cost: milliseconds; 4 s for a network that was never planned,
since torch and transformers are imported for it.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from pydantic import TypeAdapter

from components.config.projector import Projector
from components.config.schema import non_default_fields
from components.model.encoders.traits import EncoderTraits
from components.runtime.hashing import data_digest
from components.runtime.unit_cache import cached_unit

FILE = "counts.json"  # of a unit of the work cache
COMMITTED = Path(__file__).with_name("counts.json")  # figures by digest of their key
Counts = TypeVar("Counts")


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
    num_tokens: tuple[int, ...]  # tokens of an utterance of 0, 1, 2 … frames, the most it can give
    bridge: dict[str, int]  # parameters of each tensor
    matching: dict[str, int]  # parameters of each tensor

    def tokens_of(self, num_frames: int) -> int:
        """Tokens that the bridge makes of an utterance; beyond the listed lengths by its stride."""
        last = len(self.num_tokens) - 1
        if num_frames <= last:
            return self.num_tokens[num_frames]
        return self.num_tokens[last] + math.ceil((num_frames - last) / self.stride)


class SizeReader:
    """Sizes of networks: those that come with this package, those of an earlier plan, or counted
    now.
    """

    def __init__(self, committed: Mapping[str, Any] | None = None) -> None:
        """Reads ``committed``, figures by the digest of their key; by default those of this
        package.
        """
        if committed is None:
            committed = json.loads(COMMITTED.read_text()) if COMMITTED.is_file() else {}
        self._committed = committed
        self.figures: dict[str, Any] = {}  # all that was read, by the digest of its key

    def encoder(self, where: str, shape: dict[str, Any], padding: str) -> EncoderCounts:
        """The encoder that ``shape``, the keys of a ``config.json``, describes; ``padding`` is that
        of its catalogue entry.

        Raises InputError, which names ``where``, for a family that is not known, and for a shape
        that makes no network.
        """

        def count() -> EncoderCounts:
            from components.plan.counts import count_encoder

            return count_encoder(where, shape, padding)

        return self._read(EncoderCounts, {"encoder": shape, "padding": padding}, count)

    def llm(self, shape: dict[str, Any]) -> LlmCounts:
        """The causal LLM that ``shape``, the keys of a ``config.json``, describes; raises
        InputError for a shape that makes no network.
        """

        def count() -> LlmCounts:
            from components.plan.counts import count_llm

            return count_llm(shape)

        return self._read(LlmCounts, {"llm": shape}, count)

    def bridge(self, entry: Projector, encoder_width: int, llm_width: int) -> BridgeSize:
        """The bridge of a catalogue entry between these widths."""

        def count() -> BridgeSize:
            from components.plan.counts import count_bridge

            return count_bridge(entry, encoder_width, llm_width)

        key = {"bridge": non_default_fields(entry), "widths": [encoder_width, llm_width]}
        return self._read(BridgeSize, key, count)

    def _read(self, kind: type[Counts], key: dict[str, Any], count: Callable[[], Counts]) -> Counts:
        """What ``count`` gives for this key, or gave before."""
        adapter, digest = TypeAdapter(kind), data_digest(key)

        def write(folder: Path) -> None:
            (folder / FILE).write_bytes(adapter.dump_json(count()))

        figures = self._committed.get(digest)
        if figures is None:
            unit = cached_unit("plan", key, write, code="components.plan.counts")
            figures = json.loads((unit / FILE).read_text())
        self.figures[digest] = figures
        return adapter.validate_python(figures)
