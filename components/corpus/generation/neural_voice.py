"""What the kinds of prose read by a neural synthesiser share: the draws of an utterance, and a
source of utterances.

In: settings. Out: plans, from which the audio and the manifest follow. Cost: that of the
synthesiser.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any, ClassVar, Protocol

import numpy as np

from components.config.packages import Wheel
from components.corpus import RESULT_VERSION
from components.corpus.generation.blocks import ChunkGenerator, generate_blocks
from components.corpus.generation.generated_source import GeneratedAudio, Plan
from components.corpus.generation.noise_floor import add_floor, scale_to_peak
from components.corpus.generation.prose import shuffle_prose, transcribe_prose
from components.corpus.source import check_split, parse_settings
from components.runtime.hashing import data_digest

# Utterances of one process, which loads the model in a second or two, and of a unit of the work
# cache: half a minute to three minutes of work, which is what a killed run loses.
CHUNK = 50


class ReadingSettings(Protocol):
    """The settings that all of these kinds have."""

    split: Any
    utterances: Any
    seed: Any
    speed: Any
    tempo: Any
    margin_seconds: Any
    floor_db: Any
    accents: Any


class ReadingPlan(Protocol):
    """How long and how loud an utterance is."""

    @property
    def before(self) -> float:
        """Seconds of noise floor before the speech."""

    @property
    def after(self) -> float:
        """Seconds of it after the speech."""

    @property
    def floor_db(self) -> float:
        """Its level."""

    @property
    def noise_seed(self) -> int:
        """Its seed."""


def draw_real(random: np.random.Generator, bounds: Sequence[float]) -> float:
    """A number between the bounds, with four decimals."""
    return round(float(random.uniform(*bounds)), 4)


def draw_reading(random: np.random.Generator, settings: ReadingSettings) -> dict[str, Any]:
    """How one utterance is read. The order of the draws determines the audio: it stays."""
    return {
        "accent": settings.accents[int(random.integers(len(settings.accents)))],
        "speed": draw_real(random, settings.speed),
        "tempo": settings.tempo[int(random.integers(len(settings.tempo)))],
        "before": draw_real(random, settings.margin_seconds),
        "after": draw_real(random, settings.margin_seconds),
        "floor_db": draw_real(random, settings.floor_db),
        "noise_seed": int(random.integers(2**62)),
    }


def finish_reading(samples: np.ndarray, plan: ReadingPlan) -> np.ndarray:
    """The samples at one peak, between margins, above a noise floor."""
    return add_floor(
        scale_to_peak(samples), plan.before, plan.after, plan.floor_db, plan.noise_seed
    )


class NeuralVoiceSource(GeneratedAudio[Plan]):
    """Prose read by a synthesiser that comes in wheels of a package index."""

    kind: ClassVar[str]
    settings_type: ClassVar[type[Any]]
    wheels: ClassVar[Sequence[Wheel]]
    prose_seconds: ClassVar[float]  # measured mean duration of a sentence at speed 1

    def __init__(self, name: str, role: str, settings: dict[str, Any]) -> None:
        self.name, self.role = name, role
        self.settings = parse_settings(self.settings_type, name, role, settings)
        check_split(name, self.settings.split, role)

    @property
    @abstractmethod
    def _generator(self) -> ChunkGenerator:
        """The function that a new process calls once."""

    @abstractmethod
    def _fetch(self) -> object:
        """Brings the files of the wheels, once, before processes need them."""

    @abstractmethod
    def _speaker(self, plan: Plan) -> str:
        """The speaker of an utterance."""

    @abstractmethod
    def _draw_plan(self, utterance_id: str, text: str, number: int) -> Plan:
        """The plan of the utterance of that number."""

    def scan(self) -> dict[str, Any]:
        """Versions of the libraries and hashes of the wheels, with a digest."""
        inputs = {
            "espeakng-loader": version("espeakng-loader"),
            "onnxruntime": version("onnxruntime"),
            "wheels": {wheel.requirement: wheel.sha256 for wheel in self.wheels},
        }
        return {**inputs, "digest": data_digest(inputs)}

    def estimate_size(self) -> tuple[float, int]:
        """(seconds of audio, approximate; number of utterances)."""
        settings = self.settings
        spoken_s = self.prose_seconds / float(np.mean(settings.speed))
        margins_s = 2 * float(np.mean(settings.margin_seconds))
        utterance_s = spoken_s / float(np.mean(settings.tempo)) + margins_s
        return settings.utterances * utterance_s, settings.utterances

    def _describe(self, plan: Plan) -> dict[str, Any]:
        text = transcribe_prose(plan.text)  # type: ignore[attr-defined]
        return {"split": self.role, "speaker": self._speaker(plan), "language": "en", "text": text}

    def _generate(self, plans: Sequence[Plan]) -> list[Path]:
        self._fetch()
        key = {"kind": self.kind, "version": RESULT_VERSION, "scan": self.scan()["digest"]}
        return generate_blocks(self.name, plans, CHUNK, self._generator, key, CHUNK)

    def _plan_utterances(self) -> list[Plan]:
        settings = self.settings
        prose = shuffle_prose(self.name, self.role, settings.seed, settings.utterances)
        return [
            self._draw_plan(f"{self.name}-{number:06d}", prose[number % len(prose)], number)
            for number in range(settings.utterances)
        ]
