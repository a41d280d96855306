"""What the joined model reads and what it returns: the batch, the LLM's inputs, the output.

``collate`` makes the one ``SpeechBatch`` of training (with labels), search (the prompt alone) and
scoring (labels, and speech that is projected already), ``collate_texts`` that of texts without
speech; ``interleave`` puts the projected speech
between the embeddings of the prompt. In shapes, B is the number of utterances, T the length of the
LLM's sequences, H the width of the LLM, N the number of target tokens. Costs nothing beside the
LLM.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate

import torch
from torch import nn

from components.model.llms.prompt import PromptBuilder


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
class TargetTokens:
    """The tokens that the LLM has to predict, row by row: each transcript and its end of sequence.

    They are located by lengths, on the CPU: a search in tensors on a GPU would wait for it.
    """

    ids: torch.Tensor  # (N,)
    rows: torch.Tensor  # (N,): the row of the LLM's batch
    columns: torch.Tensor  # (N,): the position that predicts the token, the one before its own


@dataclass(frozen=True)
class LlmInputs:
    """What the LLM reads: T covers prompt, speech and transcript.

    Without targets the padding is on the left, as generation needs it, else on the right. Packed,
    all utterances are in one row: B is 1, ``position_ids`` restart with each utterance, and there
    is no attention mask. A target is known by its position, never by the padding id, which for some
    LLMs is the end of sequence itself.
    """

    embeddings: torch.Tensor  # (B, T, H)
    targets: TargetTokens
    num_tokens: int  # that the LLM reads, without padding
    attention_mask: torch.Tensor | None  # (B, T): 1 for a token, 0 for padding
    position_ids: torch.Tensor | None = None  # (1, T), packed only

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
    is_correct: torch.Tensor  # (N,): whether the LLM ranks a target token first
    num_tokens: int  # tokens of the LLM's sequences
    num_padding: int  # positions beside them

    @property
    def num_targets(self) -> int:
        """N."""
        return len(self.is_correct)

    @property
    def num_correct(self) -> int:
        """Target tokens that the LLM ranks first; waits for the device."""
        return int(self.is_correct.sum())


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


def collate_texts(
    builder: PromptBuilder, texts: Sequence[Sequence[int]], nothing: torch.Tensor
) -> SpeechBatch:
    """The batch of some texts alone, as a language model reads them: every token of them is a
    target, and no end of sequence. ``nothing`` is the speech of each, (0, H).
    """
    ids = tuple(_ids(text) for text in texts)
    return SpeechBatch(
        frames=(),
        speech=(nothing,) * len(ids),
        prompts=((_ids([builder.text_start]), _ids([])),),
        prompt_index=(0,) * len(ids),
        input_ids=ids,
        labels=ids,
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
    lengths = [len(row) for row in rows]
    targets = _locate_targets(batch, lengths, device)
    if batch.is_packed:
        positions = torch.cat([torch.arange(length, device=device) for length in lengths])[None]
        return LlmInputs(torch.cat(rows)[None], targets, sum(lengths), None, positions)
    is_left = batch.labels is None
    mask = _attention_mask(lengths, is_left, device)  # (B, T)
    return LlmInputs(torch.stack(_padded(rows, is_left)), targets, sum(lengths), mask)


def _locate_targets(
    batch: SpeechBatch, lengths: Sequence[int], device: torch.device
) -> TargetTokens:
    """The targets of utterances of ``lengths`` tokens, each at the end of its utterance."""
    ends = list(accumulate(lengths)) if batch.is_packed else lengths
    ids, rows, columns = [_ids([])], [_ids([])], [_ids([])]
    for index, (labels, end) in enumerate(zip(batch.labels or (), ends, strict=False)):
        ids.append(labels)
        rows.append(torch.full_like(labels, 0 if batch.is_packed else index))
        columns.append(torch.arange(end - len(labels) - 1, end - 1))
    return TargetTokens(*(torch.cat(parts).to(device) for parts in (ids, rows, columns)))


def _ids(ids: Sequence[int]) -> torch.Tensor:
    return torch.tensor(list(ids), dtype=torch.long)


def _padded(rows: Sequence[torch.Tensor], is_left: bool) -> list[torch.Tensor]:
    """The rows, (length, H), filled with zeros to the length of the longest."""
    longest = max(len(row) for row in rows)
    padded = []
    for row in rows:
        missing = longest - len(row)
        padded.append(nn.functional.pad(row, (0, 0, *((missing, 0) if is_left else (0, missing)))))
    return padded


def _attention_mask(lengths: Sequence[int], is_left: bool, device: torch.device) -> torch.Tensor:
    """(B, T): 1 for the tokens of rows of ``lengths``, 0 for their padding."""
    longest, counts = max(lengths), torch.tensor(lengths, device=device)[:, None]  # (B, 1)
    columns = torch.arange(longest, device=device)[None]  # (1, T)
    mask = columns >= longest - counts if is_left else columns < counts
    return mask.long()
