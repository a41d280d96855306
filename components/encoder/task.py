"""What the ranks of an encoder's training compute: plain data that can be written as JSON.

Starts without torch.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from components.config.model_sources import CtcTraining
from components.optim.ranks import Ranks
from components.runtime.settings import device
from components.runtime.world_size import TrainingSection, trained_section

SHARDS, NONSPEECH = Path("data/shards/train"), Path("data/shards/nonspeech-train")


@dataclass(frozen=True)
class EncoderTask:
    """The training of one encoder of the catalogue."""

    name: str  # of its entry
    folder: Path  # absolute, of the unit in the work cache
    config: dict[str, Any]  # of transformers' ParakeetEncoderConfig
    settings: CtcTraining

    @property
    def section(self) -> TrainingSection:
        """The settings in the catalogue entry."""
        return trained_section("encoder", self.name)

    @property
    def scratch(self) -> Path:
        """Checkpoints, examples, and files that the ranks exchange."""
        return self.folder / "resume"

    def train(self, ranks: Ranks, rank_device: str = "") -> None:
        """Trains as one of the ranks, on ``rank_device`` (by default that of the runtime
        settings).
        """
        from components.encoder import ctc

        ctc.check_architecture(f"encoder '{self.name}'", self.config)
        training = ctc.EncoderTraining(
            str(SHARDS),
            str(NONSPEECH),
            str(self.folder),
            str(self.scratch),
            self.config,
            self.settings,
        )
        ctc.train(ranks, training, rank_device or device())
