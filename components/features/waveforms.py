"""The waveform that an encoder gets for an utterance: its recording, or an augmented view of it.

In: settings, the role, shards of the role noise. Out: waveforms (mono float32 at 16 kHz) and,
without reading any, their lengths. The role train is augmented by all that is on. nonspeech-train
is augmented by speed, band and level alone: these must not tell speech from non-speech, while noise
on top of noise would teach nothing. All other roles are never augmented. Cost: as
components.audio.augmentation.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from components.audio.augmentation import Augmentation
from components.config.augment import Augment
from components.config.errors import InputError
from components.features.key import noise_inputs
from components.runtime.stage import NO_NOISE_HINT
from components.shards.reader import IndexedUtterance, ShardClip, list_utterances, read_audio


@dataclass(frozen=True)
class AugmentedView:
    """Utterances as recorded, or augmented as in one ``view`` (an epoch if nothing is stored)."""

    augmentation: Augmentation | None = None
    view: int = 0

    def num_samples(self, utterance: IndexedUtterance) -> int:
        """Samples of an utterance at 16 kHz; reads nothing."""
        if self.augmentation is None:
            return utterance.num_samples
        return self.augmentation.length(utterance.num_samples, utterance.id, self.view)

    def waveform(self, utterance: IndexedUtterance) -> np.ndarray:
        """Mono float32 at 16 kHz, shape (``num_samples``,)."""
        if self.augmentation is None:
            return read_audio(utterance)
        return self.augmentation(read_audio(utterance), utterance.id, self.view)


UNAUGMENTED = AugmentedView()


def role_augment(settings: Augment, role: str) -> Augment | None:
    """The augmentation of a role; None if its audio stays as recorded."""
    if role == "nonspeech-train":
        settings = replace(
            settings,
            noise=replace(settings.noise, probability=0.0),
            rooms=replace(settings.rooms, probability=0.0),
        )
    return settings if role in ("train", "nonspeech-train") and settings.is_enabled else None


def uses_noise(settings: Augment | None) -> bool:
    """Whether the role noise is read."""
    return settings is not None and (
        settings.noise.probability > 0 or settings.rooms.probability > 0
    )


def build_augmentation(settings: Augment, noise: Path, lengths_only: bool = False) -> Augmentation:
    """The augmentation with its noise and rooms, read from the shards ``noise``; raises InputError
    if one of them is on and the shards contain none.
    """
    if lengths_only or not uses_noise(settings):
        return Augmentation(settings)
    rooms = noise_inputs(noise)["rooms"]
    clips = {
        kind: [
            ShardClip(utterance)
            for utterance in list_utterances(noise)
            if (utterance.source in rooms) == (kind == "rooms")
        ]
        for kind in ("noise", "rooms")
    }
    for kind, clips_of_kind in clips.items():
        if getattr(settings, kind).probability > 0 and not clips_of_kind:
            raise InputError(
                f"features.augment.{kind} is on, but {noise} contains no {kind}.",
                subject=str(noise),
                hint=NO_NOISE_HINT,
            )
    return Augmentation(settings, clips["noise"], clips["rooms"])


def view_folder(view: int) -> str:
    """The folder of a view below the folder of its source; empty for the first view, so that one
    view has the layout of unaugmented features.
    """
    return f"view-{view}" if view else ""
