"""The LLM: a folder in HF form → model and tokenizer, and the loss on target tokens only."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from components.config.errors import InputError
from components.model.encoder import DTYPES
from components.model.prompt import Sequences


@dataclass(frozen=True)
class TargetLoss:
    """Sum of the cross-entropy over target tokens, their number, and how many were ranked first."""

    total: torch.Tensor
    tokens: int
    correct: int


def load_llm(folder: Path, dtype: str, device: str) -> tuple[Any, Any]:
    """(model, tokenizer), frozen; raises InputError where the folder does not load."""
    try:
        tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True)
        model = AutoModelForCausalLM.from_pretrained(folder, local_files_only=True, use_safetensors=True, dtype=DTYPES[dtype])
    except (OSError, ValueError) as error:
        raise InputError(f"{folder} does not load as an LLM: {error}", unit=str(folder),
                         way_out="A folder in HF form with safetensors and a tokenizer is needed.") from None  # fmt: skip
    return model.eval().requires_grad_(False).to(device), tokenizer


def target_loss(llm: Any, batch: Sequences) -> TargetLoss:
    """Cross-entropy on the targets of ``batch``; logits are computed at their places alone."""
    hidden = llm.base_model(inputs_embeds=batch.embeddings, attention_mask=batch.mask, use_cache=False).last_hidden_state
    logits = llm.get_output_embeddings()(hidden[batch.rows, batch.columns]).float()
    total = torch.nn.functional.cross_entropy(logits, batch.targets, reduction="sum")
    return TargetLoss(total, len(batch.targets), int((logits.argmax(-1) == batch.targets).sum()))
