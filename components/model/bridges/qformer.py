"""Bridges of trained queries: frames in windows → a fixed number of vectors per window, by
attention.

In: frames of any length, cut into windows. Out: ``queries`` vectors of the LLM's width for each
window. Q-Formers (Li et al. 2023, arXiv 2301.12597) over short windows as in SALMONN and over the
encoder's whole segments as in Yu et al., and plain cross-attention. Cost: attention of queries ·
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
from components.model.bridges.bridge import Bridge, pad_frames

INIT_STD = 0.02  # standard deviation of new queries, as of BERT's weights


def sinusoids(positions: torch.Tensor, width: int) -> torch.Tensor:
    """Positions (N,) as sines and cosines side by side (Vaswani et al. 2017, arXiv 1706.03762,
    section 3.5): (N, width).
    """
    half = (width + 1) // 2
    rates = torch.exp(torch.arange(half, device=positions.device) * (-math.log(1e4) / half))
    angles = positions[:, None].float() * rates  # (N, half)
    return torch.cat([angles.sin(), angles.cos()], -1)[:, :width]


class QFormer(nn.Module):
    """Layers of self-attention among the queries, cross-attention to the frames and a feed-forward
    network, each followed by its norm, as in BERT; cross-attention in every layer, as in SALMONN.
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
        self, queries: torch.Tensor, frames: torch.Tensor, mask: torch.Tensor
    ) -> torch.Tensor:
        """(windows, queries, width), (windows, frames, encoder width) and the mask (windows,
        frames) → (windows, queries, width).
        """
        output = self.network(
            query_embeds=queries, encoder_hidden_states=frames, encoder_attention_mask=mask
        )
        hidden: torch.Tensor = output.last_hidden_state
        return hidden


class QueryAttention(nn.Module):
    """One multi-head attention of the queries to the frames, and nothing else."""

    def __init__(self, entry: CrossAttention, encoder_width: int) -> None:
        super().__init__()
        self.attention = nn.MultiheadAttention(
            entry.width, entry.heads, entry.dropout, kdim=encoder_width, vdim=encoder_width
        )

    def forward(
        self, queries: torch.Tensor, frames: torch.Tensor, mask: torch.Tensor
    ) -> torch.Tensor:
        """(windows, queries, width), (windows, frames, encoder width) and the mask (windows,
        frames) → (windows, queries, width).
        """
        # The memory layout in which torch multiplies: of other layouts it rounds frozen weights
        # differently from trained ones.
        query = queries.transpose(0, 1).contiguous()  # (queries, windows, width)
        keys = frames.transpose(0, 1).contiguous()  # (frames, windows, encoder width)
        attended: torch.Tensor = self.attention(
            query, keys, keys, key_padding_mask=~mask, need_weights=False
        )[0]
        return attended.transpose(0, 1).contiguous()  # (windows, queries, width)


class QueryBridge(Bridge):
    """Frames, normalised and cut into windows of ``entry.window`` → ``entry.queries`` vectors per
    window by attention → a linear layer.

    Frames after the last full window are a window of their own if they are at least
    ``least_frames``; an utterance always has one window. ``has_positions`` adds the index of its
    window to every frame, as sinusoids: trained positions would stay at their random values for
    indices that no utterance reaches.
    """

    def __init__(
        self,
        entry: Any,
        encoder_width: int,
        llm_width: int,
        attention: type[QFormer] | type[QueryAttention],
        least_frames: int,
        has_positions: bool,
    ) -> None:
        super().__init__()
        self.window: int = entry.window
        self.least_frames, self.has_positions = least_frames, has_positions
        self.stride = entry.window / entry.queries
        self.norm = nn.LayerNorm(encoder_width)
        self.queries = nn.Parameter(INIT_STD * torch.randn(entry.queries, entry.width))
        self.attention = attention(entry, encoder_width)
        self.linear = nn.Linear(entry.width, llm_width)

    @property
    def period(self) -> int:
        """The frames of a window."""
        return self.window

    def count_windows(self, frames: int) -> int:
        """Windows of so many frames."""
        return max(1, (frames + self.window - self.least_frames) // self.window)

    def count_tokens(self, frames: int) -> int:
        """Vectors of so many frames."""
        return self.count_windows(frames) * len(self.queries)

    def forward(self, frames: Sequence[torch.Tensor]) -> list[torch.Tensor]:
        """Each (frames, encoder width) → (windows · queries, H)."""
        counts = [self.count_windows(len(utterance)) for utterance in frames]
        windows = [
            window
            for utterance, count in zip(frames, counts, strict=True)
            for window in torch.split(utterance, self.window)[:count]
        ]
        batch, mask = pad_frames(windows)  # (windows, frames, encoder width)
        keys = self.norm(batch)
        if self.has_positions:
            index = torch.cat([torch.arange(count, device=batch.device) for count in counts])
            keys = keys + sinusoids(index, keys.shape[-1])[:, None]
        queries = self.queries.repeat(len(windows), 1, 1)  # (windows, queries, width)
        vectors: torch.Tensor = self.linear(
            self.attention(queries, keys, mask)
        )  # (windows, queries, H)
        return [utterance.flatten(0, 1) for utterance in torch.split(vectors, counts)]


def build_window_qformer(entry: WindowQFormer, encoder_width: int, llm_width: int) -> QueryBridge:
    """SALMONN's (Tang et al., arXiv 2310.13289): a last window counts from half its length on, and
    30 s at 50 Hz give 88 windows of 17 frames.
    """
    half = (entry.window + 1) // 2
    return QueryBridge(entry, encoder_width, llm_width, QFormer, half, has_positions=False)


def build_segment_qformer(entry: SegmentQFormer, encoder_width: int, llm_width: int) -> QueryBridge:
    """That of Yu et al. (arXiv 2309.13963): one Q-Former for every segment of the encoder's longest
    input.
    """
    return QueryBridge(entry, encoder_width, llm_width, QFormer, 1, has_positions=True)


def build_cross_attention(entry: CrossAttention, encoder_width: int, llm_width: int) -> QueryBridge:
    """Trained queries by one attention, segment by segment (after the comparison of Yu et al.,
    arXiv 2309.13963).
    """
    return QueryBridge(entry, encoder_width, llm_width, QueryAttention, 1, has_positions=True)
