"""The embedded corpus (kind ``spoken``): sentences of a small grammar, or of old prose, synthesised
by espeak-ng in many voices.

In: settings. Out: 16 kHz FLAC in the work cache and manifest rows, the same bytes on every run on
one CPU type. Train, dev and test share neither sentences (``generation.grammar``,
``generation.prose``) nor voices: variants are divided by family (``f1`` … ``f5`` are one), and
effect voices serve training only.
Cost: 12,000 utterances in about 35 s on two cores.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
from pydantic import AfterValidator, Field

from components.audio.sound import resample
from components.config.errors import InputError
from components.config.ranges import GeneratedClips, NonNegativeInt, PositiveInt, Seed
from components.config.schema import STRICT, Unit, check_order
from components.corpus import RESULT_VERSION
from components.corpus.generation import espeak
from components.corpus.generation.blocks import generate_blocks
from components.corpus.generation.generated_source import GeneratedAudio
from components.corpus.generation.grammar import MAX_DRAWS, draw_sentence
from components.corpus.generation.noise_floor import add_floor
from components.corpus.generation.prose import shuffle_prose, transcribe_prose
from components.corpus.generation.voice_settings import Accents, FloorLevel, MarginSeconds, Tempo
from components.corpus.source import check_split, parse_settings
from components.runtime.hashing import data_digest, seed_of

# Not the voice of a plain speaker: in training they add variety, in a test they would measure an
# effect.
EFFECTS = {
    "AnxiousAndy",
    "Demonic",
    "UniRobot",
    "croak",
    "whisper",
    "whisperf",
    "fast",
    "anikaRobot",
    "Tweaky",
}
SPLIT_FAMILIES = {"test": 13, "dev": 8}  # single voices each; all other families are train

# Measured mean duration in seconds of the texts, at TEXT_SPEED words a minute.
TEXT_SECONDS, TEXT_SPEED = {"sentences": 2.13, "digits": 1.05, "prose": 4.6}, 192.5


EspeakLimits = Annotated[
    list[Annotated[int, Field(ge=0, le=100)]],
    Field(min_length=2, max_length=2),
    AfterValidator(check_order),
]


@dataclass(frozen=True)
class SpokenSettings:
    """Settings of a source of kind ``spoken``; ranges are [lowest, highest]."""

    __pydantic_config__ = STRICT
    kind: Literal["spoken"]
    split: Annotated[
        Literal["train", "dev", "test"],
        Field(description="Equals the role: sentences and voices differ by split."),
    ]
    utterances: Annotated[GeneratedClips, Field(description="Number of utterances.")]
    seed: Annotated[Seed, Field(description="Seed of all random draws.")]
    words_per_class: Annotated[NonNegativeInt, Field(description="Of the grammar; 0: all.")]
    voices: Annotated[NonNegativeInt, Field(description="Of the split's voices; 0: all.")]
    speed: Annotated[
        list[PositiveInt],
        Field(min_length=2, max_length=2),
        AfterValidator(check_order),
        Unit("words/min"),
        Field(description="Lowest and highest."),
    ]
    pitch: Annotated[EspeakLimits, Field(description="Lowest and highest, of espeak-ng.")]
    pitch_range: Annotated[EspeakLimits, Field(description="Lowest and highest, of espeak-ng.")]
    tempo: Tempo
    margin_seconds: MarginSeconds
    floor_db: FloorLevel
    chunk: Annotated[
        PositiveInt,
        Unit("utterances"),
        Field(description="That one process synthesises; it shapes the audio."),
    ]
    texts: Annotated[
        Literal["sentences", "digits", "prose"],
        Field(
            description="Of the grammar, or digits: strings of one to seven, as people say "
            "numbers; or prose: 20,000 sentences of old books, each once before one comes again."
        ),
    ] = "sentences"
    accents: Accents = field(default_factory=lambda: ["en-us"])


@dataclass(frozen=True)
class SpokenUtterancePlan:
    """All that determines one utterance. The fields are a part of the block's key, and so of the
    paths in the manifest.
    """

    id: str
    text: str  # as it is read
    accent: str
    variant: str
    speed: int
    pitch: int
    pitch_range: int
    tempo: float
    before: float  # seconds of noise floor
    after: float  # seconds of noise floor
    floor_db: float
    noise_seed: int


def voice_family(variant: str) -> str:
    """Variants that differ in a trailing number, or in case, are one speaker's."""
    return re.sub(r"\d+$", "", variant).lower().replace("robot", "") or variant


def list_voices(split: str) -> list[str]:
    """Voice variants of a split, sorted: dev and test have single plain voices in the order of a
    digest, train all others.
    """
    families: dict[str, list[str]] = {}
    for variant in espeak.list_variants():
        families.setdefault(voice_family(variant), []).append(variant)
    single = [
        name
        for name, members in families.items()
        if len(members) == 1 and members[0] not in EFFECTS
    ]
    order = sorted(single, key=lambda name: seed_of("voice", name))
    num_test, num_dev = SPLIT_FAMILIES["test"], SPLIT_FAMILIES["dev"]
    reserved = {"test": order[:num_test], "dev": order[num_test : num_test + num_dev]}
    evaluation = reserved["test"] + reserved["dev"]
    names = reserved.get(split) or [name for name in families if name not in evaluation]
    return sorted(variant for name in names for variant in families[name])


