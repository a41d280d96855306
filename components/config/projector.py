"""Entries of ``catalogue/projector.yaml``: one dataclass a kind of bridge, and the one reader of
all.

In: an entry as plain data, of the catalogue or of a model folder's ``config.json``. Out: the
dataclass of its kind, checked. Each kind is built by the class that
``components.model.bridges.projector`` lists under the same name. Cost: microseconds.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Any, Literal

from components.config.errors import InputError, nearest
from components.config.schema import STRICT, parse_as


@dataclass(frozen=True)
class ReleasedWeights:
    """A projector that others trained: taken as it is, in place of a training."""

    __pydantic_config__ = STRICT
    kind: Literal["slam-llm"]
    file: str  # below LIBRETTO_MODELS


@dataclass(frozen=True, kw_only=True)
class Projector:
    """What the entries of all kinds have."""

    __pydantic_config__ = STRICT
    kind: str
    weights: ReleasedWeights | None = None
    card: dict[str, Any] = field(default_factory=dict)

    def fault(self) -> tuple[str, str] | None:
        """A key whose value is out of range, and what it must be; a kind adds what holds between
        its own.
        """
        for each in fields(self):
            value = getattr(self, each.name)
            if type(value) is int and value < 1:  # a yes or no is none
                return each.name, "must be at least 1"
            if each.name == "dropout" and not 0 <= value < 1:
                return each.name, "must be from 0 to below 1"
        return None


@dataclass(frozen=True)
class Linear(Projector):
    """Stack ``stack`` frames → linear → ReLU → linear (SLAM-ASR, arXiv 2402.08846, section 3)."""

    kind: Literal["linear"]
    stack: int  # frames joined into one
    hidden: int  # width between the two linear layers


@dataclass(frozen=True)
class StackLinear(Projector):
    """Stack ``stack`` frames → one linear layer (Fathullah et al., arXiv 2307.11795)."""

    kind: Literal["stack-linear"]
    stack: int  # frames joined into one


@dataclass(frozen=True)
class FullyConnected(Projector):
    """Stack ``stack`` frames → ``layers`` linear layers with ReLU between them (Yu et al., arXiv
    2309.13963).
    """

    kind: Literal["fc"]
    stack: int  # frames joined into one
    hidden: int  # width between two layers
    layers: int


@dataclass(frozen=True)
class Convolution(Projector):
    """What all kinds with a convolution have: a token for each ``kernel`` frames, which start every
    ``stride`` frames.
    """

    kernel: int  # frames
    stride: int  # frames

    def fault(self) -> tuple[str, str] | None:
        if self.kernel < self.stride:
            return "kernel", "must be at least the stride, or frames between would never be heard"
        return super().fault()


@dataclass(frozen=True)
class Conv1dMlp(Convolution):
    """Conv1d → ReLU → linear → ReLU → linear (Pham et al., arXiv 2406.17272; sizes: MaLa-ASR, arXiv
    2406.05839).
    """

    kind: Literal["conv1d-mlp"]
    hidden: int  # width between the two linear layers


@dataclass(frozen=True)
class DwsMlp(Convolution):
    """Depth-wise separable Conv1d → ReLU → linear → ReLU → linear (Pham et al., arXiv
    2406.17272).
    """

    kind: Literal["dws-mlp"]
    hidden: int  # width between the two linear layers


@dataclass(frozen=True)
class Conv1dTransformer(Convolution):
    """Conv1d → ``layers`` transformer encoder layers → linear (Pham et al., arXiv 2406.17272)."""

    kind: Literal["conv1d-transformer"]
    width: int  # of the layers
    heads: int  # of attention; the width is a multiple of them
    hidden: int  # width inside a layer's feed-forward part
    layers: int
    dropout: float = 0.0

    def fault(self) -> tuple[str, str] | None:
        return super().fault() or (
            ("heads", "must divide the width") if self.width % self.heads else None
        )


@dataclass(frozen=True, kw_only=True)
class Attention(Projector):
    """What all kinds with attention have."""

    width: int  # of attention
    heads: int  # the width is a multiple of them
    dropout: float = 0.0

    def fault(self) -> tuple[str, str] | None:
        return super().fault() or (
            ("heads", "must divide the width") if self.width % self.heads else None
        )


@dataclass(frozen=True, kw_only=True)
class CrossAttention(Attention):
    """Trained queries, one attention to the frames of a segment, linear (after Yu et al., arXiv
    2309.13963).
    """

    kind: Literal["cross-attention"]
    window: int  # frames of a segment
    queries: int  # tokens of a segment, however short it is


@dataclass(frozen=True, kw_only=True)
class WindowQFormer(Attention):
    """A Q-Former over short windows (SALMONN, arXiv 2310.13289); a last part counts from half a
    window on.
    """

    kind: Literal["window-qformer"]
    window: int  # frames
    queries: int  # tokens of a window
    layers: int
    hidden: int  # width inside a layer's feed-forward part


@dataclass(frozen=True, kw_only=True)
class SegmentQFormer(Attention):
    """A Q-Former over segments as long as the encoder's input, whose number is added to their
    frames (Yu et al., arXiv 2309.13963).
    """

    kind: Literal["segment-qformer"]
    window: int  # frames of a segment
    queries: int  # tokens of a segment, however short it is
    layers: int
    hidden: int  # width inside a layer's feed-forward part


@dataclass(frozen=True, kw_only=True)
class CtcCompressor(Attention):
    """Frames fewer by the encoder's own CTC head → transformer layers → linear (SpeechLLaMA, arXiv
    2307.03917).
    """

    kind: Literal["ctc-compressor"]
    way: Literal[
        "drop-blank", "average"
    ]  # blanks go, or each run of one best unit becomes its mean
    layers: int
    hidden: int  # width inside a layer's feed-forward part


KINDS: dict[str, type[Projector]] = {
    "linear": Linear,
    "stack-linear": StackLinear,
    "fc": FullyConnected,
    "conv1d-mlp": Conv1dMlp,
    "dws-mlp": DwsMlp,
    "conv1d-transformer": Conv1dTransformer,
    "window-qformer": WindowQFormer,
    "segment-qformer": SegmentQFormer,
    "cross-attention": CrossAttention,
    "ctc-compressor": CtcCompressor,
}


def projector_of(data: Mapping[str, Any], where: str) -> Projector:
    """The typed entry of its kind; raises InputError that names ``where`` and the nearest known
    kind or key, or the range.
    """
    kind = data.get("kind")
    if kind is None:
        raise InputError(f"{where}: 'kind' missing.", subject="kind", hint=nearest("", KINDS))
    if kind not in KINDS:
        raise InputError(
            f"{where}: unknown kind '{kind}'.", subject="kind", hint=nearest(str(kind), KINDS)
        )
    entry = parse_as(KINDS[kind], data, where)
    fault = entry.fault()
    if fault is not None:
        key, rule = fault
        raise InputError(
            f"{where}: '{key}' is {getattr(entry, key)}, and {rule}.",
            subject=key,
            hint="Correct it there.",
        )
    return entry
