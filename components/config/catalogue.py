"""The catalogue: what a name in ``params.yaml`` stands for.

One file a kind in ``catalogue/``. An entry is split by who reads it (``source``, ``numerics``,
``prompt``, ``lora``, ``train``), so that a DVC stage hangs on the parts that it reads and on
nothing else. ``card`` (licence, notes) is for people: no stage reads it.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields, replace
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal

import yaml

from components.config.augment import AddedNoise, Band, SpecAugment, is_valid_band
from components.config.errors import InputError, nearest
from components.config.projector import Projector, projector_of
from components.config.schema import STRICT, parse_as

FOLDER = Path("catalogue")
ROLES = ("train", "dev", "test", "nonspeech-train", "nonspeech-test", "noise")
SPEECH_ROLES = ("train", "dev", "test")
# What is fetched of a hub's repository: weights and plain descriptions at its top, and torch's own
# weights, which are converted without running what is in them. Never code (.py), other pickles, or
# formats that nothing here reads.
FETCHED = re.compile(
    r"[\w.-]+\.(safetensors|json|txt|model|jinja|md)|pytorch_model(-\d{5}-of-\d{5})?\.bin|LICENSE|NOTICE",
    re.ASCII,
)


@dataclass(frozen=True)
class CtcAugment:
    """How an encoder that is trained here hears an utterance anew in each epoch."""

    __pydantic_config__ = STRICT
    speed: list[float]  # factors, one drawn an utterance and epoch; tempo and pitch together
    level_db: list[float]  # least, most
    noise: AddedNoise  # clips of the role nonspeech-train, drawn an utterance and epoch
    band: Band  # bandwidth, as noise
    masks: SpecAugment  # on log-mel, frames of 10 ms


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
    max_seconds: float = 0.0  # longer utterances are left out, and counted; 0: none
    augment: CtcAugment | None = None  # none: every epoch hears the recordings
    units: int = 0  # subwords of the targets; 0: characters, which need frames of 40 ms or less


@dataclass(frozen=True)
class CheckpointSource:
    """Where a checkpoint comes from: ``hub`` (a pinned one of a model hub), ``folder`` (a local
    one), or made here.
    """

    __pydantic_config__ = STRICT
    kind: str
    repo: str = ""  # hub: owner/name
    revision: str = ""  # hub: the commit, 40 hex digits
    files: list[str] = field(default_factory=list)  # hub: what is fetched of it
    folder: str = ""  # below LIBRETTO_MODELS
    shape: dict[str, Any] = field(
        default_factory=dict
    )  # hub, folder: what its config.json must say; plans are made from it
    gigabytes: float = (
        0.0  # hub: of the files, where they are not just the weights that shape describes
    )


@dataclass(frozen=True)
class EncoderSource(CheckpointSource):
    """Where an encoder comes from: ``hub`` (a pinned checkpoint of a model hub), ``folder`` (a
    local checkpoint), ``ctc`` (trained here on the train role), ``fbank`` (none: log-mel) or
    ``joined`` (several side by side).
    """

    kind: Literal["hub", "folder", "ctc", "fbank", "joined"]
    config: dict[str, Any] = field(
        default_factory=dict
    )  # architecture of the encoder trained here; settings of the log-mel
    training: CtcTraining | None = None
    parts: dict[str, EncoderSource] = field(
        default_factory=dict
    )  # joined: the sources by name; the first sets the frame rate


@dataclass(frozen=True)
class EncoderNumerics:
    __pydantic_config__ = STRICT
    dtype: Literal["float32", "float16", "bfloat16"]  # of the computation
    features: Literal["float32", "float16"]  # of what is stored
    batching: Literal["padded", "equal-length"]  # group norm over time forbids padding
    max_abs: float = 6.0e4  # a larger feature value stops the stage: half precision ends at 65,504
    padding: Literal["window", "none"] = (
        "window"  # Whisper: 30 s as in pre-training, or the true length alone
    )


@dataclass(frozen=True)
class LoraTargets:
    """The linear layers that LoRA adapts, by the last part of their names."""

    __pydantic_config__ = STRICT
    targets: list[str]


@dataclass(frozen=True)
class Encoder:
    __pydantic_config__ = STRICT
    source: EncoderSource
    numerics: EncoderNumerics
    lora: LoraTargets | None = None  # log-mel has no layers
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
class LlmSource(CheckpointSource):
    """Where an LLM comes from: ``hub`` (a pinned checkpoint of a model hub), ``folder`` (a local
    checkpoint) or ``copying`` (trained here to copy and clean text).
    """

    kind: Literal["hub", "folder", "copying"]
    model_type: str = ""  # architecture name of transformers, for one trained here
    config: dict[str, Any] = field(default_factory=dict)
    training: CopyingTraining | None = None


@dataclass(frozen=True)
class Prompt:
    """The text around the speech; ``{speech}`` marks where the projected frames stand.

    Special tokens are written out in the template (``<|im_start|>``); the tokenizer's BOS alone has
    a field, since it stands first in the SLAM-ASR paper and after the speech in its released code.
    """

    __pydantic_config__ = STRICT
    template: str
    bos: Literal["first", "after-speech", "none"] = (
        "first"  # where the tokenizer has one; never doubled
    )
    # the token that ends a transcript, where a chat model ends its turn by another than the
    # tokenizer's
    eos: str = ""
    # How a transcript becomes tokens: by itself, or in one string with the template's end, as in
    # SLAM-ASR's released code. A SentencePiece tokenizer puts a space before what stands by itself,
    # so that the first word gets another token.
    transcript: Literal["apart", "attached"] = "apart"
    # Further templates: training draws one of all for each utterance and step; search reads the
    # first alone.
    others: list[str] = field(default_factory=list)


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
class Corpus:
    """Sources by role: ``{role: {source name: settings}}``; the settings are typed by the source's
    module.
    """

    sources: dict[str, dict[str, dict[str, Any]]]


@lru_cache(maxsize=16)
def parsed(text: str) -> dict[str, Any]:
    """The data of a catalogue file or of DVC's, parsed once and fast (3 ms for the corpora); nobody
    changes it.
    """
    return yaml.load(text, Loader=yaml.CSafeLoader)


def _load(kind: str) -> dict[str, Any]:
    path = FOLDER / f"{kind}.yaml"
    if not path.is_file():
        raise InputError(
            f"{path.resolve()} is missing.", hint="Run from the root of the repository."
        )
    return parsed(path.read_text())


def names(kind: str) -> list[str]:
    """Names of all entries of one kind (``corpus``, ``encoder``, ``projector``, ``llm``)."""
    return sorted(_load(kind))


def raw_entry(kind: str, name: str) -> dict[str, Any]:
    """One entry as plain data; raises InputError with the nearest known name."""
    entries = _load(kind)
    if name not in entries:
        raise InputError(
            f"No {kind} is called '{name}'.", subject=kind, hint=nearest(name, entries)
        )
    return entries[name]


def corpus(name: str) -> Corpus:
    """The sources by role of a corpus; raises InputError for an unknown role or a source without a
    kind.
    """
    entry = raw_entry("corpus", name)
    for role, sources in entry.items():
        if role not in (*ROLES, "card"):
            raise InputError(
                f"corpus '{name}': unknown role '{role}'.", subject=role, hint=nearest(role, ROLES)
            )
        for source, settings in (sources or {}).items() if role != "card" else ():
            if not isinstance(settings, dict) or "kind" not in settings:
                raise InputError(
                    f"corpus '{name}', {role}, source '{source}': no 'kind' is given.",
                    subject=source,
                )
    return Corpus({role: dict(entry.get(role) or {}) for role in ROLES})


def rooms_of(sources: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """Names of the sources of the role noise that are impulse responses of rooms; the others are
    added to speech.
    """
    return sorted(name for name, settings in sources.items() if settings.get("rooms"))


def encoder(name: str) -> Encoder:
    """The typed entry of an encoder."""
    entry = parse_as(Encoder, raw_entry("encoder", name), f"catalogue/encoder.yaml: {name}")
    check_source("encoder", name, entry.source)
    for part, source in entry.source.parts.items():
        check_source("encoder", f"{name}.{part}", source)
    return entry


def projector(name: str) -> Projector:
    """The typed entry of a projector, by its kind; without its card, which would enter the key of a
    training.
    """
    return replace(
        projector_of(raw_entry("projector", name), f"catalogue/projector.yaml: {name}"), card={}
    )


def llm(name: str) -> Llm:
    """The typed entry of an LLM."""
    entry = parse_as(Llm, raw_entry("llm", name), f"catalogue/llm.yaml: {name}")
    check_source("llm", name, entry.source)
    if any(
        template.count("{speech}") != 1
        for template in (entry.prompt.template, *entry.prompt.others)
    ):
        raise InputError(
            f"llm '{name}': the prompt template must hold {{speech}} exactly once.", subject=name
        )
    if entry.prompt.others and entry.prompt.transcript == "attached":
        raise InputError(
            f"llm '{name}': prompt.others goes with a transcript that is tokenised by itself.",
            subject=name,
            hint="Set prompt.transcript to apart.",
        )
    if entry.prompt.transcript == "attached" and entry.prompt.template.endswith(" "):
        raise InputError(
            f"llm '{name}': the prompt template ends in a space, which tokenizers join with an "
            "attached transcript.",
            subject=name,
            hint="Take the space away, or set prompt.transcript to apart.",
        )
    return entry


NEEDS = {
    "hub": ("repo",),
    "folder": ("folder",),
    "ctc": ("config", "training"),
    "copying": ("config", "training"),
    "fbank": ("config",),
    "joined": ("parts",),
}


def check_source(kind: str, name: str, source: EncoderSource | LlmSource) -> None:
    """Raises InputError, which names the entry, for a source that lacks something or can't be
    taken.
    """
    if not all(getattr(source, field) for field in NEEDS[source.kind]):
        wanted = " and ".join(f"'{field}'" for field in NEEDS[source.kind])
        raise InputError(
            f"{kind} '{name}': a source of kind '{source.kind}' needs {wanted}.", subject=name
        )
    if source.kind == "hub":
        _check_hub(f"{kind} '{name}'", source)
    if source.training is not None:
        _check_training(f"{kind} '{name}'", source.training)


def _check_training(where: str, training: CtcTraining | CopyingTraining) -> None:
    """Counts, seconds and rates are above zero, but for those that switch something off; shares are
    no more than one.
    """
    off = (
        "seed",
        "warmup",
        "weight_decay",
        *(["units", "max_seconds"] if isinstance(training, CtcTraining) else []),
    )
    augment = getattr(training, "augment", None)
    if augment and not _augment_holds(augment):
        raise InputError(
            f"{where}: source.training.augment wants speed factors from 0.5 to 2, ranges of level_db and noise.snr_db, one of "
            "band.hertz below 8,000, and probabilities.",
            subject="augment",
            hint="No change is speed: [1.0], level_db: [0, 0] and probabilities of 0.",
        )
    for each in (each for each in fields(training) if each.name != "augment"):
        value, share = getattr(training, each.name), each.name.endswith("_share")
        most = 1 if share else float("inf")
        if (
            not 0 <= value <= most
            or (value == 0 and not share and each.name not in off)
            or (each.name, value) == ("nonspeech_share", 1)
        ):
            raise InputError(
                f"{where}: source.training.{each.name} is {value}, which is out of range.",
                subject=each.name,
                hint="See the comments of other entries in the catalogue.",
            )


def _augment_holds(augment: CtcAugment) -> bool:
    ranges = all(
        len(pair) == 2 and pair[0] <= pair[1] for pair in (augment.level_db, augment.noise.snr_db)
    )
    shares = all(0 <= each.probability <= 1 for each in (augment.noise, augment.band))
    return (
        bool(augment.speed)
        and all(0.5 <= factor <= 2 for factor in augment.speed)
        and ranges
        and shares
        and is_valid_band(augment.band)
    )


def _check_hub(where: str, source: CheckpointSource) -> None:
    """What can be said of a hub source without asking the hub."""
    if not re.fullmatch(r"[\w-][\w.-]*/[\w-][\w.-]*", source.repo, re.ASCII):
        raise InputError(
            f"{where}: '{source.repo}' is no repository.",
            subject="repo",
            hint="It reads owner/name.",
        )
    if source.revision and not re.fullmatch(r"[0-9a-f]{40}", source.revision):
        raise InputError(
            f"{where}: revision '{source.revision}' is no commit of 40 hex digits.",
            subject="revision",
            hint="A branch or a tag may move: give the commit.",
        )
    for file in source.files:
        if not FETCHED.fullmatch(file):
            taken = (
                "Weights (safetensors, pytorch_model.bin) and plain descriptions are; code "
                "and other pickles are not."
            )
            raise InputError(f"{where}: '{file}' is not taken.", subject=file, hint=taken)
    if {file.rpartition(".")[2] for file in source.files} >= {"safetensors", "bin"}:
        raise InputError(
            f"{where}: the weights are listed twice.",
            subject="files",
            hint="List the safetensors and leave the .bin out.",
        )


def check_pinned(kind: str, name: str) -> None:
    """Raises InputError where a source of a hub does not say which commit and which files: what is
    fetched could change.
    """
    entry = READERS[kind](name).source
    for source in (entry, *getattr(entry, "parts", {}).values()):
        lacking = [key for key in ("revision", "files") if not getattr(source, key)]
        if source.kind == "hub" and lacking:
            says = (
                f"{kind} '{name}': {source.repo} is not pinned: no "
                f"{' and no '.join(lacking)} in catalogue/{kind}.yaml."
            )
            hint = (
                f"'python -m components.{kind} pin {name}' asks the hub and prints the "
                "lines to put there."
            )
            raise InputError(says, subject=name, hint=hint)


READERS: dict[str, Callable[[str], Any]] = {
    "corpus": corpus,
    "encoder": encoder,
    "projector": projector,
    "llm": llm,
}
