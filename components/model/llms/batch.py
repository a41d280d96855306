"""What the joined model reads and what it returns: the batch, the LLM's inputs, the output.

``collate`` makes the one ``SpeechBatch`` of training (with labels), search (the prompt alone) and
scoring (labels, and speech that is projected already); ``interleave`` puts the projected speech
between the embeddings of the prompt. In shapes, B is the number of utterances, T the length of the
LLM's sequences, H the width of the LLM, N the number of target tokens. Costs nothing beside the
LLM.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import nn

from components.model.llms.prompt import PromptBuilder

IGNORED = -100  # a label that counts for nothing; what PyTorch's cross-entropy ignores


@dataclass(frozen=True)
class SpeechBatch:
    """B utterances before anything is computed.

    Ids of different lengths are not padded here: how many tokens the speech takes is known only
    when the bridge has run. ``input_ids`` and ``labels`` are the transcript with its end of
    sequence, as the LLM reads it and as it has to predict it; the two differ where training
    corrupts what is read.
    """

    frames: tuple[torch.Tensor, ...]  # B of (frames, encoder width); empty where speech is given
    speech: tuple[torch.Tensor, ...] | None  # B of (tokens, H), where the bridge has run already
    prompts: tuple[tuple[torch.Tensor, torch.Tensor], ...]  # by template: ids before, after speech
    prompt_index: tuple[int, ...]  # (B,): the template of each utterance
    input_ids: tuple[torch.Tensor, ...]  # B of (transcript tokens + 1,); of (0,) for search
    labels: tuple[torch.Tensor, ...] | None  # B of the same shapes; None for search
    is_packed: bool = False  # all utterances in one row of the LLM


@dataclass(frozen=True)
class LlmInputs:
    """What the LLM reads: T covers prompt, speech and transcript.

    Without labels the padding is on the left, as generation needs it, else on the right. Packed,
    all utterances are in one row: B is 1, ``position_ids`` restart with each utterance, and there
    is no attention mask. A label is known by its position, never by the padding id, which for some
    LLMs is the end of sequence itself.
    """

    embeddings: torch.Tensor  # (B, T, H)
    labels: torch.Tensor  # (B, T): the token that follows each position, or IGNORED
    attention_mask: torch.Tensor | None  # (B, T): 1 for a token, 0 for padding
    position_ids: torch.Tensor | None = None  # (1, T), packed only

    @property
    def num_tokens(self) -> int:
        """Tokens that the LLM reads, without padding."""
        mask = self.attention_mask
        return self.embeddings.shape[1] if mask is None else int(mask.sum())

    @property
    def num_padding(self) -> int:
        """Positions that are padding."""
        return self.embeddings.shape[0] * self.embeddings.shape[1] - self.num_tokens


@dataclass(frozen=True)
class SpeechOutput:
    """What the model makes of a batch; ``loss`` and ``matching_loss`` carry the graph."""

    loss: torch.Tensor  # (): cross-entropy, summed over target tokens
    matching_loss: torch.Tensor  # (): matching loss, summed over text tokens; 0 where it is off
    token_log_probs: torch.Tensor  # (N,): natural log-probability of each target token
    row_index: torch.Tensor  # (N,): the row of the LLM's batch that a target token is in
    num_targets: int  # N
    num_correct: int  # target tokens that the LLM ranks first
    num_tokens: int  # tokens of the LLM's sequences
    num_padding: int  # positions beside them


def collate(
    builder: PromptBuilder,
    targets: Sequence[Sequence[int]] | None,
    frames: Sequence[torch.Tensor] = (),
    *,
    speech: Sequence[torch.Tensor] | None = None,
    input_tokens: Sequence[Sequence[int]] | None = None,
    template_index: Sequence[int] | None = None,
    is_packed: bool = False,
) -> SpeechBatch:
    """The batch of some utterances: their ``frames``, each (frames, encoder width), or their
    projected ``speech``, each (tokens, H).

    ``targets`` are the token ids of the transcripts without the end of sequence; None asks for the
    prompt alone. ``input_tokens``: the tokens that the LLM reads in place of the targets, as many
    of each. ``template_index``: which of the builder's templates surrounds each utterance, the
    first where not given.
    """
    labels = None
    if targets is not None:
        labels = tuple(_ids([*target, builder.eos]) for target in targets)
    if input_tokens is not None:
        input_ids = tuple(_ids([*tokens, builder.eos]) for tokens in input_tokens)
    else:
        count = len(frames if speech is None else speech)
        input_ids = labels if labels is not None else tuple(_ids([]) for _ in range(count))
    return SpeechBatch(
        frames=tuple(frames),
        speech=None if speech is None else tuple(speech),
        prompts=tuple((_ids(before), _ids(after)) for before, after in builder.templates),
        prompt_index=tuple(template_index or [0] * len(input_ids)),
        input_ids=input_ids,
        labels=labels,
        is_packed=is_packed,
    )


def interleave(
    embedding: nn.Module, batch: SpeechBatch, speech: Sequence[torch.Tensor]
) -> LlmInputs:
    """The LLM's inputs: ``speech``, each (tokens, H), at its place in the embedded prompt, and the
    embedded transcript after it.
    """
    device = speech[0].device
    prompts = [
        (embedding(before.to(device)), embedding(after.to(device)))  # each (prompt tokens, H)
        for before, after in batch.prompts
    ]
    rows = []
    for prompt_index, vectors, ids in zip(batch.prompt_index, speech, batch.input_ids, strict=True):
        before, after = prompts[prompt_index]
        transcript = (before, vectors.to(before.dtype), after, embedding(ids.to(device)))
        rows.append(torch.cat(transcript))  # (T of this utterance, H)
    labels = _next_tokens(batch, [len(row) for row in rows])  # B of (T of this utterance,)
    if batch.is_packed:
        positions = torch.cat([torch.arange(len(row), device=device) for row in rows])[None]
        packed_labels = torch.cat(labels)[None].to(device)  # (1, T)
        return LlmInputs(torch.cat(rows)[None], packed_labels, None, positions)
    is_left = batch.labels is None
    return LlmInputs(
        torch.stack(_padded(rows, is_left)),  # (B, T, H)
        torch.stack(_padded(labels, is_left, IGNORED)).to(device),  # (B, T)
        _attention_mask([len(row) for row in rows], is_left, device),  # (B, T)
    )


def _next_tokens(batch: SpeechBatch, lengths: Sequence[int]) -> list[torch.Tensor]:
    """The labels of each utterance, (length,): the token at position t + 1 is the label of t."""
    labels = [torch.full((length,), IGNORED) for length in lengths]
    for row, target in zip(labels, batch.labels or (), strict=False):
        row[-len(target) - 1 : -1] = target
    return labels


def _ids(ids: Sequence[int]) -> torch.Tensor:
    return torch.tensor(list(ids), dtype=torch.long)


def _padded(rows: Sequence[torch.Tensor], is_left: bool, value: float = 0.0) -> list[torch.Tensor]:
    """The rows, (length, …), filled with ``value`` to the length of the longest."""
    longest = max(len(row) for row in rows)
    padded = []
    for row in rows:
        missing = longest - len(row)
        sides = (missing, 0) if is_left else (0, missing)
        padded.append(nn.functional.pad(row, (*[0, 0] * (row.dim() - 1), *sides), value=value))
    return padded


def _attention_mask(lengths: Sequence[int], is_left: bool, device: torch.device) -> torch.Tensor:
    """(B, T): 1 for the tokens of rows of ``lengths``, 0 for their padding."""
    longest, counts = max(lengths), torch.tensor(lengths, device=device)[:, None]  # (B, 1)
    columns = torch.arange(longest, device=device)[None]  # (1, T)
    mask = columns >= longest - counts if is_left else columns < counts
    return mask.long()
