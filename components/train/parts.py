"""The parts of encoder, bridge and LLM that a curriculum tunes: their settings, LoRA where a stage
wants it, learning rates.

In: the train section and the targets of the catalogue. Out: a model with what a stage tunes made
trainable, and ``parameters.json``. Everything that does not fit the model stops before the first
stage. Cost: seconds.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from torch import nn

from components.config.training import CurriculumStage, Lora, Train
from components.model.encoders.encoder import SpeechEncoder
from components.model.lora import adapted
from components.model.speech_llm import SpeechLLM
from components.model.trainable import ParameterRow, plain_name, selected, table
from components.runtime.hashing import seed_of

TABLE = "parameters.json"
SIDES = {"lora": "llm", "encoder-lora": "encoder"}


@dataclass(frozen=True)
class TrainableParts:
    """What a training tunes of a model, stage by stage."""

    model: SpeechLLM
    settings: Train
    targets: dict[str, list[str]]  # of LoRA, by the part

    def lora(self, part: str) -> Lora:
        """The settings of a LoRA part."""
        return self.settings.lora if part == "lora" else self.settings.encoder_lora

    def uses_ctc_loss(self, stage: CurriculumStage) -> bool:
        """Whether the encoder's CTC loss weighs in: its head is then tuned with the whole encoder,
        and read as it is by LoRA.
        """
        return bool(self.settings.ctc_weight) and any(
            part.startswith("encoder") for part in stage.tune
        )

    def check(self) -> None:
        """Raises InputError for a stage of the curriculum with a part, a LoRA target or a pattern
        that the model does not have.
        """
        wanted = {part for stage in self.settings.curriculum for part in stage.tune}
        loras = []
        for part in sorted(wanted & SIDES.keys()):
            side = SIDES[part]
            network = self.model.llm if side == "llm" else self.model.encoder
            assert network is not None  # build: it is there where a part of it is tuned
            layers = adapted(network, self.targets[part])
            loras += [f"{side}.{layer}.lora_{matrix}.weight" for layer in layers for matrix in "AB"]
        heads = {self.uses_ctc_loss(stage) for stage in self.settings.curriculum}
        known = {head: [*self.model.tunable(head), *loras] for head in heads}
        for stage in self.settings.curriculum:
            selected(known[self.uses_ctc_loss(stage)], stage.tune, stage.freeze, _where(stage))

    def tune(self, stage: CurriculumStage) -> dict[str, list[nn.Parameter]]:
        """Makes what the stage tunes trainable, LoRA added where it was not yet; returns the
        parameters by part.
        """
        for part in stage.tune:
            if part in SIDES and SIDES[part] not in self.model.lora_wrappers:
                lora = self.lora(part)
                self.model.add_lora(
                    lora.rank,
                    lora.alpha,
                    lora.dropout,
                    self.targets[part],
                    seed_of(part, self.settings.seed),
                    SIDES[part],
                )
        return self.model.tune(stage.tune, stage.freeze, self.uses_ctc_loss(stage), _where(stage))

    def rates(self, stage: CurriculumStage) -> dict[str, float]:
        """The highest learning rate of each part."""
        full = self.settings.full
        loras = {part: self.lora(part).learning_rate for part in SIDES}
        return {"projector": stage.learning_rate, "encoder": full.encoder, "llm": full.llm, **loras}

    def rows(self, frozen: SpeechEncoder | None) -> list[ParameterRow]:
        """The parameter table, the frozen encoder counted where it is one that is heard with."""
        beside = (
            frozen.named_parameters(prefix="encoder")
            if frozen is not None and self.model.encoder is None
            else ()
        )
        return table(
            {
                plain_name(name): parameter
                for name, parameter in (*self.model.named_parameters(), *beside)
            }
        )


def _where(stage: CurriculumStage) -> str:
    return f"train, stage '{stage.name}'"


def write_table(rows: Sequence[tuple[str, list[ParameterRow]]], path: Path) -> None:
    """The tables of all stages, each (name of the stage, rows), as plain data."""
    path.write_text(
        json.dumps(
            [{"stage": name, "modules": [asdict(row) for row in each]} for name, each in rows],
            indent=1,
        )
        + "\n"
    )
