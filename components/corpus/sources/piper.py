"""Prose read by one neural voice (kind ``piper``), for training alone.

In: settings. Out: 16 kHz FLAC in the work cache and manifest rows, the same bytes on every run on
one CPU type. As natural as the voices of kind ``kokoro`` and six times cheaper (7 s of speech a
second of one core), but of one man, whom only ``tempo`` and the accents change.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Annotated, Literal

import numpy as np
from pydantic import Field

from components.audio.sound import resample
from components.config.ranges import GeneratedClips, Seed
from components.config.schema import STRICT
from components.corpus.generation import espeak, piper
from components.corpus.generation.blocks import ChunkGenerator
from components.corpus.generation.neural_voice import (
    NeuralVoiceSource,
    draw_reading,
    finish_reading,
)
from components.corpus.generation.voice_settings import (
    Accents,
    FloorLevel,
    MarginSeconds,
    Speed,
    Tempo,
)
from components.runtime.hashing import seed_of


@dataclass(frozen=True)
class PiperSettings:
    """Settings of a source of kind ``piper``; ranges are [lowest, highest]."""

    __pydantic_config__ = STRICT
    kind: Literal["piper"]
    split: Annotated[
        Literal["train"],
        Field(description="Equals the role: a test would hear the voice of training."),
    ]
    utterances: Annotated[GeneratedClips, Field(description="Number of utterances.")]
    seed: Annotated[Seed, Field(description="Seed of all random draws.")]
    speed: Speed
    tempo: Tempo
    margin_seconds: MarginSeconds
    floor_db: FloorLevel
    accents: Accents = field(default_factory=lambda: ["en-us"])


@dataclass(frozen=True)
class PiperUtterancePlan:
    """All that determines one utterance. The fields are a part of the block's key, and so of the
    paths in the manifest.
    """

    id: str
    text: str  # as it is read
    accent: str
    speed: float
    tempo: float
    before: float  # seconds of noise floor
    after: float  # seconds of noise floor
    floor_db: float
    noise_seed: int


def synthesise_chunk(plans: Sequence[PiperUtterancePlan]) -> list[np.ndarray]:
    """Samples of each plan, float32 at 16 kHz; to be called once in a new process."""
    library = espeak.Espeak()
    voice = piper.Piper(piper.fetch_voice(plans[0].id), plans[0].noise_seed % 2**31)
    return [_synthesise(library, voice, plan) for plan in plans]


def _synthesise(library: espeak.Espeak, voice: piper.Piper, plan: PiperUtterancePlan) -> np.ndarray:
    phonemes = piper.write_phonemes(plan.text, plan.accent, library)
    samples = resample(voice.speak(phonemes, plan.speed), round(piper.RATE * plan.tempo))
    return finish_reading(samples, plan)


class PiperSource(NeuralVoiceSource[PiperUtterancePlan]):
    """A source of kind ``piper``."""

    kind = "piper"
    settings_type = PiperSettings
    wheels = piper.WHEELS
    prose_seconds = 5.1  # of 1,200

    @property
    def _generator(self) -> ChunkGenerator:
        return synthesise_chunk

    def _fetch(self) -> None:
        piper.fetch_voice(f"source '{self.name}'")

    def _speaker(self, plan: PiperUtterancePlan) -> str:
        return "piper-joe"

    def _draw_plan(self, utterance_id: str, text: str, number: int) -> PiperUtterancePlan:
        random = np.random.default_rng(seed_of("piper", self.settings.seed, number))
        return PiperUtterancePlan(utterance_id, text, **draw_reading(random, self.settings))
