"""The catalogue: what a name in ``params.yaml`` stands for.

One file a kind in ``catalogue/``. An entry is split by who reads it (``source``, ``numerics``, ``prompt``, ``lora``,
``train``), so that a DVC stage hangs on the parts that it reads and on nothing else. ``card`` (licence, notes) is for
people: no stage reads it.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal

import yaml

from components.config.errors import InputError, nearest
from components.config.typed import STRICT, typed

FOLDER = Path("catalogue")
ROLES = ("train", "dev", "test", "nonspeech-train", "nonspeech-test", "noise")
SPEECH_ROLES = ("train", "dev", "test")


@dataclass(frozen=True)
class CtcTraining:
    """How an encoder is trained here (``components.encoder.ctc``)."""

    __pydantic_config__ = STRICT
    seed: int
    epochs: int
    batch_seconds: float  # of audio in a step, padding counted
    micro_batches: int
    threads: int  # of a process
    window_shards: int
    learning_rate: float  # peak; warm-up, then cosine
    warmup: int  # steps
    weight_decay: float
    clip: float  # gradient norm
    nonspeech_share: float  # of utterances
    statistics_batches: int  # over which batch-norm statistics are taken anew at the end
    checkpoint_every: int  # steps


@dataclass(frozen=True)
class EncoderSource:
    """Where an encoder comes from: ``hub`` (a pinned checkpoint of a model hub), ``folder`` (a local checkpoint) or ``ctc``
    (trained here on the train role)."""

    __pydantic_config__ = STRICT
    kind: Literal["hub", "folder", "ctc"]
    repo: str = ""  # hub: owner/name
    revision: str = ""  # hub: the commit, 40 hex digits
    files: list[str] = field(default_factory=list)  # hub: what is fetched of it
    folder: str = ""  # below LIBRETTO_MODELS
    config: dict[str, Any] = field(default_factory=dict)  # architecture of the encoder trained here
    training: CtcTraining | None = None


@dataclass(frozen=True)
class EncoderNumerics:
    __pydantic_config__ = STRICT
    dtype: Literal["float32", "float16", "bfloat16"]  # of the computation
    features: Literal["float32", "float16"]  # of what is stored
    batching: Literal["padded", "equal-length"]  # group norm over time forbids padding
    max_abs: float = 6.0e4  # a larger feature value stops the stage: half precision ends at 65,504


@dataclass(frozen=True)
class Encoder:
    __pydantic_config__ = STRICT
    source: EncoderSource
    numerics: EncoderNumerics
    card: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class CopyingTraining:
    """How an LLM is trained here (``components.llm.copying``)."""

    __pydantic_config__ = STRICT
    seed: int
    units: int  # BPE vocabulary
    steps: int
    batch: int  # texts in a step
    micro_batches: int
    threads: int  # of a process
    learning_rate: float  # peak; warm-up, then cosine
    warmup: int  # steps
    weight_decay: float
    clip: float  # gradient norm
    clean_share: float  # of steps that only copy short word lists
    noise_share: float  # of texts that are damaged at the end
    checkpoint_every: int  # steps


@dataclass(frozen=True)
class LlmSource:
    """Where an LLM comes from: ``hub`` (a pinned checkpoint of a model hub), ``folder`` (a local checkpoint) or ``copying``
    (trained here to copy and clean text)."""

    __pydantic_config__ = STRICT
    kind: Literal["hub", "folder", "copying"]
    repo: str = ""  # hub: owner/name
    revision: str = ""  # hub: the commit, 40 hex digits
    files: list[str] = field(default_factory=list)  # hub: what is fetched of it
    folder: str = ""  # below LIBRETTO_MODELS
    model_type: str = ""  # architecture name of transformers, for one trained here
    config: dict[str, Any] = field(default_factory=dict)
    training: CopyingTraining | None = None


@dataclass(frozen=True)
class Prompt:
    """The text around the speech; ``{speech}`` marks where the projected frames stand."""

    __pydantic_config__ = STRICT
    template: str
    bos: bool = True  # begin with the tokenizer's BOS, where it has one


@dataclass(frozen=True)
class LoraTargets:
    __pydantic_config__ = STRICT
    targets: list[str]


@dataclass(frozen=True)
class LlmNumerics:
    __pydantic_config__ = STRICT
    dtype: Literal["float32", "float16", "bfloat16"]


@dataclass(frozen=True)
class Llm:
    __pydantic_config__ = STRICT
    source: LlmSource
    prompt: Prompt
    lora: LoraTargets
    numerics: LlmNumerics
    card: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Projector:
    """``linear``: stack ``stack`` frames → linear → ReLU → linear (SLAM-ASR, arXiv 2402.08846, section 3)."""

    __pydantic_config__ = STRICT
    kind: Literal["linear"]
    stack: int  # frames joined into one
    hidden: int  # width between the two linear layers
    card: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Corpus:
    """Sources by role: ``{role: {source name: settings}}``; the settings are typed by the source's module."""

    sources: dict[str, dict[str, dict[str, Any]]]


