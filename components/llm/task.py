"""What the ranks of an LLM's training compute: plain data that can be written as JSON.

Starts without torch.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from components.config.entries import Prompt
from components.config.model_sources import CopyingTraining, TrainedLlmSource
from components.optim.ranks import Ranks
from components.runtime.settings import device
from components.runtime.world_size import TrainingSection, trained_section


@dataclass(frozen=True)
class LlmTask:
    """The training of one LLM of the catalogue."""

    name: str  # of its entry
    folder: Path  # absolute, of the unit in the work cache
    texts: list[str]
    source: TrainedLlmSource
    prompt: Prompt

    @property
    def settings(self) -> CopyingTraining:
        """How it is trained."""
        return self.source.training

    @property
    def section(self) -> TrainingSection:
        """The settings in the catalogue entry."""
        return trained_section("llm", self.name)

    @property
    def scratch(self) -> Path:
        """Checkpoints, and files that the ranks exchange."""
        return self.folder / "resume"

    def train(self, ranks: Ranks, rank_device: str = "") -> None:
        """Trains as one of the ranks, on ``rank_device`` (by default that of the runtime
        settings).
        """
        from components.llm import copying

        copying.check_architecture(f"llm '{self.name}'", self.source.model_type, self.source.config)
        training = copying.LlmTraining(
            self.texts,
            str(self.folder),
            str(self.scratch),
            self.source.model_type,
            self.source.config,
            self.settings,
            self.prompt,
        )
        copying.train(ranks, training, rank_device or device())
