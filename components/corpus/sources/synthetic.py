"""Synthetic non-speech (kind ``synthetic``): noises, struck and blown tones, chirps, engines,
clicks, alone or two at a time.

In: settings. Out: 16 kHz FLAC in the work cache and manifest rows with an empty text, the same
bytes on every run (``components.corpus.generation.synthesis``). Cost: about 110 clips a second on
two cores.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
from pydantic import AfterValidator, Field

from components.config.catalogue import SPEECH_ROLES
from components.config.errors import InputError
from components.config.ranges import ClipSeconds, GeneratedClips, Seed
from components.config.schema import STRICT, DecibelLimits, Unit, check_order
from components.corpus import RESULT_VERSION
from components.corpus.generation.blocks import generate_blocks
from components.corpus.generation.generated_source import GeneratedAudio
from components.corpus.generation.synthesis import SOUNDS, synthesise_clip, synthesise_room
from components.corpus.source import check_room_role, parse_settings
from components.runtime.hashing import data_digest, seed_of

CHUNK = 100  # clips that a process generates; no state leaks here, so it does not shape the audio


@dataclass(frozen=True)
class SyntheticSettings:
    """Settings of a source of kind ``synthetic``; ranges are [lowest, highest]."""

    __pydantic_config__ = STRICT
    kind: Literal["synthetic"]
    clips: Annotated[GeneratedClips, Field(description="Number of clips.")]
    seed: Annotated[Seed, Field(description="Seed of all random draws.")]
    seconds: Annotated[
        list[ClipSeconds],
        Field(min_length=2, max_length=2),
        AfterValidator(check_order),
        Unit("s"),
        Field(description="Shortest and longest clip."),
    ]
    level_db: Annotated[
        DecibelLimits,
        Field(
            description="Root mean square of a clip, of full scale; of a room: energy of all "
            "reflections, of the direct sound."
        ),
    ]
    rooms: Annotated[
        bool,
        Field(
            description="Whether they are impulse responses of rooms, as of the kind `clips`; "
            "`seconds` is then the time in which the sound decays by 60 dB."
        ),
    ] = False


@dataclass(frozen=True)
class SyntheticClipPlan:
    """All that determines one clip. The fields are a part of the block's key, and so of the paths
    in the manifest.
    """

    id: str
    seed: int
    seconds: float
    level_db: float


class SyntheticSource(GeneratedAudio[SyntheticClipPlan]):
    """A source of kind ``synthetic``."""

    def __init__(self, name: str, role: str, settings: dict[str, Any]) -> None:
        self.name, self.role = name, role
        self.settings = parse_settings(SyntheticSettings, name, role, settings)
        if role in SPEECH_ROLES:
            raise InputError(
                f"source '{name}' has no speech but is in the role '{role}'.",
                subject=name,
                hint="Put it into nonspeech-train, nonspeech-test or noise.",
            )
        if self.settings.rooms:
            check_room_role(name, role)

    def scan(self) -> dict[str, Any]:
        """The names of the sounds as a digest: nothing else is read."""
        return {"made_from": "parameters alone", "digest": data_digest({"kinds": sorted(SOUNDS)})}

    def estimate_size(self) -> tuple[float, int]:
        """(seconds of audio, approximate; number of clips)."""
        return self.settings.clips * float(np.mean(self.settings.seconds)), self.settings.clips

    def _describe(self, plan: SyntheticClipPlan) -> dict[str, Any]:
        return {"split": self.role, "speaker": "", "language": "", "text": ""}

    def _generate(self, plans: Sequence[SyntheticClipPlan]) -> list[Path]:
        key: dict[str, Any] = {"kind": "synthetic", "version": RESULT_VERSION}
        if self.settings.rooms:
            key["rooms"] = True
        generate = synthesise_rooms if self.settings.rooms else synthesise_chunk
        return generate_blocks(self.name, plans, CHUNK, generate, key)

    def _plan_utterances(self) -> list[SyntheticClipPlan]:
        settings, plans = self.settings, []
        for number in range(settings.clips):
            random = np.random.default_rng(seed_of("synthetic", settings.seed, number))
            seconds, level_db = (
                round(float(random.uniform(*bounds)), 3)
                for bounds in (settings.seconds, settings.level_db)
            )
            seed = int(random.integers(2**62))
            plans.append(SyntheticClipPlan(f"{self.name}-{number:06d}", seed, seconds, level_db))
        return plans


def synthesise_chunk(plans: Sequence[SyntheticClipPlan]) -> list[np.ndarray]:
    """Samples of each plan, float32 at 16 kHz."""
    return [synthesise_clip(plan.seed, plan.seconds, plan.level_db) for plan in plans]


def synthesise_rooms(plans: Sequence[SyntheticClipPlan]) -> list[np.ndarray]:
    """Impulse response of each plan, float32 at 16 kHz."""
    return [synthesise_room(plan.seed, plan.seconds, plan.level_db) for plan in plans]
