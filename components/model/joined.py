"""The joined model: frames of the encoder → projector → LLM, for training, decoding and ``transcribe`` alike.

On disk a model folder holds what was trained and nothing else: ``projector.safetensors``, ``matching.safetensors``, LoRA
in PEFT's format, and ``config.json`` that pins encoder and LLM by digest. ``SpeechLLM.load`` is the one call.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import nn

from components.config.artifact import contents
from components.config.catalogue import Prompt
from components.config.errors import InputError
from components.config.hashing import data_digest
from components.config.projector import Projector, projector_of
from components.config.typed import stated
from components.model.causal import TargetLoss, load_llm, target_loss
from components.model.lora import adapting, attach
from components.model.matching import Matching
from components.model.projector import build_projector
from components.model.prompt import PromptBuilder, sequences

CONFIG, LORA = "config.json", "lora"


@dataclass(frozen=True)
class Shape:
    """What a model folder's ``config.json`` says."""

    encoder: str  # digest of its files
    encoder_width: int
    llm: str  # digest of its files
    llm_dtype: str
    projector: Projector
    prompt: Prompt
    text_case: str


def folder_digest(folder: Path) -> str:
    """One digest for all files of an encoder or LLM folder."""
    return data_digest(contents(folder))


class SpeechLLM(nn.Module):
    """Projector, matching head and LLM; the encoder's frames come from outside."""

    def __init__(self, shape: Shape, llm: Any, tokenizer: Any) -> None:
        super().__init__()
        self.shape, self.llm = shape, llm
        self.builder = PromptBuilder(tokenizer, shape.prompt, shape.text_case)
        self.tokenizer = tokenizer
        self._check_known([*self.builder.before, *self.builder.after, self.builder.eos], "the prompt and its end")
        width = llm.get_input_embeddings().embedding_dim
        self.projector = build_projector(shape.projector, shape.encoder_width, width)
        self.matching = Matching(width)
        self.adapted: Any = None  # the PEFT wrapper, once LoRA is added

    @property
    def device(self) -> torch.device:
        return next(self.projector.parameters()).device

    def add_lora(self, rank: int, alpha: int, dropout: float, targets: Sequence[str], seed: int) -> None:
        """Adapts the layers whose names end in ``targets``; raises InputError for a target that matches nothing."""
        self.adapted = attach(self.llm, targets, rank, alpha, dropout, seed, task="CAUSAL_LM")

    def tune(self, parts: Sequence[str]) -> dict[str, list[nn.Parameter]]:
        """Makes only ``parts`` (``projector``, ``lora``) trainable and returns their parameters by part.

        The matching head goes with the projector.
        """
        self.requires_grad_(False)
        groups: dict[str, list[nn.Parameter]] = {}
        for name, parameter in self.named_parameters():
            part = "lora" if "lora_" in name else name.split(".")[0].replace("matching", "projector")
            if part in parts:
                parameter.requires_grad_(True)
                groups.setdefault(part, []).append(parameter)
        for part in parts:
            if part not in groups:
                raise InputError(f"'{part}' is to be tuned, but the model has no such part.", unit=part)
        return groups

    def losses(self, frames: Sequence[torch.Tensor], texts: Sequence[str], mse: float, cosine: float,
               heard: Sequence[Sequence[int]] | None = None, packed: bool = False) -> tuple[TargetLoss, torch.Tensor]:  # fmt: skip
        """Cross-entropy on each transcript and its end of sequence, and the matching loss, both summed over tokens.

        ``heard`` are the tokens that the LLM reads in place of each transcript's own; ``packed`` puts all into one row.
        Raises InputError for a transcript with a token that the LLM has no embedding of.
        """
        speech = self.projector(frames)
        targets = [self.builder.target(text) for text in texts]
        embed = self.llm.get_input_embeddings()
        for each, ids in zip(texts, targets, strict=True):
            self._check_known(ids, f"'{each[:40]}'")
        entropy = target_loss(self.llm, sequences(embed, self.builder, speech, targets, heard, packed))
        if not (mse or cosine):
            return entropy, speech[0].new_zeros(())
        text = [embed(torch.tensor(ids, dtype=torch.long, device=self.device)).to(speech[0].dtype) for ids in targets]
        return entropy, self.matching(text, speech, mse, cosine)

    def _check_known(self, ids: Sequence[int], what: str) -> None:
        """Raises InputError where the tokenizer has a larger vocabulary than the LLM, and ``what`` takes of it."""
        count = self.llm.get_input_embeddings().num_embeddings
        if ids and max(ids) >= count:
            raise InputError(f"The tokenizer of {self.tokenizer.name_or_path} makes token {max(ids)} of {what}; the LLM has {count}.",
                             unit=self.tokenizer.name_or_path,
                             way_out="Take the tokenizer that the checkpoint was trained with.")  # fmt: skip

    def save(self, folder: Path) -> None:
        """Writes what was trained and the configuration."""
        folder.mkdir(parents=True, exist_ok=True)
        for name in ("projector", "matching"):
            state = {key: tensor.detach().cpu().contiguous() for key, tensor in getattr(self, name).state_dict().items()}
            save_file(state, folder / f"{name}.safetensors")
        if self.adapted is not None:
            self.adapted.save_pretrained(folder / LORA, safe_serialization=True)
            (folder / LORA / "README.md").unlink(missing_ok=True)  # a model card full of blanks
            _sort_targets(folder / LORA / "adapter_config.json")
        (folder / CONFIG).write_text(json.dumps(stated(self.shape), indent=1, sort_keys=True) + "\n")

    @classmethod
    def load(cls, folder: Path, encoder: Path, llm: Path, device: str) -> SpeechLLM:
        """The trained model over its base checkpoints; raises InputError where they are not those it was trained on."""
        data = json.loads((folder / CONFIG).read_text())
        projector = projector_of(data["projector"], f"{folder / CONFIG}: projector")
        shape = Shape(**{**data, "projector": projector, "prompt": Prompt(**data["prompt"])})
        for name, base in (("encoder", encoder), ("llm", llm)):
            if folder_digest(base) != getattr(shape, name):
                raise InputError(f"{folder} was trained on another {name} than {base}.", unit=str(folder), way_out="Run 'dvc repro'.")
        base_model, tokenizer = load_llm(llm, shape.llm_dtype, device)
        model = cls(shape, base_model, tokenizer)
        model.projector.load_state_dict(load_file(folder / "projector.safetensors"))
        if (folder / "matching.safetensors").is_file():  # only training needs it: a released projector has none
            model.matching.load_state_dict(load_file(folder / "matching.safetensors"))
        if (folder / LORA).is_dir():
            from peft import PeftModel

            with adapting():
                model.adapted = PeftModel.from_pretrained(base_model, str(folder / LORA))
        return model.to(device).eval().requires_grad_(False)


def _sort_targets(path: Path) -> None:
    """PEFT holds the targets as a set, whose order differs from run to run."""
    config = json.loads(path.read_text())
    config["target_modules"] = sorted(config["target_modules"])
    path.write_text(json.dumps(config, indent=1, sort_keys=True) + "\n")
