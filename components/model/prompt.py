"""The prompt: the one place that knows the order of speech and text, and how a transcript becomes a target.

The catalogue's template holds ``{speech}`` where the projected frames stand: ``USER: {speech} Transcribe speech to text.
ASSISTANT: `` is the order of the SLAM-ASR paper (section 3); its released code puts the speech first.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch

from components.config.catalogue import Prompt
from components.config.errors import InputError


@dataclass(frozen=True)
class Sequences:
    """A padded batch for the LLM: ``embeddings`` (batch, length, width), ``mask`` (batch, length), and for each target
    token the place (row, column) whose next token it is; ``targets`` has shape (tokens,), ``rows`` and ``columns`` alike."""

    embeddings: torch.Tensor
    mask: torch.Tensor
    rows: torch.Tensor
    columns: torch.Tensor
    targets: torch.Tensor


class PromptBuilder:
    """Token ids around the speech, and targets, for one tokenizer."""

    def __init__(self, tokenizer: Any, prompt: Prompt, text_case: str = "as-is") -> None:
        if tokenizer.eos_token_id is None:
            raise InputError(f"The tokenizer of {tokenizer.name_or_path} has no end-of-sequence token.", way_out="Add one to its files.")
        before, after = prompt.template.split("{speech}")
        begin = [tokenizer.bos_token_id] if prompt.bos and tokenizer.bos_token_id is not None else []
        self.before = begin + tokenizer(before, add_special_tokens=False).input_ids
        self.after = tokenizer(after, add_special_tokens=False).input_ids
        self.eos = int(tokenizer.eos_token_id)
        self._tokenizer, self._case = tokenizer, text_case

    def target(self, text: str) -> list[int]:
        """Token ids of a transcript, without the end of sequence; empty for an empty one."""
        text = " ".join(text.split())
        text = text.lower() if self._case == "lower" else text
        return list(self._tokenizer(text, add_special_tokens=False).input_ids) if text else []

    def text(self, tokens: Sequence[int]) -> str:
        """The transcript of generated token ids, up to the first end of sequence."""
        tokens = list(tokens)
        end = tokens.index(self.eos) if self.eos in tokens else len(tokens)
        return " ".join(self._tokenizer.decode(tokens[:end], skip_special_tokens=True).split())


def sequences(embed: torch.nn.Module, builder: PromptBuilder, speech: Sequence[torch.Tensor],
              targets: Sequence[Sequence[int]] | None) -> Sequences:  # fmt: skip
    """Prompt, speech (each (frames, width)) and, where given, targets with their end of sequence, as one padded batch.

    Without targets the padding stands on the left, as generation wants it; with them on the right. What counts as a
    target is known by its place, never by the padding id, since for some LLMs that is the end of sequence itself.
    """
    device = speech[0].device
    answers = [[*target, builder.eos] for target in targets] if targets is not None else [[] for _ in speech]

    def embedded(ids: Sequence[int]) -> torch.Tensor:
        return embed(torch.tensor(list(ids), dtype=torch.long, device=device))

    before, after = embedded(builder.before), embedded(builder.after)
    rows = [torch.cat([before, frames.to(before.dtype), after, embedded(answer)]) for frames, answer in zip(speech, answers, strict=True)]
    longest = max(len(row) for row in rows)
    left = targets is None
    padded = torch.stack(
        [torch.nn.functional.pad(row, (0, 0, longest - len(row), 0) if left else (0, 0, 0, longest - len(row))) for row in rows]
    )
    lengths = torch.tensor([len(row) for row in rows], device=device)
    columns = torch.arange(longest, device=device)[None]
    mask = columns >= longest - lengths[:, None] if left else columns < lengths[:, None]
    # The token at column c is predicted from column c - 1.
    places = [(row, len(rows[row]) - len(answer) - 1 + step) for row, answer in enumerate(answers) for step in range(len(answer))]
    at = torch.tensor(places, dtype=torch.long, device=device).reshape(-1, 2)
    flat = torch.tensor([token for answer in answers for token in answer], dtype=torch.long, device=device)
    return Sequences(padded, mask.long(), at[:, 0], at[:, 1], flat)
