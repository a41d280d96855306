"""The parameters of ``params.yaml`` as typed sections: what is computed.

Fields carry no defaults: ``params.yaml`` is the one place that knows them. The four names (corpus,
encoder, projector, llm) are plain scalars that point into ``catalogue/``.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

import yaml

from components.config.augment import Augment, SpecAugment, augment_checks
from components.config.errors import InputError, nearest
from components.config.schema import STRICT, parse_as

PARAMS = Path("params.yaml")
NAMES = ("corpus", "encoder", "projector", "llm")


@dataclass(frozen=True)
class Shards:
    __pydantic_config__ = STRICT
    utterances: int  # most utterances in a tar
    seconds: float  # most seconds of audio in a tar
    remote: bool  # tars go to the store, not to the stage's folder


@dataclass(frozen=True)
class Features:
    __pydantic_config__ = STRICT
    mode: Literal["cached", "live"]
    layer: (
        int | Literal["last"]
    )  # which hidden state of the encoder; "last" also serves its CTC head
    batch_seconds: float  # seconds of audio in a batch, padding counted
    threads: int  # threads of one worker process
    remote: bool  # tars go to the store, not to the stage's folder
    augment: Augment


@dataclass(frozen=True)
class Matching:
    __pydantic_config__ = STRICT
    weight: float  # 0 switches it off
    mse: float  # weight of the squared distance within it
    cosine: float  # weight of 1 - cosine within it


@dataclass(frozen=True)
class Lora:
    __pydantic_config__ = STRICT
    rank: int
    alpha: int
    dropout: float
    learning_rate: float


@dataclass(frozen=True)
class Full:
    """Learning rates of what is tuned whole."""

    __pydantic_config__ = STRICT
    encoder: float
    llm: float


@dataclass(frozen=True)
class CurriculumStage:
    __pydantic_config__ = STRICT
    name: str
    steps: int
    tune: list[Literal["projector", "lora", "llm", "encoder-lora", "encoder"]]
    learning_rate: float  # of the projector and the matching head
    warmup: int  # steps
    decay: Literal["constant", "linear", "cosine"]
    nonspeech_share: float  # share of utterances that are non-speech with an empty transcript
    freeze: list[
        str
    ]  # patterns of parameter names that stay as they are although their part is tuned


@dataclass(frozen=True)
class Concatenate:
    """Utterances joined to longer ones."""

    __pydantic_config__ = STRICT
    share: float  # of an epoch's utterances
    seconds: float  # longest that comes out


@dataclass(frozen=True)
class Selection:
    __pydantic_config__ = STRICT
    every: int  # steps between checkpoints
    patience: int  # checkpoints without a better one that end a stage; 0: never
    utterances: int  # of each dev source, the first in index order


@dataclass(frozen=True)
class Train:
    __pydantic_config__ = STRICT
    seed: int
    threads: int  # threads of one process
    text_case: Literal["lower", "as-is"]  # of the targets
    batch_seconds: float  # seconds of audio in a step's batch, padding counted
    batch_tokens: int  # of the LLM's sequences in a step's batch, padding counted; 0: no limit
    micro_batches: int  # parts that a step's batch is cut into, whatever the number of processes
    packing: bool  # a part's sequences in one row
    precision: Literal["fp32", "bf16", "fp16"]  # of the arithmetic; trained weights are fp32
    gradient_checkpointing: bool  # of the LLM's layers
    spike: float  # times the median loss that stop the run; 0: never
    window_shards: int  # shards among which utterances are shuffled
    max_seconds: float  # longer training utterances are left out, and counted
    weight_decay: float
    clip: float  # gradient norm
    matching: Matching
    lora: Lora  # of the LLM
    encoder_lora: Lora
    full: Full
    # of the encoder's CTC loss beside cross-entropy, in stages that tune it; 0 switches it off
    ctc_weight: float
    spec_augment: SpecAugment
    concatenate: Concatenate
    text_mask: float  # share of the transcript's input tokens that are replaced
    curriculum: list[CurriculumStage]
    selection: Selection


@dataclass(frozen=True)
class ConstraintSet:
    """One set of search constraints; 0 switches a limit off, and 1 the repetition penalty."""

    __pydantic_config__ = STRICT
    beams: int
    max_tokens: int  # for any utterance
    length_penalty: float  # exponent of the length that divides a hypothesis' score
    no_repeat_ngram: int  # order, in tokens of the LLM
    max_tokens_per_second: float  # of the utterance's audio
    extra_tokens: int  # added to the limit above
    min_tokens_per_second: float  # of the utterance's audio
    repetition_penalty: float  # by which the log-probability of a token that was said is multiplied
    eos_threshold: (
        float  # times the log-probability of the likeliest other token: an end below it is none
    )
    # units of a text in a row (letters with CTC, else tokens) that the encoder did not hear
    max_unsupported_units: int
    silence_gate: float  # evidence for speech, 0 to 1, below which the empty transcript competes

    @property
    def needs_acoustic_evidence(self) -> bool:
        return self.max_unsupported_units > 0 or self.silence_gate > 0

    def without_acoustic_limits(self) -> ConstraintSet:
        """The same set with those limits off, for a model in which nothing tells what was heard."""
        return replace(self, max_unsupported_units=0, silence_gate=0)


@dataclass(frozen=True)
class Decode:
    __pydantic_config__ = STRICT
    batch_seconds: float
    threads: int
    exact: bool  # the LLM in fp32, whatever its entry says: batched equals single to the letter
    perplexity: bool  # of the references under the LLM alone
    sets: dict[str, ConstraintSet]


@dataclass(frozen=True)
class Score:
    __pydantic_config__ = STRICT
    text_form: Literal[
        "as-is", "casefold", "whisper"
    ]  # what both sides are brought to (components/text/forms.py)
    resamples: int  # of speakers, for the intervals of rates; 0: no intervals


@dataclass(frozen=True)
class Report:
    __pydantic_config__ = STRICT
    utterances: int  # in the error browser
    clips: int  # utterances whose audio the page carries
    megabytes: float  # of their FLAC together, 10^6 bytes


@dataclass(frozen=True)
class Params:
    """All of ``params.yaml``."""

    __pydantic_config__ = STRICT
    corpus: str
    encoder: str
    projector: str
    llm: str
    shards: Shards
    features: Features
    train: Train
    decode: Decode
    score: Score
    report: Report
    raw: dict[str, Any] = field(default_factory=dict, repr=False, compare=False)


def read_params(path: Path = PARAMS) -> Params:
    """The typed parameters; raises InputError naming the file and the key that is wrong."""
    if not path.is_file():
        raise InputError(
            f"{path.resolve()} is missing.", hint="Run from the root of the repository."
        )
    try:
        raw = yaml.safe_load(path.read_text())
    except yaml.YAMLError as error:
        raise InputError(f"{path}: not valid YAML: {error}") from None
    return params_of(raw, str(path))


def overridden(overrides: Mapping[str, Any], where: str) -> Params:
    """``params.yaml`` with some values set by their dotted keys, as ``dvc exp run -S`` would set
    them; ``where`` names the overrides in errors. Raises InputError for a key that ``params.yaml``
    does not have, and for a wrong value.
    """
    raw = yaml.safe_load(PARAMS.read_text())
    for key, value in overrides.items():
        _set(raw, key, copy.deepcopy(value))  # a later key may reach into it
    return params_of(raw, where)


def params_of(raw: Any, where: str) -> Params:
    """Plain data as typed parameters; raises InputError naming ``where`` and the key
    that is wrong.
    """
    if not isinstance(raw, dict) or "raw" in raw:
        raise InputError(f"{where}: a mapping of parameter sections is expected.")
    params = parse_as(Params, raw, where)
    params.raw.update(raw)
    _check_values(params, where)
    return params


def _set(data: Any, key: str, value: Any) -> None:
    """Sets one dotted key in plain data; an element of a list goes by its position."""
    *parents, last = key.split(".")
    for part in parents:
        data = data[_step(data, part, key)]
    data[_step(data, last, key)] = value


def _step(data: Any, part: str, key: str) -> str | int:
    if isinstance(data, list):
        if part.isdecimal() and int(part) < len(data):
            return int(part)
        raise InputError(
            f"'{key}': the list has no element {part}.",
            subject=key,
            hint=f"Positions: 0 to {len(data) - 1}.",
        )
    if not isinstance(data, Mapping) or part not in data:
        known = data if isinstance(data, Mapping) else ()
        raise InputError(
            f"{PARAMS} has no '{key}': '{part}' is unknown.", subject=key, hint=nearest(part, known)
        )
    return part


def _check_values(params: Params, where: str) -> None:
    train = params.train
    checks = {
        **augment_checks(params.features.augment),
        "train.micro_batches": train.micro_batches >= 1,
        "train.curriculum": bool(train.curriculum),
        "train.selection.every": train.selection.every >= 1,
        "shards.utterances": params.shards.utterances >= 1,
        "features.batch_seconds": params.features.batch_seconds > 0,
        "train.batch_seconds": train.batch_seconds > 0,
        "decode.batch_seconds": params.decode.batch_seconds > 0,
        **{
            f"report.{key}": getattr(params.report, key) >= 0
            for key in ("utterances", "clips", "megabytes")
        },
        "decode.sets": "free" in params.decode.sets
        and not {"ctc", "llm", "whisper"} & set(params.decode.sets),
    }
    for stage in train.curriculum:
        checks[f"train.curriculum.{stage.name}.nonspeech_share"] = 0 <= stage.nonspeech_share <= 1
        checks[f"train.curriculum.{stage.name}.tune"] = bool(stage.tune)
    checks |= {
        "train.ctc_weight": train.ctc_weight >= 0,
        "train.batch_tokens": train.batch_tokens >= 0,
        "train.spike": train.spike == 0 or train.spike > 1,
        "train.selection.patience": train.selection.patience >= 0,
        "train.concatenate.share": 0 <= train.concatenate.share <= 1,
        "train.concatenate.seconds": train.concatenate.seconds > 0 or not train.concatenate.share,
        "train.text_mask": 0 <= train.text_mask < 1,
        "score.resamples": params.score.resamples == 0 or params.score.resamples >= 100,
    }
    for name, each in params.decode.sets.items():
        checks |= {
            f"decode.sets.{name}.{key}": holds for key, holds in _search_checks(each).items()
        }
    for key, holds in checks.items():
        if not holds:
            raise InputError(
                f"{where}: '{key}' is out of range.",
                subject=key,
                hint="See the comment beside it in params.yaml.",
            )
    _check_tuning(params, where)


def _search_checks(rules: ConstraintSet) -> dict[str, bool]:
    from_zero = (
        "length_penalty",
        "no_repeat_ngram",
        "max_tokens_per_second",
        "extra_tokens",
        "min_tokens_per_second",
        "eos_threshold",
        "max_unsupported_units",
    )
    return {
        **{key: getattr(rules, key) >= 0 for key in from_zero},
        "beams": rules.beams >= 1,
        "max_tokens": rules.max_tokens >= 1,
        "repetition_penalty": rules.repetition_penalty > 0,
        "silence_gate": 0 <= rules.silence_gate <= 1,
    }


def _check_tuning(params: Params, where: str) -> None:
    """What can't be tuned together, or in this mode of features."""
    train, layer = params.train, params.features.layer
    for number, stage in enumerate(train.curriculum):
        for lora, whole in (("lora", "llm"), ("encoder-lora", "encoder")):
            if {lora, whole} <= set(stage.tune):
                key = f"train.curriculum.{number}.tune"
                raise InputError(
                    f"{where}: stage '{stage.name}' tunes '{lora}' and '{whole}', of one side.",
                    subject=key,
                    hint="Name one of them, or tune them in two stages.",
                )
    hears = tunes_encoder(train)
    if hears and params.features.mode != "live":
        raise InputError(
            f"{where}: '{hears}' is to be tuned, but cached frames are those of the encoder as "
            "it was.",
            subject="features.mode",
            hint="Set features.mode to live.",
        )
    if train.ctc_weight and not hears:
        raise InputError(
            f"{where}: train.ctc_weight is {train.ctc_weight:g}, but the encoder stays frozen "
            "in every stage.",
            subject="train.ctc_weight",
            hint="Tune 'encoder' or 'encoder-lora', or set it to 0.",
        )
    if train.ctc_weight and layer != "last":
        raise InputError(
            f"{where}: train.ctc_weight is {train.ctc_weight:g}, but a CTC head reads the last "
            f"layer, not layer {layer}.",
            subject="features.layer",
            hint="Set features.layer to last, or train.ctc_weight to 0.",
        )


def tunes_encoder(train: Train) -> str:
    """The first part of the encoder that a stage tunes; empty where it stays frozen in all."""
    return next(
        (part for stage in train.curriculum for part in stage.tune if part.startswith("encoder")),
        "",
    )
