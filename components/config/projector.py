"""Entries of ``catalogue/projector.yaml``: one dataclass a kind of bridge, and the one reader of all.

In: an entry as plain data, of the catalogue or of a model folder's ``config.json``. Out: the dataclass of its kind, checked.
Each kind is built by the class that ``components.model.projector`` lists under the same name. Cost: microseconds.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Any, Literal

from components.config.errors import InputError, nearest
from components.config.typed import STRICT, typed


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
    """Stack ``stack`` frames → ``layers`` linear layers with ReLU between them (Yu et al., arXiv 2309.13963)."""

    kind: Literal["fc"]
    stack: int  # frames joined into one
    hidden: int  # width between two layers
    layers: int


KINDS: dict[str, type[Projector]] = {
    "linear": Linear,
    "stack-linear": StackLinear,
    "fc": FullyConnected,
}


def projector_of(data: Mapping[str, Any], where: str) -> Projector:
    """The typed entry of its kind; raises InputError that names ``where`` and the nearest known kind or key, or the range."""
    kind = data.get("kind")
    if kind is None:
        raise InputError(f"{where}: 'kind' missing.", unit="kind", way_out=nearest("", KINDS))
    if kind not in KINDS:
        raise InputError(f"{where}: unknown kind '{kind}'.", unit="kind", way_out=nearest(str(kind), KINDS))
    entry = typed(KINDS[kind], data, where)
    for each in fields(entry):
        value = getattr(entry, each.name)
        if isinstance(value, int) and value < 1:
            raise InputError(f"{where}: '{each.name}' is {value}, and must be at least 1.", unit=each.name, way_out="Correct it there.")
    return entry
