"""The embedded corpus: sentences of a small grammar spoken by espeak-ng in many voices.

Settings → 16 kHz FLAC in the work cache and manifest rows, the same bytes on every run on one CPU
type. Train, dev and test share neither sentences (``grammar``) nor voices: variants are split by
family (``f1`` … ``f5`` are one), and effect voices serve training only. Cost: 12,000 utterances in
about 35 s on two cores.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any, Literal

import numpy as np

from components.audio.sound import RATE, resample
from components.config.errors import InputError
from components.config.schema import STRICT
from components.corpus import RESULT_VERSION
from components.corpus.generation import espeak
from components.corpus.generation.blocks import (
    generate_blocks,
    list_block_utterances,
    locate_generated,
)
from components.corpus.generation.grammar import DRAWS, sentence
from components.corpus.manifest import Reject
from components.corpus.source import parse_settings
from components.runtime.hashing import data_digest, seed_of
from components.text.utterance import Utterance

# Not the voice of a plain speaker; in training they add variety, in a test they would measure an
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

# Measured mean of what the grammar gives, at so many words a minute.
TEXT_SECONDS, TEXT_SPEED = {"sentences": 2.13, "digits": 1.05}, 192.5


@dataclass(frozen=True)
class SpokenSettings:
    """Of a source of kind ``spoken``; ranges are [lowest, highest]."""

    __pydantic_config__ = STRICT
    kind: str
    split: Literal["train", "dev", "test"]
    utterances: int
    seed: int
    words_per_class: int  # of the grammar; 0: all
    voices: int  # of the split's voices; 0: all
    speed: list[int]  # words a minute
    pitch: list[int]  # espeak-ng's 0-100
    pitch_range: list[int]  # espeak-ng's 0-100
    tempo: list[float]  # factors of tempo and pitch together, by resampling; one is drawn
    margin_seconds: list[float]  # of noise floor before and after
    floor_db: list[float]  # level of the recording's noise floor, dB of full scale
    chunk: int  # utterances that one process speaks: shapes the audio
    texts: Literal["sentences", "digits"] = (
        "sentences"  # digits: strings of one to seven, as people say numbers
    )


@dataclass(frozen=True)
class SpokenUtterancePlan:
    """All that one utterance is made from."""

    id: str
    text: str
    variant: str
    speed: int
    pitch: int
    pitch_range: int
    tempo: float
    before: float  # seconds
    after: float  # seconds
    floor_db: float
    noise_seed: int


def family(variant: str) -> str:
    """Variants that differ in a trailing number, or in case, are one speaker's."""
    return re.sub(r"\d+$", "", variant).lower().replace("robot", "") or variant


def voices(split: str) -> list[str]:
    """Voice variants of a split: dev and test take single plain voices in the order of a digest,
    train all others.
    """
    families: dict[str, list[str]] = {}
    for variant in espeak.variants():
        families.setdefault(family(variant), []).append(variant)
    single = [
        name
        for name, members in families.items()
        if len(members) == 1 and members[0] not in EFFECTS
    ]
    order = sorted(single, key=lambda name: seed_of("voice", name))
    test, dev = SPLIT_FAMILIES["test"], SPLIT_FAMILIES["dev"]
    held = {"test": order[:test], "dev": order[test : test + dev]}
    names = held.get(split) or [name for name in families if name not in held["test"] + held["dev"]]
    return sorted(variant for name in names for variant in families[name])


