"""Entries of ``catalogue/projector.yaml``: one dataclass for each kind of bridge.

In: an entry as plain data, of the catalogue or of a model folder's ``config.json``. Out: the
dataclass of its kind, checked. The class that ``components.model.bridges.registry`` lists for
the same name builds its network. Cost: microseconds.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Annotated, Any, Literal, Self, cast, get_args, get_type_hints

from pydantic import Field, model_validator

from components.config.errors import InputError
from components.config.ranges import (
    Dropout,
    Frames,
    Layers,
    PositiveFloat,
    PositiveInt,
    Seed,
    Vocabulary,
    Width,
)
from components.config.schema import STRICT, RuleError, Unit, parse_as

Stack = Annotated[Frames, Unit("frames"), Field(description="Joined into one token.")]
HiddenWidth = Annotated[Width, Field(description="Width between two linear layers.")]
FeedForwardWidth = Annotated[
    Width, Field(description="Width inside the feed-forward part of a layer.")
]
NumLayers = Annotated[Layers, Field(description="Number of layers.")]
AttentionWidth = Annotated[Width, Field(description="Of attention; a multiple of the heads.")]
NumHeads = Annotated[Layers, Field(description="Heads of attention.")]
Segment = Annotated[Frames, Unit("frames"), Field(description="Length of a segment.")]
Queries = Annotated[Frames, Field(description="Tokens of each segment, however short it is.")]
DropoutRate = Annotated[Dropout, Field(description="Of all its layers, in training.")]


def _check_heads(width: int, heads: int) -> None:
    if width % heads:
        raise RuleError(
            "heads", f"{heads} heads do not divide the width {width}.", "Change one of them."
        )


@dataclass(frozen=True)
class ReleasedWeights:
    """A projector that others trained: taken as it is, in place of a training."""

    __pydantic_config__ = STRICT
    kind: Annotated[Literal["slam-llm"], Field(description="Format of the file.")]
    file: Annotated[str, Field(description="Path below LIBRETTO_MODELS.")]


@dataclass(frozen=True, kw_only=True)
class Projector:
    """What the entries of all kinds have."""

    __pydantic_config__ = STRICT
    kind: str
    weights: Annotated[
        ReleasedWeights | None,
        Field(description="Weights that others trained; null: they are trained here."),
    ] = None
    card: Annotated[dict[str, Any], Field(description="For people; no stage reads it.")] = field(
        default_factory=dict
    )


@dataclass(frozen=True)
class Linear(Projector):
    """Stack ``stack`` frames → linear → ReLU → linear (SLAM-ASR, arXiv 2402.08846, section 3)."""

    kind: Literal["linear"]
    stack: Stack
    hidden: HiddenWidth


@dataclass(frozen=True)
class StackLinear(Projector):
    """Stack ``stack`` frames → one linear layer (Fathullah et al., arXiv 2307.11795)."""

    kind: Literal["stack-linear"]
    stack: Stack


@dataclass(frozen=True)
class FullyConnected(Projector):
    """Stack ``stack`` frames → ``layers`` linear layers with ReLU between them (Yu et al., arXiv
    2309.13963).
    """

    kind: Literal["fc"]
    stack: Stack
    hidden: HiddenWidth
    layers: NumLayers


@dataclass(frozen=True)
class Convolution(Projector):
    """What all kinds with a convolution have: a token for each ``kernel`` frames, which start every
    ``stride`` frames.
    """

    kernel: Annotated[Frames, Unit("frames"), Field(description="Frames of one token.")]
    stride: Annotated[Frames, Unit("frames"), Field(description="Distance of two tokens.")]

    @model_validator(mode="after")
    def check_stride(self) -> Self:
        """Each frame is part of some token."""
        if self.kernel < self.stride:
            raise RuleError(
                "kernel",
                f"it is {self.kernel}, below the stride {self.stride}: frames would be left out.",
                "Set it to the stride or more.",
            )
        return self


@dataclass(frozen=True)
class Conv1dMlp(Convolution):
    """Conv1d → ReLU → linear → ReLU → linear (Pham et al., arXiv 2406.17272; sizes: MaLa-ASR, arXiv
    2406.05839).
    """

    kind: Literal["conv1d-mlp"]
    hidden: HiddenWidth


@dataclass(frozen=True)
class DwsMlp(Convolution):
    """Depth-wise separable Conv1d → ReLU → linear → ReLU → linear (Pham et al., arXiv
    2406.17272).
    """

    kind: Literal["dws-mlp"]
    hidden: HiddenWidth


@dataclass(frozen=True)
class Conv1dTransformer(Convolution):
    """Conv1d → ``layers`` transformer encoder layers → linear (Pham et al., arXiv 2406.17272)."""

    kind: Literal["conv1d-transformer"]
    width: AttentionWidth
    heads: NumHeads
    hidden: FeedForwardWidth
    layers: NumLayers
    dropout: DropoutRate = 0.0

    @model_validator(mode="after")
    def check_heads(self) -> Self:
        """Heads share the width equally."""
        _check_heads(self.width, self.heads)
        return self


@dataclass(frozen=True, kw_only=True)
class Attention(Projector):
    """What all kinds with attention have."""

    width: AttentionWidth
    heads: NumHeads
    dropout: DropoutRate = 0.0

    @model_validator(mode="after")
    def check_heads(self) -> Self:
        """Heads share the width equally."""
        _check_heads(self.width, self.heads)
        return self


@dataclass(frozen=True, kw_only=True)
class CrossAttention(Attention):
    """Trained queries, one attention to the frames of a segment, linear (after Yu et al., arXiv
    2309.13963).
    """

    kind: Literal["cross-attention"]
    window: Segment
    queries: Queries


@dataclass(frozen=True, kw_only=True)
class WindowQFormer(Attention):
    """A Q-Former over short windows (SALMONN, arXiv 2310.13289); a last part counts from half a
    window on.
    """

    kind: Literal["window-qformer"]
    window: Segment
    queries: Queries
    layers: NumLayers
    hidden: FeedForwardWidth


@dataclass(frozen=True, kw_only=True)
class SegmentQFormer(Attention):
    """A Q-Former over segments as long as the encoder's input, whose number is added to their
    frames (Yu et al., arXiv 2309.13963).
    """

    kind: Literal["segment-qformer"]
    window: Segment
    queries: Queries
    layers: NumLayers
    hidden: FeedForwardWidth


@dataclass(frozen=True, kw_only=True)
class CtcCompressor(Attention):
    """Frames fewer by the encoder's own CTC head → transformer layers → linear (SpeechLLaMA, arXiv
    2307.03917).
    """

    kind: Literal["ctc-compressor"]
    way: Annotated[
        Literal["drop-blank", "average"],
        Field(
            description="drop-blank: frames whose best unit is blank go; average: frames in a row "
            "with the same best unit become their mean."
        ),
    ]
    layers: NumLayers
    hidden: FeedForwardWidth


@dataclass(frozen=True, kw_only=True)
class GatedCrossAttention(Attention):
    """Stack ``stack`` frames → linear; blocks inside the LLM attend to the result and start as the
    identity (Gated-XATT-FFN: Flamingo, arXiv 2204.14198, section 3.1.2; in speech recognition, Li
    et al., arXiv 2306.16007).
    """

    kind: Literal["gated-cross-attention"]
    stack: Stack
    layers: Annotated[
        Layers, Field(description="Number of blocks, spread evenly over the LLM's layers.")
    ]
    hidden: FeedForwardWidth

    def layer_indices(self, num_layers: int) -> list[int]:
        """The layers of an LLM, of ``num_layers``, before which the blocks are; raises InputError
        where it has fewer layers than there are blocks.
        """
        if self.layers > num_layers:
            raise InputError(
                f"The bridge has {self.layers} blocks, the LLM {num_layers} layers.",
                subject="projector",
                hint=f"Set 'layers' of the bridge's entry to {num_layers} or less.",
            )
        return [index * num_layers // self.layers for index in range(self.layers)]


@dataclass(frozen=True, kw_only=True)
class DiscreteUnits(Projector):
    """Frames → the nearest k-means centroid, runs collapsed → an embedding for each unit, one
    before and one after them (SpeechGPT, arXiv 2305.11000).
    """

    kind: Literal["discrete-units"]
    units: Annotated[Vocabulary, Field(description="Centroids; the vocabulary grows by two more.")]
    hours: Annotated[
        PositiveFloat, Unit("h"), Field(description="Most training speech that k-means reads.")
    ]
    iterations: Annotated[
        PositiveInt, Unit("passes"), Field(description="Most passes of k-means over that speech.")
    ]
    seed: Annotated[Seed, Field(description="Seed of the utterances and the first centroids.")]


@dataclass(frozen=True, kw_only=True)
class CtcEmbeddings(Projector):
    """Frames → probabilities of CTC units that are tokens of the LLM → the mean of the LLM's input
    embeddings under them, one for each run of a unit (LegoSLM, arXiv 2505.11352). The stage ``ctc``
    trains the head.
    """

    kind: Literal["ctc-embeddings"]
    units: Annotated[
        Vocabulary,
        Field(description="Tokens of the LLM that are units: all letters, then the most frequent."),
    ]
    stride: Annotated[Frames, Field(description="Frames side by side in a step of the head.")]
    hidden: Annotated[Width, Field(description="Width of the head's layers.")]
    blocks: Annotated[
        Layers, Field(description="Blocks of a convolution and a feed-forward module.")
    ]
    is_conditioned: Annotated[
        bool,
        Field(
            description="Whether units are scored between the blocks too, and blocks above read "
            "them (self-conditioned CTC, arXiv 2104.02724)."
        ),
    ] = False
    start: Annotated[
        Literal["random", "decoder"],
        Field(
            description="First values of the head: random, or what the decoder of the same Whisper "
            "reads of a frame; 'hidden' is then the width of the frames."
        ),
    ] = "random"
    dropout: Annotated[
        Dropout, Field(description="Of what a block adds, while the stage ctc trains the head.")
    ] = 0.0
    temperature: Annotated[
        PositiveFloat,
        Field(description="Of the head's softmax: above 1 the LLM sees more of the other units."),
    ] = 1.0
    segmentation: Annotated[
        Literal["llm", "head"],
        Field(
            description="Of transcripts: as the LLM's tokenizer divides words, or in units of the "
            "head, which the LLM then copies one by one."
        ),
    ] = "llm"


AnyProjector = Annotated[
    Linear
    | StackLinear
    | FullyConnected
    | Conv1dMlp
    | DwsMlp
    | Conv1dTransformer
    | WindowQFormer
    | SegmentQFormer
    | CrossAttention
    | CtcCompressor
    | GatedCrossAttention
    | DiscreteUnits
    | CtcEmbeddings,
    Field(discriminator="kind"),
]
PROJECTOR_KINDS: dict[str, type[Projector]] = {
    get_args(get_type_hints(member)["kind"])[0]: member
    for member in get_args(get_args(AnyProjector)[0])
}


def parse_projector(data: Mapping[str, Any], where: str) -> Projector:
    """The typed entry of its kind; raises InputError that names ``where``, the key and the nearest
    known kind or key, or the range.
    """
    return parse_as(cast("type[Projector]", AnyProjector), data, where)