class SpokenSource(GeneratedAudio[SpokenUtterancePlan]):
    """A source of kind ``spoken``."""

    def __init__(self, name: str, role: str, settings: dict[str, Any]) -> None:
        self.name, self.role = name, role
        self.settings = parse_settings(SpokenSettings, name, role, settings)
        check_split(name, self.settings.split, role)

    def scan(self) -> dict[str, Any]:
        """Version and voices of espeak-ng, with a digest."""
        inputs = {
            "espeakng-loader": version("espeakng-loader"),
            "voices": espeak.list_variants(),
        }
        return {**inputs, "digest": data_digest(inputs)}

    def estimate_size(self) -> tuple[float, int]:
        """(seconds of audio, approximate; number of utterances)."""
        settings = self.settings
        utterance_s = TEXT_SECONDS[settings.texts] * TEXT_SPEED / float(
            np.mean(settings.speed)
        ) + 2 * float(np.mean(settings.margin_seconds))
        return settings.utterances * utterance_s, settings.utterances

    def _describe(self, plan: SpokenUtterancePlan) -> dict[str, Any]:
        return {
            "split": self.role,
            "speaker": f"espeak-{plan.variant}",
            "language": "en",
            "text": transcribe_prose(plan.text),
        }

    def _generate(self, plans: Sequence[SpokenUtterancePlan]) -> list[Path]:
        key = {"kind": "spoken", "version": RESULT_VERSION, "scan": self.scan()["digest"]}
        return generate_blocks(self.name, plans, self.settings.chunk, synthesise_chunk, key)

    def _draw_text(self, random: np.random.Generator, drawn_texts: set[str]) -> str:
        settings = self.settings
        for _ in range(MAX_DRAWS):
            text = draw_sentence(random, settings.split, settings.words_per_class, settings.texts)
            # a repeated test sentence would count twice
            if settings.split == "train" or text not in drawn_texts:
                return text
        raise InputError(
            f"source '{self.name}': {settings.utterances} different sentences can't be drawn from "
            f"{settings.words_per_class} words a class (only {len(drawn_texts)}).",
            subject=self.name,
            hint="Lower its utterances or raise its words_per_class.",
        )

    def _plan_utterances(self) -> list[SpokenUtterancePlan]:
        settings = self.settings
        variants = list_voices(settings.split)[: settings.voices or None]
        prose = []
        if settings.texts == "prose":
            prose = shuffle_prose(self.name, self.role, settings.seed, settings.utterances)
        plans: list[SpokenUtterancePlan] = []
        drawn_texts: set[str] = set()
        for number in range(settings.utterances):
            random = np.random.default_rng(seed_of("spoken", settings.split, settings.seed, number))
            text = prose[number % len(prose)] if prose else self._draw_text(random, drawn_texts)
            drawn_texts.add(text)
            variant = variants[int(random.integers(len(variants)))]
            plans.append(_draw_plan(f"{self.name}-{number:06d}", text, variant, settings, random))
        return plans


def _draw_plan(
    utterance_id: str,
    text: str,
    variant: str,
    settings: SpokenSettings,
    random: np.random.Generator,
) -> SpokenUtterancePlan:
    """The order of the draws determines the audio: it stays."""

    def draw_integer(bounds: list[int]) -> int:
        return int(random.integers(bounds[0], bounds[1] + 1))

    def draw_real(bounds: list[float]) -> float:
        return round(float(random.uniform(*bounds)), 4)

    return SpokenUtterancePlan(
        id=utterance_id,
        text=text,
        variant=variant,
        speed=draw_integer(settings.speed),
        pitch=draw_integer(settings.pitch),
        pitch_range=draw_integer(settings.pitch_range),
        tempo=settings.tempo[int(random.integers(len(settings.tempo)))],
        before=draw_real(settings.margin_seconds),
        after=draw_real(settings.margin_seconds),
        floor_db=draw_real(settings.floor_db),
        noise_seed=int(random.integers(2**62)),
        accent=settings.accents[int(random.integers(len(settings.accents)))],
    )


def synthesise_chunk(plans: Sequence[SpokenUtterancePlan]) -> list[np.ndarray]:
    """Samples of each plan, float32 at 16 kHz; to be called once in a new process."""
    library = espeak.Espeak()
    return [_synthesise(library, plan) for plan in plans]


def _synthesise(library: espeak.Espeak, plan: SpokenUtterancePlan) -> np.ndarray:
    speech = library.speak(
        plan.text,
        plan.accent,
        plan.variant,
        plan.speed,
        plan.pitch,
        plan.pitch_range,
        plan.noise_seed % 2**31,
    )
    samples = resample(speech, round(espeak.RATE * plan.tempo))
    return add_floor(samples, plan.before, plan.after, plan.floor_db, plan.noise_seed)
