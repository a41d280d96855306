"""The joined model: frames of the encoder → projector → LLM, for training, search, scoring and
``transcribe`` alike.

In shapes, B is the number of utterances, T the length of the LLM's sequences, H the width of the
LLM, N the number of target tokens. ``SpeechLLM.load`` reads a trained model over its base
checkpoints (see ``model_folder`` for what its folder holds).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import nn

from components.model import lora
from components.model.bridges.compressor import Compressor
from components.model.bridges.registry import build_projector
from components.model.encoders.ctc_head import read_ctc_head
from components.model.encoders.encoder import SpeechEncoder
from components.model.folders.linked_checkpoint import open_checkpoint
from components.model.llms.batch import LlmInputs, SpeechBatch, SpeechOutput, interleave
from components.model.llms.causal import load_llm, predict_targets
from components.model.llms.prompt import PromptBuilder
from components.model.matching import MatchingHead, MatchingWeights, mean_square
from components.model.model_folder import (
    LORA,
    ModelConfig,
    check_base,
    read_model_config,
    read_trained,
    write_trained,
)
from components.model.trainable import plain_name, select_parameters
from components.optim.sharding import decoder_layers


class SpeechLLM(nn.Module):
    """Projector, matching head and LLM, and the encoder where it is tuned. Frames come from
    outside.

    The order of the members decides in which order gradients are added up: keep it.
    """

    def __init__(
        self, config: ModelConfig, llm: Any, tokenizer: Any, encoder: SpeechEncoder | None = None
    ) -> None:
        super().__init__()
        embedding = llm.get_input_embeddings()
        self.config = replace(config, vocabulary_size=embedding.num_embeddings)
        self.llm, self.tokenizer = llm, tokenizer
        self.projector = build_projector(
            config.projector, config.encoder_width, embedding.embedding_dim
        )
        self.builder = PromptBuilder(
            tokenizer,
            config.prompt,
            config.text_case,
            embedding.num_embeddings,
            self.projector.list_target_tokens,
        )
        self.projector.insert_into(decoder_layers(llm.base_model))
        self.projector.read_embeddings(embedding)
        self.matching = MatchingHead(embedding.embedding_dim)
        self.has_matching_head = True  # whether it is a trained one; training or the folder says so
        # Of the embeddings as the checkpoint has them: tuning the LLM does not move the goal.
        self.embedding_scale = mean_square(embedding.weight)
        self.encoder = encoder
        self.lora_wrappers: dict[str, Any] = {}  # PEFT's wrappers by side, once LoRA is added
        self.tuned_names: set[str] = set()  # plain names of tuned parameters of a base checkpoint

    def forward(self, batch: SpeechBatch, matching: MatchingWeights | None = None) -> SpeechOutput:
        """The cross-entropy of each transcript with its end of sequence, and, with weights for it,
        the matching loss; both are summed over tokens.
        """
        speech = self.project(batch)  # B of (speech tokens, H)
        inputs = self.embed(batch, speech)  # (B, T, H)
        with self.projector.attend(speech):
            output = predict_targets(self.llm, inputs)  # logits (N, vocabulary)
        if matching is None or not (matching.mse or matching.cosine):
            return output
        texts = [self._embed_text(ids[:-1], speech[0].dtype) for ids in batch.labels or ()]
        loss = self.matching(texts, speech, matching, self.embedding_scale)  # ()
        return replace(output, matching_loss=loss)

    def project(self, batch: SpeechBatch) -> Sequence[torch.Tensor]:
        """The speech of each utterance as vectors of the LLM, (speech tokens, H)."""
        return self.projector(batch.frames) if batch.speech is None else batch.speech

    def embed(self, batch: SpeechBatch, speech: Sequence[torch.Tensor]) -> LlmInputs:
        """What the LLM reads: ``speech``, each (speech tokens, H), within the embedded text; the
        text alone where the bridge brings the speech into the LLM's layers.
        """
        if not self.projector.is_in_prompt:
            speech = [vectors[:0] for vectors in speech]
        return interleave(self.llm.get_input_embeddings(), batch, speech)

    def _embed_text(self, ids: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
        """Embeddings of a transcript, (tokens,) → (tokens, H)."""
        embeddings: torch.Tensor = self.llm.get_input_embeddings()(ids.to(self.device))
        return embeddings.to(dtype)

    @property
    def device(self) -> torch.device:
        """The device of the projector, which is that of all parts."""
        return next(self.projector.parameters()).device

    def use_ctc_head_of(self, encoder: Path) -> None:
        """Gives a bridge that reads CTC units the head in the folder ``encoder``; raises InputError
        where there is none.
        """
        if isinstance(self.projector, Compressor):
            self.projector.set_ctc_head(read_ctc_head(encoder))

    def base_network(self, side: str) -> Any:
        """The network of a side, ``llm`` or ``encoder``; None for an encoder that is not tuned."""
        if side == "llm":
            return self.llm
        return None if self.encoder is None else self.encoder.model

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
        self.lora_wrappers[side] = lora.add_adapter(
            self.base_network(side), targets, rank, alpha, dropout, seed, task
        )

    def tunable(self, with_ctc_head: bool = False) -> dict[str, nn.Parameter]:
        """Every parameter that can be tuned, by its plain name: of the encoder those that frames
        depend on, and LoRA's; with ``with_ctc_head`` those of its CTC head too.
        """
        parameters = {plain_name(name): parameter for name, parameter in self.named_parameters()}
        if self.encoder is None:
            return parameters
        used = {f"encoder.{plain_name(name)}" for name in self.encoder.parameters_with_gradient()}
        head = self.encoder.head.parameters() if with_ctc_head else ()
        head_ids = {id(parameter) for parameter in head}
        return {
            name: parameter
            for name, parameter in parameters.items()
            if not name.startswith("encoder.")
            or name in used
            or "lora_" in name
            or id(parameter) in head_ids
        }

    def tune(
        self,
        parts: Sequence[str],
        freeze: Sequence[str] = (),
        with_ctc_head: bool = False,
        where: str = "train",
    ) -> dict[str, list[nn.Parameter]]:
        """Makes only ``parts`` trainable, without what the patterns of ``freeze`` match, and
        returns their parameters by part.

        Raises InputError as ``trainable.select_parameters`` does. ``with_ctc_head``: the
        encoder's CTC head is tuned with it.
        """
        self.requires_grad_(False)
        if "encoder" in parts:
            tunable = self.tunable(with_ctc_head)
        else:
            tunable = {plain_name(name): value for name, value in self.named_parameters()}
        groups = select_parameters(tunable, parts, freeze, where)
        for name in (name for names in groups.values() for name in names):
            tunable[name].requires_grad_(True)
            if name.startswith(tuple(LORA)) and "lora_" not in name:
                self.tuned_names.add(name)
        return {part: [tunable[name] for name in names] for part, names in groups.items()}

    def save(self, folder: Path, *, is_writer: bool = True) -> None:
        """Writes what was trained and the configuration; with a sharded LLM all ranks call it, and
        one of them writes.
        """
        write_trained(self, folder, is_writer=is_writer)

    @classmethod
    def load(
        cls, folder: Path, encoder: Path, llm: Path, device: str, dtype: str | None = None
    ) -> SpeechLLM:
        """The trained model over its base checkpoints, with the encoder where that was tuned;
        ``dtype`` is the LLM's, by default the one it was trained with.

        Raises InputError where the base checkpoints are not those it was trained on.
        """
        config = read_model_config(folder)
        check_base(folder, config, encoder, llm)
        encoder, llm = open_checkpoint(encoder), open_checkpoint(llm)
        base, tokenizer = load_llm(llm, dtype or config.llm_dtype, device)
        model = cls(config, base, tokenizer, load_tuned_encoder(config, encoder, device))
        model.use_ctc_head_of(encoder)
        read_trained(model, folder)
        return model.to(device).eval().requires_grad_(False)


def load_tuned_encoder(config: ModelConfig, folder: Path, device: str) -> SpeechEncoder | None:
    """The encoder of ``folder`` as a model of this configuration runs it; None where it is not
    tuned.
    """
    run = config.encoder_run
    return SpeechEncoder(folder, device, run.dtype, run.layer, run.padding) if run else None
