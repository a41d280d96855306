"""Bridges of trained queries: frames in windows → a fixed number of vectors a window, by attention.

In: frames of any length, cut into windows. Out: ``queries`` vectors of the LLM's width for each
window. Q-Formers (Li et al. 2023, arXiv 2301.12597) over short windows as SALMONN has them and over
an encoder's whole segments as Yu et al., and plain cross-attention. Cost: attention of queries ·
frames within a window, so it grows with the audio and not with its square.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import nn
from transformers import Blip2QFormerConfig, Blip2QFormerModel

from components.config.projector import CrossAttention, SegmentQFormer, WindowQFormer
from components.model.bridges.bridge import Bridge

INIT_STD = 0.02  # standard deviation of new queries, as of BERT's weights


def sinusoids(places: torch.Tensor, width: int) -> torch.Tensor:
    """Positions as sines and cosines side by side (Vaswani et al. 2017, arXiv 1706.03762, section
    3.5): (places, width).
    """
    half = (width + 1) // 2
    rates = torch.exp(torch.arange(half, device=places.device) * (-math.log(1e4) / half))
    angles = places[:, None].float() * rates
    return torch.cat([angles.sin(), angles.cos()], -1)[:, :width]


def padded(pieces: Sequence[torch.Tensor]) -> tuple[torch.Tensor, torch.Tensor]:
    """Pieces (frames, width) as one batch (pieces, longest, width), and where a frame is one:
    (pieces, longest), true or false.
    """
    batch = nn.utils.rnn.pad_sequence(list(pieces), batch_first=True)
    lengths = torch.tensor([len(piece) for piece in pieces], device=batch.device)
    return batch, torch.arange(batch.shape[1], device=batch.device) < lengths[:, None]


class QFormer(nn.Module):
    """Layers of self-attention among the queries, cross-attention to the frames and a feed-forward
    network, each with the norm behind it, as in BERT; cross-attention in every layer, as in
    SALMONN.
    """

    def __init__(self, entry: WindowQFormer | SegmentQFormer, encoder_width: int) -> None:
        super().__init__()
        config = Blip2QFormerConfig(
            hidden_size=entry.width,
            num_hidden_layers=entry.layers,
            num_attention_heads=entry.heads,
            intermediate_size=entry.hidden,
            encoder_hidden_size=encoder_width,
            cross_attention_frequency=1,
            hidden_dropout_prob=entry.dropout,
            attention_probs_dropout_prob=entry.dropout,
        )
        self.network = Blip2QFormerModel(config)

    def forward(
        self, queries: torch.Tensor, frames: torch.Tensor, there: torch.Tensor
    ) -> torch.Tensor:
        """(windows, queries, width) and (windows, frames, encoder width) → (windows, queries,
        width).
        """
        return self.network(
            query_embeds=queries, encoder_hidden_states=frames, encoder_attention_mask=there
        ).last_hidden_state


class Attention(nn.Module):
    """One multi-head attention of the queries to the frames, and nothing else."""

    def __init__(self, entry: CrossAttention, encoder_width: int) -> None:
        super().__init__()
        self.attention = nn.MultiheadAttention(
            entry.width, entry.heads, entry.dropout, kdim=encoder_width, vdim=encoder_width
        )

    def forward(
        self, queries: torch.Tensor, frames: torch.Tensor, there: torch.Tensor
    ) -> torch.Tensor:
        """(windows, queries, width) and (windows, frames, encoder width) → (windows, queries,
        width).
        """
        # In memory as torch multiplies it: of other layouts it rounds frozen weights in another way
        # than trained ones.
        query, read = (each.transpose(0, 1).contiguous() for each in (queries, frames))
        return (
            self.attention(query, read, read, key_padding_mask=~there, need_weights=False)[0]
            .transpose(0, 1)
            .contiguous()
        )


class Queries(Bridge):
    """Frames, normalised and cut into windows of ``entry.window`` → ``entry.queries`` trained
    vectors that each window answers → a linear layer of the LLM's width.

    A last part is a window of its own from ``rest`` frames on (the only one always is); ``placed``
    adds the number of its window to every frame, as sinusoids: trained positions of windows that no
    utterance reaches would stay what they were drawn as.
    """

    def __init__(
        self,
        entry: Any,
        encoder_width: int,
        llm_width: int,
        attention: type[QFormer] | type[Attention],
        rest: int,
        placed: bool,
    ) -> None:
        super().__init__()
        self.window, self.rest, self.placed = entry.window, rest, placed
        self.stride = entry.window / entry.queries
        self.norm = nn.LayerNorm(encoder_width)
        self.queries = nn.Parameter(INIT_STD * torch.randn(entry.queries, entry.width))
        self.attention = attention(entry, encoder_width)
        self.linear = nn.Linear(entry.width, llm_width)

    def windows_of(self, frames: int) -> int:
        """Windows of so many frames."""
        return max(1, (frames + self.window - self.rest) // self.window)

    def tokens_of(self, frames: int) -> int:
        """Vectors for so many frames."""
        return self.windows_of(frames) * len(self.queries)

    def forward(self, frames: Sequence[torch.Tensor]) -> list[torch.Tensor]:
        """Each (frames, encoder width) → (windows · queries, LLM width)."""
        counts = [self.windows_of(len(each)) for each in frames]
        pieces = [
            piece
            for each, count in zip(frames, counts, strict=True)
            for piece in each.split(self.window)[:count]
        ]
        batch, there = padded(pieces)
        heard = self.norm(batch)
        if self.placed:
            numbers = torch.cat([torch.arange(count, device=batch.device) for count in counts])
            heard = heard + sinusoids(numbers, heard.shape[-1])[:, None]
        answers = self.linear(self.attention(self.queries.repeat(len(pieces), 1, 1), heard, there))
        return [each.flatten(0, 1) for each in answers.split(counts)]


def window_qformer(entry: WindowQFormer, encoder_width: int, llm_width: int) -> Queries:
    """SALMONN's (Tang et al., arXiv 2310.13289): a last part from half a window on is kept, and 30
    s at 50 Hz give 88 windows of 17 frames.
    """
    return Queries(entry, encoder_width, llm_width, QFormer, (entry.window + 1) // 2, placed=False)


def segment_qformer(entry: SegmentQFormer, encoder_width: int, llm_width: int) -> Queries:
    """That of Yu et al. (arXiv 2309.13963): every segment of the encoder's longest input by one and
    the same Q-Former.
    """
    return Queries(entry, encoder_width, llm_width, QFormer, 1, placed=True)


def cross_attention(entry: CrossAttention, encoder_width: int, llm_width: int) -> Queries:
    """Trained queries by one attention, segment by segment (after the comparison of Yu et al.,
    arXiv 2309.13963).
    """
    return Queries(entry, encoder_width, llm_width, Attention, 1, placed=True)
