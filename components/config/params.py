"""The parameters of ``params.yaml`` as typed sections: what is computed.

Each field carries its range, unit and description. Fields have no defaults: ``params.yaml`` is the
one place of them and of the reasons. The four names (corpus, encoder, projector, llm) are plain
scalars that point into ``catalogue/``.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import Field, model_validator

from components.config.augment import Augment
from components.config.ctc import Ctc
from components.config.decoding import Decode
from components.config.entries import EncoderEntry, EncoderNumerics, Padding
from components.config.errors import InputError, nearest
from components.config.ranges import (
    BatchSeconds,
    LayerIndex,
    NonNegativeFloat,
    NonNegativeInt,
    PositiveFloat,
    PositiveInt,
    Resamples,
    Threads,
)
from components.config.schema import (
    ENTRY_NAME,
    STRICT,
    RuleError,
    Unit,
    parse_as,
    renamed_key,
)
from components.config.training import Train, needs_live_features
from components.config.yaml_files import read_yaml

PARAMS = Path("params.yaml")
NAMES = ("corpus", "encoder", "projector", "llm")


@dataclass(frozen=True)
class Shards:
    """Tars of utterances."""

    __pydantic_config__ = STRICT
    utterances: Annotated[PositiveInt, Field(description="Most utterances in a tar.")]
    seconds: Annotated[PositiveFloat, Unit("s"), Field(description="Most audio in a tar.")]
    remote: Annotated[
        bool, Field(description="Whether tars go to the store, not to the stage's folder.")
    ]


@dataclass(frozen=True)
class Features:
    """Frames of the encoder."""

    __pydantic_config__ = STRICT
    mode: Annotated[
        Literal["cached", "live"],
        Field(description="cached: computed once; live: inside train and decode, nothing stored."),
    ]
    layer: Annotated[
        LayerIndex | Literal["last"],
        Field(
            description="Hidden state of the encoder; last, and the highest number, is its "
            "output, behind a final norm. Only last serves its CTC head."
        ),
    ]
    padding: Annotated[
        Padding | None,
        Field(description="Of Whisper, in place of numerics.padding of the encoder's entry."),
    ]
    batch_seconds: Annotated[
        BatchSeconds, Unit("s"), Field(description="Audio in a batch, padding counted.")
    ]
    threads: Annotated[Threads, Field(description="Threads of a worker process.")]
    remote: Annotated[
        bool, Field(description="Whether tars go to the store, not to the stage's folder.")
    ]
    augment: Augment

    def numerics(self, encoder: EncoderEntry) -> EncoderNumerics:
        """How ``encoder`` is run: as its entry says, with the padding of these settings."""
        numerics = encoder.numerics
        return replace(numerics, padding=self.padding) if self.padding else numerics


@dataclass(frozen=True)
class Score:
    """Word error rates and their statistics."""

    __pydantic_config__ = STRICT
    text_form: Annotated[
        Literal["as-is", "casefold", "whisper"],
        Field(description="Form of both texts that are compared (components/text/forms.py)."),
    ]
    resamples: Annotated[
        Resamples,
        Field(description="Bootstrap samples of speakers, for intervals; 0: no intervals."),
    ]

    @model_validator(mode="after")
    def check_resamples(self) -> Self:
        """Fewer than 100 samples say nothing about the outer 2.5 %."""
        if 0 < self.resamples < 100:
            raise RuleError(
                "resamples",
                f"{self.resamples} are too few for a 95 % interval.",
                "Set it to at least 100, or to 0 for no intervals.",
            )
        return self


@dataclass(frozen=True)
class Report:
    """The HTML page of results."""

    __pydantic_config__ = STRICT
    utterances: Annotated[NonNegativeInt, Field(description="Rows of the error browser.")]
    clips: Annotated[NonNegativeInt, Field(description="Utterances whose audio the page has.")]
    megabytes: Annotated[
        NonNegativeFloat, Unit("10^6 bytes"), Field(description="Most FLAC of these together.")
    ]


def _entry_of(kind: str) -> Any:
    return Field(pattern=ENTRY_NAME, description=f"Name of an entry of catalogue/{kind}.yaml.")


@dataclass(frozen=True)
class Params:
    """All of ``params.yaml``."""

    __pydantic_config__ = STRICT
    corpus: Annotated[str, _entry_of("corpus")]
    encoder: Annotated[str, _entry_of("encoder")]
    projector: Annotated[str, _entry_of("projector")]
    llm: Annotated[str, _entry_of("llm")]
    shards: Shards
    features: Features
    ctc: Ctc
    train: Train
    decode: Decode
    score: Score
    report: Report
    raw: dict[str, Any] = field(default_factory=dict, repr=False, compare=False)

    @model_validator(mode="after")
    def check_encoder(self) -> Self:
        """Cached frames are those of the encoder before training; a CTC head reads the last
        layer.
        """
        part = self.train.tuned_encoder_part
        if part and self.features.mode != "live":
            raise RuleError("features.mode", *needs_live_features(part))
        if self.train.ctc_weight and self.features.layer != "last":
            raise RuleError(
                "features.layer",
                f"train.ctc_weight is {self.train.ctc_weight:g}, but a CTC head reads the last "
                f"layer, not layer {self.features.layer}.",
                "Set features.layer to last, or train.ctc_weight to 0.",
            )
        return self

    @model_validator(mode="after")
    def check_consistency(self) -> Self:
        """Two copies of an utterance that no mask changes would be the same."""
        if self.ctc.consistency and not self.train.spec_augment.enabled:
            raise RuleError(
                "ctc.consistency",
                f"{self.ctc.consistency:g} weighs two masked copies of an utterance, and "
                "train.spec_augment is off.",
                "Set train.spec_augment.enabled to true, or ctc.consistency to 0.",
            )
        return self


def read_params(path: Path = PARAMS) -> Params:
    """The typed parameters; raises InputError naming the file and the key that is wrong."""
    return parse_params(copy.deepcopy(read_yaml(path)), str(path))


def read_overridden_params(overrides: Mapping[str, Any], where: str) -> Params:
    """The typed ``params.yaml`` with some values set by their dotted keys, as ``dvc exp run -S``
    sets them; ``where`` names the overrides in errors. Raises InputError for a key that
    ``params.yaml`` does not have, and for a wrong value.
    """
    raw = copy.deepcopy(read_yaml(PARAMS))
    for key, value in overrides.items():
        _set(raw, key, copy.deepcopy(value))  # a later key may change a part of it
    return parse_params(raw, where)


def parse_params(raw: Any, where: str) -> Params:
    """Plain data as typed parameters; raises InputError naming ``where`` and the key
    that is wrong.
    """
    if not isinstance(raw, dict) or "raw" in raw:
        raise InputError(
            f"{where}: a mapping of parameter sections is expected.",
            subject=where,
            hint="Compare with params.yaml of the repository.",
        )
    params = parse_as(Params, raw, where)
    params.raw.update(raw)
    return params


def _set(data: Any, key: str, value: Any) -> None:
    """Sets one dotted key in plain data; a member of a list has its position as key."""
    *parents, last = key.split(".")
    for part in parents:
        data = data[resolve_key(data, part, key)]
    data[resolve_key(data, last, key)] = value


def resolve_key(data: Any, part: str, key: str) -> str | int:
    """The key in a mapping, or the position in a list, that ``part`` of the dotted ``key`` names;
    raises InputError where there is none.
    """
    if isinstance(data, list):
        if part.isdecimal() and int(part) < len(data):
            return int(part)
        raise InputError(
            f"'{key}': the list has no element {part}.",
            subject=key,
            hint=f"Positions: 0 to {len(data) - 1}.",
        )
    if not isinstance(data, Mapping) or part not in data:
        names = data if isinstance(data, Mapping) else ()
        new_name = renamed_key(part, names)
        hint = f"Its name is '{new_name}' now." if new_name else ""
        raise InputError(
            f"{PARAMS} has no '{key}': '{part}' is unknown.",
            subject=key,
            hint=hint or nearest(part, names),
        )
    return part
