"""What the ranks of a training of the bridge compute: the settings and names of a task → the
configuration of the model, and the curriculum that trains it.

The unit of the work cache depends on the code of this module and of what it imports.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from components.config import catalogue
from components.config.entries import EncoderEntry, EncoderNumerics, LlmEntry
from components.config.projector import CtcEmbeddings, DiscreteUnits, Projector
from components.config.schema import parse_as
from components.config.training import Train
from components.model.folders.linked_checkpoint import open_checkpoint
from components.optim.ranks import Ranks
from components.runtime.artifact import read_record
from components.runtime.settings import device
from components.runtime.world_size import BRIDGE, TrainingSection

if TYPE_CHECKING:  # a stage starts without torch
    from components.model.model_folder import EncoderRunConfig

DATA, ENCODER, LLM = Path("data"), Path("models/encoder"), Path("models/llm")
UNITS = Path("models/units")
CTC = Path("models/ctc")


@dataclass(frozen=True)
class BridgeTask:
    """What the ranks train; plain data. Entries of the catalogue are read by their names."""

    folder: Path  # absolute, of the unit in the work cache
    settings: Train
    encoder: str
    projector: str
    llm: str
    stage_keys: list[dict[str, Any]]  # of the ends of the stages in the work cache

    @property
    def section(self) -> TrainingSection:
        """The section ``train`` of the parameters."""
        return BRIDGE

    @property
    def scratch(self) -> Path:
        """Checkpoints, and files that the ranks exchange."""
        return self.folder / "resume"

    def train(self, ranks: Ranks, rank_device: str = "") -> None:
        """Trains as one of the ranks, on ``rank_device`` (by default that of the runtime
        settings).
        """
        train(ranks, self, rank_device)


def lora_targets(encoder: EncoderEntry, llm: LlmEntry) -> dict[str, list[str]]:
    """Names of the layers that LoRA adapts, by the part that a curriculum names."""
    return {"lora": llm.lora.targets, "encoder-lora": encoder.lora.targets if encoder.lora else []}


def _encoder_run(settings: Train) -> EncoderRunConfig | None:
    """How a tuned encoder computes: as the features say, and in fp32 where it is tuned without
    LoRA, since AdamW would lose small steps in half precision. None for a frozen one.
    """
    from components.model.model_folder import EncoderRunConfig

    if not settings.tuned_encoder_part:
        return None
    key = read_record(DATA / "features" / "train")["key"]
    numerics = parse_as(EncoderNumerics, key["numerics"], "data/features/train: numerics")
    is_fully_tuned = any("encoder" in stage.tune for stage in settings.curriculum)
    dtype = "float32" if is_fully_tuned else numerics.dtype
    return EncoderRunConfig(key["layer"], dtype, numerics.padding)


def _units_layer(projector: Projector) -> int | str | None:
    """The layer of the frames that become units; None for a bridge of another kind."""
    if not isinstance(projector, DiscreteUnits | CtcEmbeddings):
        return None
    layer: int | str = read_record(DATA / "features" / "train")["key"]["layer"]
    return layer


def train(ranks: Ranks, task: BridgeTask, rank_device: str) -> None:
    """Trains as one of the ranks, on ``rank_device`` (empty: that of the runtime settings)."""
    from components.model.encoders.registry import read_traits
    from components.model.model_folder import ModelConfig, folder_digest
    from components.train import curriculum

    settings = task.settings
    encoder = catalogue.encoder_in_training(task.encoder, settings)
    llm = catalogue.llm_in_training(task.llm, settings)
    # In fp32 where it is tuned without LoRA, as the encoder.
    is_llm_tuned = any("llm" in stage.tune for stage in settings.curriculum)
    projector = catalogue.projector(task.projector)
    encoder_folder, llm_folder = open_checkpoint(ENCODER), open_checkpoint(LLM)
    config = ModelConfig(
        folder_digest(encoder_folder),
        read_traits(encoder_folder).width,
        folder_digest(llm_folder),
        "float32" if is_llm_tuned else llm.numerics.dtype,
        projector,
        llm.prompt,
        settings.text_case,
        _encoder_run(settings),
        units_layer=_units_layer(projector),
        has_text_adapter=settings.has_text_adapter,
    )
    training = curriculum.BridgeTraining(
        DATA,
        encoder_folder,
        llm_folder,
        UNITS,
        CTC,
        task.folder,
        task.scratch,
        rank_device or device(),
        settings,
        config,
        lora_targets(encoder, llm),
        task.stage_keys,
    )
    curriculum.train(ranks, training)