class SpokenSource:
    """A source of kind ``spoken``."""

    def __init__(self, name: str, role: str, settings: dict[str, Any]) -> None:
        self.name, self.role = name, role
        self.settings = parse_settings(SpokenSettings, name, role, settings)
        if self.settings.split != role:
            raise InputError(
                f"source '{name}' of split '{self.settings.split}' stands in the role '{role}'.",
                subject=name,
                hint="Sentences and voices are kept apart by split: set both alike.",
            )

    def scan(self) -> dict[str, Any]:
        stands_on = {"espeakng-loader": version("espeakng-loader"), "voices": espeak.variants()}
        return {**stands_on, "digest": data_digest(stands_on)}

    def estimate_size(self) -> tuple[float, int]:
        settings = self.settings
        each = TEXT_SECONDS[settings.texts] * TEXT_SPEED / float(
            np.mean(settings.speed)
        ) + 2 * float(np.mean(settings.margin_seconds))
        return settings.utterances * each, settings.utterances

    def list_utterances(self) -> tuple[list[Utterance], list[Reject]]:
        plans = self._plans()
        by_id = {plan.id: plan for plan in plans}

        def describe(name: str) -> dict[str, Any]:
            plan = by_id[name]
            return {
                "split": self.role,
                "speaker": f"espeak-{plan.variant}",
                "language": "en",
                "text": plan.text,
            }

        return list_block_utterances(self._blocks(plans), describe), []

    def locate(self, path: str) -> Path:
        return locate_generated(path, lambda: self._blocks(self._plans()), code=__name__)

    def _blocks(self, plans: list[SpokenUtterancePlan]) -> list[Path]:
        key = {"kind": "spoken", "version": RESULT_VERSION, "scan": self.scan()["digest"]}
        return generate_blocks("corpus", self.name, plans, self.settings.chunk, speak_chunk, key)

    def _sentence(self, random: np.random.Generator, seen: set[str]) -> str:
        settings = self.settings
        for _ in range(DRAWS):
            text = sentence(random, settings.split, settings.words_per_class, settings.texts)
            if (
                settings.split == "train" or text not in seen
            ):  # a repeated test sentence would count twice
                return text
        raise InputError(
            f"source '{self.name}': {settings.utterances} different sentences can't be drawn from "
            f"{settings.words_per_class} words a class (reached {len(seen)}).",
            subject=self.name,
            hint="Lower its utterances or raise its words_per_class.",
        )

    def _plans(self) -> list[SpokenUtterancePlan]:
        settings = self.settings
        names = voices(settings.split)[: settings.voices or None]
        plans: list[SpokenUtterancePlan] = []
        seen: set[str] = set()
        for number in range(settings.utterances):
            random = np.random.default_rng(seed_of("spoken", settings.split, settings.seed, number))
            text = self._sentence(random, seen)
            seen.add(text)
            plans.append(
                _plan(
                    f"{self.name}-{number:06d}",
                    text,
                    names[int(random.integers(len(names)))],
                    settings,
                    random,
                )
            )
        return plans


def _plan(
    name: str, text: str, variant: str, settings: SpokenSettings, random: np.random.Generator
) -> SpokenUtterancePlan:
    def whole(bounds: list[int]) -> int:
        return int(random.integers(bounds[0], bounds[1] + 1))

    def real(bounds: list[float]) -> float:
        return round(float(random.uniform(*bounds)), 4)

    return SpokenUtterancePlan(
        id=name,
        text=text,
        variant=variant,
        speed=whole(settings.speed),
        pitch=whole(settings.pitch),
        pitch_range=whole(settings.pitch_range),
        tempo=settings.tempo[int(random.integers(len(settings.tempo)))],
        before=real(settings.margin_seconds),
        after=real(settings.margin_seconds),
        floor_db=real(settings.floor_db),
        noise_seed=int(random.integers(2**62)),
    )


def speak_chunk(plans: Sequence[SpokenUtterancePlan]) -> list[np.ndarray]:
    """Samples at 16 kHz of each plan; to be called once in a fresh process."""
    library = espeak.Espeak()
    return [_speak(library, plan) for plan in plans]


def _speak(library: espeak.Espeak, plan: SpokenUtterancePlan) -> np.ndarray:
    spoken = library.speak(
        plan.text,
        "en-us",
        plan.variant,
        plan.speed,
        plan.pitch,
        plan.pitch_range,
        plan.noise_seed % 2**31,
    )
    samples = resample(spoken, round(espeak.RATE * plan.tempo))
    padded = np.pad(samples, (int(plan.before * RATE), int(plan.after * RATE)))
    noise = np.random.default_rng(plan.noise_seed).standard_normal(len(padded), dtype=np.float32)
    return padded * np.float32(0.9) + noise * np.float32(10 ** (plan.floor_db / 20))
