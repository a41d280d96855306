"""The parts of encoder, bridge and LLM that a curriculum tunes: their settings, their LoRA and
their learning rates.

In: the train section and the LoRA targets of the catalogue. Out: a model in which the parameters
that a stage tunes are trainable, and ``parameters.json``. Settings that do not fit the model raise
an error before the first stage. Cost: seconds.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from torch import nn

from components.config.training import CurriculumStage, Lora, Train
from components.model.encoders.encoder import SpeechEncoder
from components.model.lora import adapted_layers
from components.model.speech_llm import SpeechLLM
from components.model.trainable import ParameterRow, parameter_table, plain_name, select_parameters
from components.runtime.hashing import seed_of
from components.train.warm_start import Adapter

TABLE = "parameters.json"
SIDES = {"lora": "llm", "encoder-lora": "encoder"}


@dataclass(frozen=True)
class TrainableParts:
    """What a training tunes of a model, stage by stage."""

    model: SpeechLLM
    settings: Train
    targets: dict[str, list[str]]  # of LoRA, by the part

    def lora_settings(self, part: str) -> Lora:
        """The settings of a LoRA part."""
        return self.settings.lora if part == "lora" else self.settings.encoder_lora

    def uses_ctc_loss(self, stage: CurriculumStage) -> bool:
        """Whether the encoder's CTC loss is part of the loss: its head is then tuned with the whole
        encoder, and frozen with LoRA.
        """
        return bool(self.settings.ctc_weight) and any(
            part.startswith("encoder") for part in stage.tune
        )

    def check(self) -> None:
        """Raises InputError for a stage of the curriculum with a part, a LoRA target or a pattern
        that the model does not have.
        """
        tuned_parts = {part for stage in self.settings.curriculum for part in stage.tune}
        lora_names = []
        for part in sorted(tuned_parts & SIDES.keys()):
            side = SIDES[part]
            network = self.model.llm if side == "llm" else self.model.encoder
            assert network is not None  # build.py loads it where a part of it is tuned
            lora_names += [
                f"{side}.{layer}.lora_{matrix}.weight"
                for layer in adapted_layers(network, self.targets[part])
                for matrix in "AB"
            ]
        curriculum = self.settings.curriculum
        tunable = {  # at most two: to find out takes a pass through the encoder
            has_ctc_loss: [*self.model.tunable(has_ctc_loss), *lora_names]
            for has_ctc_loss in {self.uses_ctc_loss(stage) for stage in curriculum}
        }
        for stage in curriculum:
            names = tunable[self.uses_ctc_loss(stage)]
            select_parameters(names, stage.tune, stage.freeze, _where(stage))

    def tune(self, stage: CurriculumStage) -> dict[str, list[nn.Parameter]]:
        """Makes what the stage tunes trainable, with LoRA added where it is missing; returns the
        parameters by part.
        """
        for part in stage.tune:
            if part in SIDES and SIDES[part] not in self.model.lora_wrappers:
                lora = self.lora_settings(part)
                self.model.add_lora(
                    lora.rank,
                    lora.alpha,
                    lora.dropout,
                    self.targets[part],
                    seed_of(part, self.settings.seed),
                    SIDES[part],
                )
        return self.model.tune(stage.tune, stage.freeze, self.uses_ctc_loss(stage), _where(stage))

    def adapters(self) -> dict[str, Adapter]:
        """LoRA that a stage tunes, by the side it is on."""
        tuned = {part for stage in self.settings.curriculum for part in stage.tune}
        return {
            side: Adapter(self.lora_settings(part), self.targets[part])
            for part, side in SIDES.items()
            if part in tuned
        }

    def peak_rates(self, stage: CurriculumStage) -> dict[str, float]:
        """The peak learning rate of each part."""
        full = self.settings.full
        loras = {part: self.lora_settings(part).learning_rate for part in SIDES}
        return {"projector": stage.learning_rate, "encoder": full.encoder, "llm": full.llm, **loras}

    def parameter_rows(self, frozen: SpeechEncoder | None) -> list[ParameterRow]:
        """The parameter table; ``frozen`` is the encoder that computes live frames, if any."""
        named_parameters = list(self.model.named_parameters())
        if frozen is not None and self.model.encoder is None:
            named_parameters += frozen.named_parameters(prefix="encoder")
        return parameter_table(
            {plain_name(name): parameter for name, parameter in named_parameters}
        )


def _where(stage: CurriculumStage) -> str:
    return f"train, stage '{stage.name}'"


def write_tables(tables: Sequence[tuple[str, list[ParameterRow]]], path: Path) -> None:
    """Writes the tables of all stages, each (name of the stage, rows), as JSON."""
    stages = [{"stage": name, "modules": [asdict(row) for row in rows]} for name, rows in tables]
    path.write_text(json.dumps(stages, indent=1) + "\n")