@lru_cache(maxsize=8)
def _parsed(text: str) -> dict[str, Any]:
    """The data of a catalogue file, parsed once (25 ms for the corpora); nobody changes it."""
    return yaml.safe_load(text)


def _load(kind: str) -> dict[str, Any]:
    path = FOLDER / f"{kind}.yaml"
    if not path.is_file():
        raise InputError(f"{path.resolve()} is missing.", way_out="Run from the root of the repository.")
    return _parsed(path.read_text())


def names(kind: str) -> list[str]:
    """Names of all entries of one kind (``corpus``, ``encoder``, ``projector``, ``llm``)."""
    return sorted(_load(kind))


def raw_entry(kind: str, name: str) -> dict[str, Any]:
    """One entry as plain data; raises InputError with the nearest known name."""
    entries = _load(kind)
    if name not in entries:
        raise InputError(f"No {kind} is called '{name}'.", unit=kind, way_out=nearest(name, entries))
    return entries[name]


def corpus(name: str) -> Corpus:
    """The sources by role of a corpus; raises InputError for an unknown role or a source without a kind."""
    entry = raw_entry("corpus", name)
    for role, sources in entry.items():
        if role not in (*ROLES, "card"):
            raise InputError(f"corpus '{name}': unknown role '{role}'.", unit=role, way_out=nearest(role, ROLES))
        for source, settings in (sources or {}).items() if role != "card" else ():
            if not isinstance(settings, dict) or "kind" not in settings:
                raise InputError(f"corpus '{name}', {role}, source '{source}': no 'kind' is given.", unit=source)
    return Corpus({role: dict(entry.get(role) or {}) for role in ROLES})


def encoder(name: str) -> Encoder:
    """The typed entry of an encoder."""
    entry = typed(Encoder, raw_entry("encoder", name), f"catalogue/encoder.yaml: {name}")
    _check_source("encoder", name, entry.source.kind == "folder", entry.source)
    return entry


def projector(name: str) -> Projector:
    """The typed entry of a projector."""
    return typed(Projector, raw_entry("projector", name), f"catalogue/projector.yaml: {name}")


def llm(name: str) -> Llm:
    """The typed entry of an LLM."""
    entry = typed(Llm, raw_entry("llm", name), f"catalogue/llm.yaml: {name}")
    _check_source("llm", name, entry.source.kind == "folder", entry.source)
    if entry.prompt.template.count("{speech}") != 1:
        raise InputError(f"llm '{name}': the prompt template must hold {{speech}} exactly once.", unit=name)
    return entry


def _check_source(kind: str, name: str, local: bool, source: EncoderSource | LlmSource) -> None:
    lacking = not source.folder if local else source.training is None or not source.config
    if lacking:
        wanted = "'folder'" if local else "'config' and 'training'"
        raise InputError(f"{kind} '{name}': a source of kind '{source.kind}' needs {wanted}.", unit=name)


READERS = {"corpus": corpus, "encoder": encoder, "projector": projector, "llm": llm}
