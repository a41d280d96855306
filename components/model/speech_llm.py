"""The joined model: frames of the encoder → projector → LLM, for training, decoding and
``transcribe`` alike.

On disk a model folder holds what was trained and nothing else: ``projector.safetensors``,
``matching.safetensors``, LoRA in PEFT's format (``lora`` of the LLM, ``encoder-lora``),
``llm.safetensors`` and ``encoder.safetensors`` with those parameters of a base that were tuned
themselves, and ``config.json`` that pins encoder and LLM by digest. ``SpeechLLM.load`` is the one
call.
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

from components.config.entries import Prompt
from components.config.errors import InputError
from components.config.projector import Projector, projector_of
from components.config.schema import non_default_fields
from components.model import lora
from components.model.bridges.compressor import Compressor
from components.model.bridges.projector import build_projector
from components.model.encoders.ctc_head import read_ctc_head
from components.model.encoders.encoder import SpeechEncoder
from components.model.folders.description import MATCHING
from components.model.llms.causal import TargetLoss, load_llm, target_loss
from components.model.llms.prompt import PromptBuilder, sequences
from components.model.matching import Matching, mean_square
from components.model.trainable import plain_name, selected
from components.optim.ranks import full_tensor, is_sharded
from components.runtime.artifact import recorded_digests
from components.runtime.hashing import data_digest

CONFIG = "config.json"
LORA = {
    "llm": "lora",
    "encoder": "encoder-lora",
}  # folders of adapters, and the parts that they are


@dataclass(frozen=True)
class EncoderRunConfig:
    """How an encoder that is tuned was run, and is to be run ever after."""

    layer: int | str
    dtype: str
    padding: str


@dataclass(frozen=True)
class ModelConfig:
    """What a model folder's ``config.json`` says."""

    encoder: str  # digest of its files
    encoder_width: int
    llm: str  # digest of its files
    llm_dtype: str
    projector: Projector
    prompt: Prompt
    text_case: str
    encoder_run: EncoderRunConfig | None = (
        None  # where the encoder is tuned; else its frames are anybody's
    )


def folder_digest(folder: Path) -> str:
    """One digest for all files of an encoder or LLM folder."""
    return data_digest(recorded_digests(folder))


def read_model_config(folder: Path) -> ModelConfig:
    """What the ``config.json`` of a model folder says."""
    data = json.loads((folder / CONFIG).read_text())
    run = data.pop("hearing", None) or data.pop("encoder_run", None)  # older folders: hearing
    return ModelConfig(
        **{
            **data,
            "projector": projector_of(data["projector"], f"{folder / CONFIG}: projector"),
            "prompt": Prompt(**data["prompt"]),
            "encoder_run": EncoderRunConfig(**run) if run else None,
        }
    )


