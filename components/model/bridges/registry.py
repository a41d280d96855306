"""All kinds of bridges: the entry of ``catalogue/projector.yaml`` → its network.

A new kind is a dataclass in ``components.config.projector`` (its fields, read without torch), a
module of this package and a line here.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from components.config import projector as entries
from components.model.bridges.bridge import Bridge
from components.model.bridges.compressor import Compressor
from components.model.bridges.convolution import (
    Conv1dMlpProjector,
    Conv1dTransformerProjector,
    DwsMlpProjector,
)
from components.model.bridges.ctc_embeddings import CtcEmbeddingsBridge
from components.model.bridges.discrete import DiscreteUnitsBridge
from components.model.bridges.gated_cross_attention import GatedCrossAttentionBridge
from components.model.bridges.qformer import (
    build_cross_attention,
    build_segment_qformer,
    build_window_qformer,
)
from components.model.bridges.stacking import (
    FullyConnectedProjector,
    LinearProjector,
    StackLinearProjector,
)

# Each is called with an entry of its type, the encoder's width and the LLM's.
BRIDGES: dict[type[entries.Projector], Callable[[Any, int, int], Bridge]] = {
    entries.Linear: LinearProjector,
    entries.StackLinear: StackLinearProjector,
    entries.FullyConnected: FullyConnectedProjector,
    entries.Conv1dMlp: Conv1dMlpProjector,
    entries.DwsMlp: DwsMlpProjector,
    entries.Conv1dTransformer: Conv1dTransformerProjector,
    entries.WindowQFormer: build_window_qformer,
    entries.SegmentQFormer: build_segment_qformer,
    entries.CrossAttention: build_cross_attention,
    entries.CtcCompressor: Compressor,
    entries.GatedCrossAttention: GatedCrossAttentionBridge,
    entries.DiscreteUnits: DiscreteUnitsBridge,
    entries.CtcEmbeddings: CtcEmbeddingsBridge,
}


def build_projector(entry: entries.Projector, encoder_width: int, llm_width: int) -> Bridge:
    """The bridge of a catalogue entry for these widths, with new weights."""
    return BRIDGES[type(entry)](entry, encoder_width, llm_width)
