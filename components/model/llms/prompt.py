"""The prompt: the one place that knows the order of speech and text, and how a transcript becomes a
target.

The catalogue's template holds ``{speech}`` where the projected frames stand: ``USER: {speech}
Transcribe speech to text. ASSISTANT: `` is the order of the SLAM-ASR paper (section 3); its
released code puts the speech first and the BOS after it. Special tokens stand in the template by
their names; in a transcript the same letters are plain text.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from transformers import AddedToken

from components.config.entries import Prompt
from components.config.errors import InputError

SPECIAL = re.compile(
    r"<\|[^<>|]+\|>"
)  # how ChatML and the Llama 3 family write their special tokens


@dataclass(frozen=True)
class Sequences:
    """A batch for the LLM: ``embeddings`` (batch, length, width), ``mask`` (batch, length), and for
    each target token the place (row, column) whose next token it is; ``targets`` has shape
    (tokens,), ``rows`` and ``columns`` alike.

    Packed, all utterances stand in one row: ``positions`` (1, length) restart with each of them,
    and there is no mask.
    """

    embeddings: torch.Tensor
    mask: torch.Tensor | None
    rows: torch.Tensor
    columns: torch.Tensor
    targets: torch.Tensor
    positions: torch.Tensor | None = None

    @property
    def tokens(self) -> int:
        """What the LLM reads, padding left out."""
        return self.embeddings.shape[1] if self.mask is None else int(self.mask.sum())


class PromptBuilder:
    """Token ids around the speech, and targets, for one tokenizer.

    Raises InputError where the tokenizer does not know a special token that the prompt names, or
    has no end of sequence.
    """

    def __init__(self, tokenizer: Any, prompt: Prompt, text_case: str = "as-is") -> None:
        self._tokenizer, self._case = tokenizer, text_case
        for token in dict.fromkeys(SPECIAL.findall("".join((prompt.template, *prompt.others)))):
            self._special(token, "template")
        self.drawn = [
            self._around(template, prompt.bos) for template in (prompt.template, *prompt.others)
        ]  # what training draws from
        self.before, self.after = self.drawn[0]
        if not prompt.eos and tokenizer.eos_token_id is None:
            raise InputError(
                f"The tokenizer of {tokenizer.name_or_path} has no end-of-sequence token.",
                subject=tokenizer.name_or_path,
                hint="Name one of its tokens in prompt.eos of the LLM's catalogue entry.",
            )
        self.eos = self._special(prompt.eos, "eos") if prompt.eos else int(tokenizer.eos_token_id)
        self._lead = (
            prompt.template.partition("{speech}")[2] if prompt.transcript == "attached" else ""
        )
        self._led = self._plain(self._lead) if self._lead else []

    def _around(self, template: str, place: str) -> tuple[list[int], list[int]]:
        """Ids before and after the speech."""
        before, after = (
            list(self._tokenizer(part, add_special_tokens=False).input_ids)
            for part in template.split("{speech}")
        )
        begun, bos = (
            {"first": before, "after-speech": after}.get(place),
            self._tokenizer.bos_token_id,
        )
        if (
            begun is not None and bos is not None and begun[:1] != [bos]
        ):  # a template may write it out
            begun.insert(0, bos)
        return before, after

    def _special(self, token: str, field: str) -> int:
        """The id of ``token``, which must be one token of the vocabulary; from here on it is no
        part of plain text.
        """
        found = self._tokenizer.convert_tokens_to_ids(token)
        if found is None or (
            found == self._tokenizer.unk_token_id and token != self._tokenizer.unk_token
        ):
            raise InputError(
                f"prompt.{field} names '{token}', which the tokenizer of "
                f"{self._tokenizer.name_or_path} does not have.",
                subject=token,
                hint=("Set the prompt in the LLM's catalogue entry by the checkpoint's chat form."),
            )
        known = self._tokenizer.added_tokens_decoder.get(found)
        if known is None or not known.special:  # some checkpoints add their chat tokens as words
            self._tokenizer.add_tokens(
                [AddedToken(token, special=True, normalized=False)], special_tokens=True
            )
        return int(found)

    def target(self, text: str) -> list[int]:
        """Token ids of a transcript, without the end of sequence; empty for an empty one.

        Raises InputError where the first of them would be joined with the end of the template,
        which search reads alone.
        """
        text = " ".join(text.split())
        text = text.lower() if self._case == "lower" else text
        ids = self._plain(self._lead + text) if text else self._led
        if ids[: len(self._led)] != self._led:
            raise InputError(
                f"The tokenizer of {self._tokenizer.name_or_path} joins the end of the "
                f"prompt's template with '{text[:40]}'.",
                subject="prompt.transcript",
                hint="Set prompt.transcript of the LLM's catalogue entry to apart.",
            )
        return ids[len(self._led) :]

    def _plain(self, text: str) -> list[int]:
        """Ids of ``text``, special tokens split: '</s>' in a transcript is four characters that
        somebody wrote, not the end.
        """
        return list(
            self._tokenizer(text, add_special_tokens=False, split_special_tokens=True).input_ids
        )

    @cached_property
    def special(self) -> set[int]:
        """Ids of tokens that are no text."""
        added = {
            token for token, known in self._tokenizer.added_tokens_decoder.items() if known.special
        }
        return {*self._tokenizer.all_special_ids, self.eos} | added

    def plain_tokens(self) -> list[int]:
        """Ids of the vocabulary that are no special tokens: what a transcript may be made of."""
        return sorted(set(self._tokenizer.get_vocab().values()) - self.special)

    def text(self, tokens: Sequence[int]) -> str:
        """The transcript of generated token ids, up to the first end of sequence."""
        tokens = list(tokens)
        end = tokens.index(self.eos) if self.eos in tokens else len(tokens)
        # No clean-up: it would take the space before punctuation out of words that stand apart in
        # the transcript.
        text = self._tokenizer.decode(
            tokens[:end], skip_special_tokens=True, clean_up_tokenization_spaces=False
        )
        return " ".join(text.split())


def sequences(
    embed: torch.nn.Module,
    builder: PromptBuilder,
    speech: Sequence[torch.Tensor],
    targets: Sequence[Sequence[int]] | None,
    heard: Sequence[Sequence[int]] | None = None,
    packed: bool = False,
    templates: Sequence[int] | None = None,
) -> Sequences:
    """Prompt, speech (each (frames, width)) and, where given, targets with their end of sequence,
    as one batch.

    Without targets the padding stands on the left, as generation wants it; with them on the right,
    or nowhere: ``packed`` puts all into one row. ``templates`` says which of the builder's stands
    around each; the first, where it is not given. ``heard`` are the tokens that are read in place
    of the targets, as many of each. What counts as a target is known by its place, never by the
    padding id, since for some LLMs that is the end of sequence itself.
    """
    device = speech[0].device
    answers = (
        [[*target, builder.eos] for target in targets]
        if targets is not None
        else [[] for _ in speech]
    )
    read = [[*given, builder.eos] for given in heard] if heard is not None else answers

    def embedded(ids: Sequence[int]) -> torch.Tensor:
        return embed(torch.tensor(list(ids), dtype=torch.long, device=device))

    around = [tuple(map(embedded, each)) for each in builder.drawn]
    chosen = [around[place] for place in (templates or [0] * len(speech))]
    rows = [
        torch.cat([before, frames.to(before.dtype), after, embedded(ids)])
        for (before, after), frames, ids in zip(chosen, speech, read, strict=True)
    ]
    lengths = [len(row) for row in rows]
    # The token at column c is predicted from column c - 1.
    places = [
        (row, lengths[row] - len(answer) - 1 + step)
        for row, answer in enumerate(answers)
        for step in range(len(answer))
    ]
    at = torch.tensor(places, dtype=torch.long, device=device).reshape(-1, 2)
    flat = torch.tensor(
        [token for answer in answers for token in answer], dtype=torch.long, device=device
    )
    if packed:
        starts = torch.tensor([0, *lengths[:-1]], device=device).cumsum(0)
        positions = torch.cat([torch.arange(length, device=device) for length in lengths])[None]
        columns = starts[at[:, 0]] + at[:, 1]
        return Sequences(
            torch.cat(rows)[None], None, torch.zeros_like(columns), columns, flat, positions
        )
    embeddings, mask = _padded(rows, left=targets is None)
    return Sequences(embeddings, mask, at[:, 0], at[:, 1], flat)


def _padded(rows: Sequence[torch.Tensor], left: bool) -> tuple[torch.Tensor, torch.Tensor]:
    """(batch, length, width) of the rows, filled up with zeros, and the mask (batch, length) of
    what they are.
    """
    longest, device = max(len(row) for row in rows), rows[0].device
    padded = torch.stack(
        [
            torch.nn.functional.pad(
                row, (0, 0, longest - len(row), 0) if left else (0, 0, 0, longest - len(row))
            )
            for row in rows
        ]
    )
    lengths = torch.tensor([len(row) for row in rows], device=device)
    columns = torch.arange(longest, device=device)[None]
    mask = columns >= longest - lengths[:, None] if left else columns < lengths[:, None]
    return padded, mask.long()