class SpeechLLM(nn.Module):
    """Projector, matching head and LLM, and the encoder where it is tuned; frames come from
    outside.
    """

    def __init__(
        self, shape: ModelConfig, llm: Any, tokenizer: Any, encoder: SpeechEncoder | None = None
    ) -> None:
        super().__init__()
        self.shape, self.llm = shape, llm
        self.builder = PromptBuilder(tokenizer, shape.prompt, shape.text_case)
        self.tokenizer = tokenizer
        around = [token for pair in self.builder.drawn for ids in pair for token in ids]
        self.check_vocabulary([*around, self.builder.eos], "the prompt and its end")
        width = llm.get_input_embeddings().embedding_dim
        self.projector = build_projector(shape.projector, shape.encoder_width, width)
        self.matching = Matching(width)
        # whether the matching head is one that was trained; training says so, or the folder
        self.has_matching_head = True
        self.scale = mean_square(
            llm.get_input_embeddings().weight
        )  # as the LLM came: tuning it moves no goal
        self.encoder = (
            encoder  # named last: the order of the others decides in which order gradients add up
        )
        self.lora_wrappers: dict[str, Any] = {}  # PEFT's wrappers by side, once LoRA is added
        self.tuned_names: set[str] = (
            set()
        )  # parameters of a base, by plain name, that were tuned themselves

    @property
    def device(self) -> torch.device:
        return next(self.projector.parameters()).device

    def use_ctc_head_of(self, encoder: Path) -> None:
        """Gives a bridge that reads CTC units the head in the encoder's folder; raises InputError
        where there is none.
        """
        if isinstance(self.projector, Compressor):
            self.projector.set_ctc_head(read_ctc_head(encoder))

    def _network(self, side: str) -> Any:
        """The base of a side, ``llm`` or ``encoder``."""
        return self.llm if side == "llm" else self.encoder and self.encoder.model

    def add_lora(
        self,
        rank: int,
        alpha: int,
        dropout: float,
        targets: Sequence[str],
        seed: int,
        side: str = "llm",
    ) -> None:
        """Adapts the layers of a side whose names end in ``targets``; raises InputError for a
        target that matches nothing.
        """
        task = "CAUSAL_LM" if side == "llm" else None
        self.lora_wrappers[side] = lora.attach(
            self._network(side), targets, rank, alpha, dropout, seed, task
        )

    def tunable(self, head: bool = False) -> dict[str, nn.Parameter]:
        """Every parameter that can be tuned, by its plain name: of the encoder those that frames
        hang on, and LoRA's; with ``head`` those of its CTC head too.
        """
        heard: set[str] = set()
        if self.encoder is not None:
            heard = {
                f"encoder.{plain_name(name)}" for name in self.encoder.parameters_with_gradient()
            }
        heads = (
            {id(parameter) for parameter in self.encoder.head.parameters()}
            if head and self.encoder is not None
            else set()
        )
        found = {plain_name(name): parameter for name, parameter in self.named_parameters()}
        return {
            name: parameter
            for name, parameter in found.items()
            if not name.startswith("encoder.")
            or name in heard
            or "lora_" in name
            or id(parameter) in heads
        }

    def tune(
        self,
        parts: Sequence[str],
        freeze: Sequence[str] = (),
        head: bool = False,
        where: str = "train",
    ) -> dict[str, list[nn.Parameter]]:
        """Makes only ``parts`` trainable, but for what the patterns of ``freeze`` match, and
        returns their parameters by part.

        Raises InputError as ``tuning.selected`` does. ``head``: the encoder's CTC head goes with
        it.
        """
        self.requires_grad_(False)
        tunable = (
            self.tunable(head)
            if "encoder" in parts
            else {plain_name(name): each for name, each in self.named_parameters()}
        )
        groups = selected(tunable, parts, freeze, where)
        for name in (name for names in groups.values() for name in names):
            tunable[name].requires_grad_(True)
            if name.startswith(tuple(LORA)) and "lora_" not in name:
                self.tuned_names.add(name)
        return {part: [tunable[name] for name in names] for part, names in groups.items()}

    def losses(
        self,
        frames: Sequence[torch.Tensor],
        texts: Sequence[str],
        mse: float,
        cosine: float,
        heard: Sequence[Sequence[int]] | None = None,
        packed: bool = False,
        templates: Sequence[int] | None = None,
    ) -> tuple[TargetLoss, torch.Tensor]:
        """Cross-entropy on each transcript and its end of sequence, and the matching loss, both
        summed over tokens.

        ``heard`` are the tokens that the LLM reads in place of each transcript's own; ``packed``
        puts all into one row; ``templates`` are the places of the prompts around each, the first
        where not given. Raises InputError for a transcript with a token that the LLM has no
        embedding of.
        """
        speech = self.projector(frames)
        targets = [self.builder.target(text) for text in texts]
        embed = self.llm.get_input_embeddings()
        for each, ids in zip(texts, targets, strict=True):
            self.check_vocabulary(ids, f"'{each[:40]}'")
        entropy = target_loss(
            self.llm, sequences(embed, self.builder, speech, targets, heard, packed, templates)
        )
        if not (mse or cosine):
            return entropy, speech[0].new_zeros(())
        text = [
            embed(torch.tensor(ids, dtype=torch.long, device=self.device)).to(speech[0].dtype)
            for ids in targets
        ]
        return entropy, self.matching(text, speech, mse, cosine, self.scale)

    def check_vocabulary(self, ids: Sequence[int], what: str) -> None:
        """Raises InputError where the tokenizer has a larger vocabulary than the LLM, and ``what``
        takes of it.
        """
        count = self.llm.get_input_embeddings().num_embeddings
        if ids and max(ids) >= count:
            raise InputError(
                f"The tokenizer of {self.tokenizer.name_or_path} makes token {max(ids)} of "
                f"{what}; the LLM has {count}.",
                subject=self.tokenizer.name_or_path,
                hint="Take the tokenizer that the checkpoint was trained with.",
            )

    def save(self, folder: Path, *, write: bool = True) -> None:
        """Writes what was trained and the configuration; with a sharded LLM all ranks call it, and
        one of them writes.
        """
        held = {
            plain_name(name): full_tensor(parameter.detach()).cpu().contiguous()
            for name, parameter in self.named_parameters()
            if plain_name(name) in self.tuned_names and (write or is_sharded(parameter))
        }
        if not write:
            return
        folder.mkdir(parents=True, exist_ok=True)
        for name in ["projector", *(["matching"] if self.has_matching_head else [])]:
            state = {
                key: tensor.detach().cpu().contiguous()
                for key, tensor in getattr(self, name).state_dict().items()
            }
            save_file(state, folder / f"{name}.safetensors")
        for side, adapter in LORA.items():
            own = {
                name.removeprefix(f"{side}."): held[name]
                for name in sorted(self.tuned_names)
                if name.startswith(f"{side}.")
            }
            if own:
                save_file(own, folder / f"{side}.safetensors")
            if side in self.lora_wrappers:
                lora.write(self.lora_wrappers[side], folder / adapter)
        (folder / CONFIG).write_text(
            json.dumps(non_default_fields(self.shape), indent=1, sort_keys=True) + "\n"
        )

    @classmethod
    def load(
        cls, folder: Path, encoder: Path, llm: Path, device: str, dtype: str | None = None
    ) -> SpeechLLM:
        """The trained model over its base checkpoints, with the encoder where that was tuned;
        raises InputError where they are not those it was trained on. ``dtype`` is the LLM's, the
        one it was trained with where not given.
        """
        shape = read_model_config(folder)
        for name, base in (("encoder", encoder), ("llm", llm)):
            if folder_digest(base) != getattr(shape, name):
                raise InputError(
                    f"{folder} was trained on another {name} than {base}.",
                    subject=str(folder),
                    hint="Run 'dvc repro'.",
                )
        base_model, tokenizer = load_llm(llm, dtype or shape.llm_dtype, device)
        model = cls(shape, base_model, tokenizer, load_tuned_encoder(shape, encoder, device))
        model.projector.load_state_dict(load_file(folder / "projector.safetensors"))
        model.use_ctc_head_of(encoder)
        model.has_matching_head = (
            folder / MATCHING
        ).is_file()  # a released projector has none, nor has one trained without the loss
        if model.has_matching_head:
            model.matching.load_state_dict(load_file(folder / MATCHING))
        for side, adapter in LORA.items():
            if (folder / f"{side}.safetensors").is_file():
                model._put_on(side, folder / f"{side}.safetensors")
            if (folder / adapter).is_dir():
                model.lora_wrappers[side] = lora.read(model._network(side), folder / adapter)
        return model.to(device).eval().requires_grad_(False)

    @torch.no_grad()
    def _put_on(self, side: str, file: Path) -> None:
        """Gives a base the parameters that were tuned."""
        held = dict(self.named_parameters())
        for name, tensor in load_file(file).items():
            held[f"{side}.{name}"].copy_(tensor)
            self.tuned_names.add(f"{side}.{name}")


def load_tuned_encoder(shape: ModelConfig, folder: Path, device: str) -> SpeechEncoder | None:
    """The encoder of ``folder`` as a model of this shape runs it; None where it is not tuned."""
    how = shape.encoder_run
    return SpeechEncoder(folder, device, how.dtype, how.layer, how.padding) if how else None
