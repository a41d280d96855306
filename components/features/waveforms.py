"""What an encoder hears of an utterance: its recording, or what augmentation makes of that at a
view or an epoch.

In: settings, the role, shards of the role noise. Out: waveforms (mono float32 at 16 kHz) and,
without reading any, their lengths. The role train is augmented by all that is on; nonspeech-train
by speed, band and level alone, which must not tell speech from the rest, while noise on top of
noise would teach nothing; all other roles never. Cost: as components.audio.augmentation.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from components.audio.augmentation import Augmentation
from components.config.augment import Augment
from components.config.errors import InputError
from components.features.key import noise_inputs
from components.runtime.stage import NO_NOISE
from components.shards.reader import IndexedUtterance, ShardClip, audio, entries


@dataclass(frozen=True)
class AugmentedView:
    """How utterances are heard once: as recorded, or augmented at a ``view`` (an epoch, where
    nothing is stored).
    """

    augmentation: Augmentation | None = None
    view: int = 0

    def samples(self, item: IndexedUtterance) -> int:
        """Samples of an utterance at 16 kHz; nothing is read."""
        entry = item.entry
        return (
            self.augmentation.length(entry.samples, entry.id, self.view)
            if self.augmentation
            else entry.samples
        )

    def waveform(self, item: IndexedUtterance) -> np.ndarray:
        """Mono float32 at 16 kHz, shape (``samples``,)."""
        return (
            self.augmentation(audio(item), item.entry.id, self.view)
            if self.augmentation
            else audio(item)
        )


UNAUGMENTED = AugmentedView()


def augment_of(settings: Augment, role: str) -> Augment | None:
    """What of the settings holds for a role; None where it is left as recorded."""
    if role == "nonspeech-train":
        settings = replace(
            settings,
            noise=replace(settings.noise, probability=0.0),
            rooms=replace(settings.rooms, probability=0.0),
        )
    return settings if role in ("train", "nonspeech-train") and settings.is_enabled else None


def uses_noise(settings: Augment | None) -> bool:
    """Whether the role noise is read at all."""
    return settings is not None and (
        settings.noise.probability > 0 or settings.rooms.probability > 0
    )


def augmentation_of(settings: Augment, noise: Path, lengths_only: bool = False) -> Augmentation:
    """The augmentation with its noise and rooms, from the shards ``noise``; raises InputError where
    one is on and none is there.
    """
    if lengths_only or not uses_noise(settings):
        return Augmentation(settings)
    rooms = noise_inputs(noise)["rooms"]
    clips = {
        kind: [
            ShardClip(item)
            for item in entries(noise)
            if (item.source in rooms) == (kind == "rooms")
        ]
        for kind in ("noise", "rooms")
    }
    for kind, found in clips.items():
        if getattr(settings, kind).probability > 0 and not found:
            raise InputError(
                f"features.augment.{kind} is on, but {noise} holds no {kind}.",
                subject=str(noise),
                hint=NO_NOISE,
            )
    return Augmentation(settings, clips["noise"], clips["rooms"])


def view_folder(view: int) -> str:
    """Where a view lies inside the folder of its source: the first in it, so that one view has the
    layout of none.
    """
    return f"view-{view}" if view else ""
