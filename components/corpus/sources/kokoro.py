"""Prose read by a neural synthesiser (kind ``kokoro``) in mixed voices.

In: settings. Out: 16 kHz FLAC in the work cache and manifest rows, the same bytes on every run on
one CPU type. Nearer to people than the voices of kind ``spoken``, and a hundred times dearer: 1.5 s
of speech a second of one core. Train, dev and test share neither sentences
(``generation.prose``) nor mixtures of voices.
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
from components.corpus.generation import espeak, kokoro
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

# Utterances of one process, which loads the model in 1.5 s, and of a unit of the work cache: three
# minutes of work, which is what a killed run loses.
CHUNK = 50
# Of a Dirichlet distribution over the voices of the package: most mixtures are near one of them.
MIXTURE = 0.35
PROSE_SECONDS = 6.9  # measured mean duration of a sentence at speed 1


@dataclass(frozen=True)
class KokoroSettings:
    """Settings of a source of kind ``kokoro``; ranges are [lowest, highest]."""

    __pydantic_config__ = STRICT
    kind: Literal["kokoro"]
    split: Annotated[
        Literal["train", "dev", "test"],
        Field(description="Equals the role: sentences and voices differ by split."),
    ]
    utterances: Annotated[PositiveInt, Field(description="Number of utterances.")]
    seed: Annotated[Seed, Field(description="Seed of all random draws.")]
    voices: Annotated[
        PositiveInt, Field(description="Number of mixtures, each of which is a speaker.")
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


class KokoroSource(GeneratedAudio[KokoroUtterancePlan]):
    """A source of kind ``kokoro``."""

    def __init__(self, name: str, role: str, settings: dict[str, Any]) -> None:
        self.name, self.role = name, role
        self.settings = parse_settings(KokoroSettings, name, role, settings)
        check_split(name, self.settings.split, role)

    def scan(self) -> dict[str, Any]:
        """Versions of the libraries and hashes of the wheels, with a digest."""
        inputs = {
            "espeakng-loader": version("espeakng-loader"),
            "onnxruntime": version("onnxruntime"),
            "wheels": {wheel.requirement: wheel.sha256 for wheel in kokoro.WHEELS},
        }
        return {**inputs, "digest": data_digest(inputs)}

    def estimate_size(self) -> tuple[float, int]:
        """(seconds of audio, approximate; number of utterances)."""
        settings = self.settings
        utterance_s = PROSE_SECONDS / float(np.mean(settings.speed)) / float(
            np.mean(settings.tempo)
        ) + 2 * float(np.mean(settings.margin_seconds))
        return settings.utterances * utterance_s, settings.utterances

    def _describe(self, plan: KokoroUtterancePlan) -> dict[str, Any]:
        text = transcribe_prose(plan.text)
        return {"split": self.role, "speaker": plan.speaker, "language": "en", "text": text}

    def _generate(self, plans: Sequence[KokoroUtterancePlan]) -> list[Path]:
        kokoro.fetch_synthesiser(f"source '{self.name}'")  # once, before processes need it
        key = {"kind": "kokoro", "version": RESULT_VERSION, "scan": self.scan()["digest"]}
        return generate_blocks(self.name, plans, CHUNK, synthesise_chunk, key, CHUNK)

    def _plan_utterances(self) -> list[KokoroUtterancePlan]:
        settings = self.settings
        prose = shuffle_prose(self.name, self.role, settings.seed, settings.utterances)
        return [
            _draw_plan(f"{self.name}-{number:06d}", prose[number % len(prose)], settings, number)
            for number in range(settings.utterances)
        ]


def _draw_plan(
    utterance_id: str, text: str, settings: KokoroSettings, number: int
) -> KokoroUtterancePlan:
    """The order of the draws determines the audio: it stays."""
    random = np.random.default_rng(seed_of("kokoro", settings.split, settings.seed, number))

    def draw_real(bounds: list[float]) -> float:
        return round(float(random.uniform(*bounds)), 4)

    voice = int(random.integers(settings.voices))
    timbre, prosody = _mix_voices(settings.split, voice)
    return KokoroUtterancePlan(
        id=utterance_id,
        text=text,
        speaker=f"kokoro-{settings.split}-{voice}",
        timbre=timbre,
        prosody=prosody,
        accent=settings.accents[int(random.integers(len(settings.accents)))],
        speed=draw_real(settings.speed),
        tempo=settings.tempo[int(random.integers(len(settings.tempo)))],
        before=draw_real(settings.margin_seconds),
        after=draw_real(settings.margin_seconds),
        floor_db=draw_real(settings.floor_db),
        noise_seed=int(random.integers(2**62)),
    )


def _mix_voices(split: str, voice: int) -> tuple[list[float], list[float]]:
    """Shares of the voices of the package in the timbre and in the prosody of one mixture."""
    random = np.random.default_rng(seed_of("kokoro-voice", split, voice))
    shares = random.dirichlet(np.full(len(kokoro.VOICES), MIXTURE), size=2).round(3)
    timbre, prosody = (shares / shares.sum(1, keepdims=True)).tolist()
    return timbre, prosody


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
    samples = resample(speech, round(kokoro.RATE * plan.tempo))
    return add_floor(
        scale_to_peak(samples), plan.before, plan.after, plan.floor_db, plan.noise_seed
    )
