"""The LLM: a folder in HF form → model and tokenizer, and the loss on target tokens only.

Every family takes the same path: the Auto classes read architecture, attention and special tokens from the folder; only
safetensors are read and no code of a checkpoint is run. Loading costs reading the weights once.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, GenerationConfig

from components.config.errors import InputError
from components.model.encoder import DTYPES
from components.model.prompt import Sequences
from components.model.sentencepiece import readable

# Settings by which some families (Gemma, Cohere, Granite, Falcon-H1) change the logits after the output matrix. The loss
# takes the matrix alone, so their training would follow another model than their search.
HEAD_SETTINGS = ("final_logit_softcapping", "logit_scale", "logits_scaling", "lm_head_multiplier")


@dataclass(frozen=True)
class TargetLoss:
    """Sum of the cross-entropy over target tokens, their number, and how many were ranked first."""

    total: torch.Tensor
    tokens: int
    correct: int


def load_tokenizer(folder: Path) -> Any:
    """The tokenizer of an LLM's folder; raises InputError where it does not load."""
    try:
        with readable(folder) as place:
            tokenizer = AutoTokenizer.from_pretrained(place, local_files_only=True)
    except (OSError, ValueError) as error:
        raise _unfit(folder, error) from None
    tokenizer.name_or_path = str(folder)
    return tokenizer


def load_llm(folder: Path, dtype: str, device: str) -> tuple[Any, Any]:
    """(model, tokenizer), frozen; raises InputError where the folder does not load."""
    tokenizer = load_tokenizer(folder)
    try:
        model = AutoModelForCausalLM.from_pretrained(folder, local_files_only=True, use_safetensors=True, dtype=DTYPES[dtype])
    except (OSError, ValueError) as error:
        raise _unfit(folder, error) from None
    for setting in HEAD_SETTINGS:
        if getattr(model.config, setting, None) not in (None, 1):
            raise InputError(f"{folder}: '{setting}' of {type(model).__name__} changes the logits, which the loss does not follow.",
                             unit=str(folder), way_out="Choose an LLM of another family.")  # fmt: skip
    # What a checkpoint says of sampling and repetition (Qwen2.5: repetition_penalty 1.1) would fill what a search leaves open.
    model.generation_config = GenerationConfig()
    return model.eval().requires_grad_(False).to(device), tokenizer


def _unfit(folder: Path, error: Exception) -> InputError:
    return InputError(f"{folder} does not load as an LLM: {error}", unit=str(folder),
                      way_out="A folder in HF form with safetensors and a tokenizer is needed.")  # fmt: skip


def target_loss(llm: Any, batch: Sequences) -> TargetLoss:
    """Cross-entropy on the targets of ``batch``; logits are computed at their places alone."""
    hidden = llm.base_model(inputs_embeds=batch.embeddings, attention_mask=batch.mask, use_cache=False).last_hidden_state
    logits = llm.get_output_embeddings()(hidden[batch.rows, batch.columns]).float()
    total = torch.nn.functional.cross_entropy(logits, batch.targets, reduction="sum")
    return TargetLoss(total, len(batch.targets), int((logits.argmax(-1) == batch.targets).sum()))
