"""Prose read by one neural voice (kind ``piper``), for training alone.

In: settings. Out: 16 kHz FLAC in the work cache and manifest rows, the same bytes on every run on
one CPU type. As natural as the voices of kind ``kokoro`` and six times cheaper (7 s of speech a
second of one core), but of one man, whom only ``tempo`` and the accents change.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
from pydantic import Field, PositiveInt

from components.audio.sound import resample
from components.config.schema import STRICT, Seed
from components.corpus import RESULT_VERSION
from components.corpus.generation import espeak, piper
from components.corpus.generation.blocks import generate_blocks
from components.corpus.generation.generated_source import GeneratedAudio
from components.corpus.generation.noise_floor import add_floor, scale_to_peak
from components.corpus.generation.prose import shuffle_prose, transcribe_prose
from components.corpus.generation.voice_settings import (
    Accents,
    FloorLevel,
    MarginSeconds,
    Speed,
    Tempo,
)
from components.corpus.source import check_split, parse_settings
from components.runtime.hashing import data_digest, seed_of

# Utterances of one process and of a unit of the work cache: half a minute of work, which is what a
# killed run loses.
CHUNK = 50
PROSE_SECONDS = 5.1  # measured mean duration of a sentence at speed 1, of 1,200


@dataclass(frozen=True)
class PiperSettings:
    """Settings of a source of kind ``piper``; ranges are [lowest, highest]."""

    __pydantic_config__ = STRICT
    kind: Literal["piper"]
    split: Annotated[
        Literal["train"],
        Field(description="Equals the role: a test would hear the voice of training."),
    ]
    utterances: Annotated[PositiveInt, Field(description="Number of utterances.")]
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


class PiperSource(GeneratedAudio[PiperUtterancePlan]):
    """A source of kind ``piper``."""

    def __init__(self, name: str, role: str, settings: dict[str, Any]) -> None:
        self.name, self.role = name, role
        self.settings = parse_settings(PiperSettings, name, role, settings)
        check_split(name, self.settings.split, role)

    def scan(self) -> dict[str, Any]:
        """Versions of the libraries and the hash of the wheel, with a digest."""
        inputs = {
            "espeakng-loader": version("espeakng-loader"),
            "onnxruntime": version("onnxruntime"),
            "wheels": {wheel.requirement: wheel.sha256 for wheel in piper.WHEELS},
        }
        return {**inputs, "digest": data_digest(inputs)}

    def estimate_size(self) -> tuple[float, int]:
        """(seconds of audio, approximate; number of utterances)."""
        settings = self.settings
        utterance_s = PROSE_SECONDS / float(np.mean(settings.speed)) / float(
            np.mean(settings.tempo)
        ) + 2 * float(np.mean(settings.margin_seconds))
        return settings.utterances * utterance_s, settings.utterances

    def _describe(self, plan: PiperUtterancePlan) -> dict[str, Any]:
        text = transcribe_prose(plan.text)
        return {"split": self.role, "speaker": "piper-joe", "language": "en", "text": text}

    def _generate(self, plans: Sequence[PiperUtterancePlan]) -> list[Path]:
        piper.fetch_voice(f"source '{self.name}'")  # once, before processes need it
        key = {"kind": "piper", "version": RESULT_VERSION, "scan": self.scan()["digest"]}
        return generate_blocks(self.name, plans, CHUNK, synthesise_chunk, key, CHUNK)

    def _plan_utterances(self) -> list[PiperUtterancePlan]:
        settings = self.settings
        prose = shuffle_prose(self.name, self.role, settings.seed, settings.utterances)
        return [
            _draw_plan(f"{self.name}-{number:06d}", prose[number % len(prose)], settings, number)
            for number in range(settings.utterances)
        ]


def _draw_plan(
    utterance_id: str, text: str, settings: PiperSettings, number: int
) -> PiperUtterancePlan:
    """The order of the draws determines the audio: it stays."""
    random = np.random.default_rng(seed_of("piper", settings.seed, number))

    def draw_real(bounds: list[float]) -> float:
        return round(float(random.uniform(*bounds)), 4)

    return PiperUtterancePlan(
        id=utterance_id,
        text=text,
        accent=settings.accents[int(random.integers(len(settings.accents)))],
        speed=draw_real(settings.speed),
        tempo=settings.tempo[int(random.integers(len(settings.tempo)))],
        before=draw_real(settings.margin_seconds),
        after=draw_real(settings.margin_seconds),
        floor_db=draw_real(settings.floor_db),
        noise_seed=int(random.integers(2**62)),
    )


def synthesise_chunk(plans: Sequence[PiperUtterancePlan]) -> list[np.ndarray]:
    """Samples of each plan, float32 at 16 kHz; to be called once in a new process."""
    library = espeak.Espeak()
    voice = piper.Piper(piper.fetch_voice(plans[0].id), plans[0].noise_seed % 2**31)
    return [_synthesise(library, voice, plan) for plan in plans]


def _synthesise(library: espeak.Espeak, voice: piper.Piper, plan: PiperUtterancePlan) -> np.ndarray:
    phonemes = piper.write_phonemes(plan.text, plan.accent, library)
    samples = resample(voice.speak(phonemes, plan.speed), round(piper.RATE * plan.tempo))
    return add_floor(
        scale_to_peak(samples), plan.before, plan.after, plan.floor_db, plan.noise_seed
    )
