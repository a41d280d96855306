"""How what is heard in training is changed: the settings of augmentation, of waveforms and of
frames.

In: plain data of ``params.yaml`` or of an encoder's catalogue entry. Out: typed settings, and what
must hold of them.
"""

from __future__ import annotations

from dataclasses import dataclass

from components.config.schema import STRICT


@dataclass(frozen=True)
class AddedNoise:
    __pydantic_config__ = STRICT
    probability: float  # of an utterance
    snr_db: list[float]  # least, most


@dataclass(frozen=True)
class Rooms:
    __pydantic_config__ = STRICT
    probability: float  # of an utterance


@dataclass(frozen=True)
class Band:
    """Recordings of other bandwidths: what lies above a limit is taken away."""

    __pydantic_config__ = STRICT
    probability: float  # of an utterance
    hertz: list[float]  # least, most; a recording at 8 kHz ends at 4,000


@dataclass(frozen=True)
class Augment:
    """How waveforms of training are changed (components/audio/augmentation.py)."""

    __pydantic_config__ = STRICT
    seed: int
    views: int  # cached: differently changed ones that are stored of an utterance
    speed: list[float]  # factors
    level_db: list[float]  # least, most
    noise: AddedNoise
    rooms: Rooms
    band: Band

    @property
    def is_enabled(self) -> bool:
        """Whether anything is changed at all."""
        drawn = (self.noise.probability, self.rooms.probability, self.band.probability)
        return self.speed != [1] or self.level_db != [0, 0] or max(drawn) > 0


@dataclass(frozen=True)
class SpecAugment:
    __pydantic_config__ = STRICT
    enabled: bool
    time_masks: int
    time_frames: int  # longest mask, frames of the encoder
    width_masks: int
    width_share: float  # longest mask, share of the width


def is_valid_band(band: Band) -> bool:
    """Whether the limits are a range that leaves something and takes something away."""
    return len(band.hertz) == 2 and 500 <= band.hertz[0] <= band.hertz[1] < 8000


def augment_checks(augment: Augment) -> dict[str, bool]:
    """What must hold of the settings, by their dotted keys in ``params.yaml``."""
    ranges = {"level_db": augment.level_db, "noise.snr_db": augment.noise.snr_db}
    shares = {
        f"{key}.probability": getattr(augment, key).probability
        for key in ("noise", "rooms", "band")
    }
    checks = {
        "views": augment.views >= 1 and (augment.views == 1 or augment.is_enabled),
        "speed": bool(augment.speed) and all(0.5 <= factor <= 2 for factor in augment.speed),
        **{
            key: len(pair) == 2 and -100 <= pair[0] <= pair[1] <= 100
            for key, pair in ranges.items()
        },
        "band.hertz": is_valid_band(augment.band),
        **{key: 0 <= share <= 1 for key, share in shares.items()},
    }
    return {f"features.augment.{key}": holds for key, holds in checks.items()}
