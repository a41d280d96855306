"""The bridge that works inside the LLM: blocks of gated cross-attention before some of its layers.

In: frames, stacked and projected to the LLM's width. They are no part of the LLM's sequence: the
blocks attend to them at every position of the text. After Flamingo (Alayrac et al. 2022, arXiv
2204.14198, section 3.1.2), whose blocks Li et al. (arXiv 2306.16007) put into LLaMA for speech
recognition. Both gates start at 0, so a new bridge leaves the LLM as it is. Cost: a block is
about 4 · H · width + 2 · H · hidden weights, and they run for every token of the text.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any, cast

import torch
from torch import nn
from torch.nn.functional import dropout, scaled_dot_product_attention
from torch.utils.checkpoint import checkpoint

from components.config.projector import GatedCrossAttention
from components.model.bridges.bridge import WindowedBridge, pad_frames, stack_frames


@dataclass(frozen=True)
class SpeechMemory:
    """What a block attends to, of B utterances of at most S tokens."""

    keys: torch.Tensor  # (B, heads, S, width / heads)
    values: torch.Tensor  # (B, heads, S, width / heads)
    mask: torch.Tensor  # (B, 1, 1, S): True for a token, False for padding


class GatedBlock(nn.Module):
    """x + tanh(gate) · attention(norm(x), speech), then the same with a feed-forward network.

    The feed-forward network has squared ReLU, as Flamingo's. Linear layers have no biases.
    """

    def __init__(self, entry: GatedCrossAttention, llm_width: int) -> None:
        super().__init__()
        self.heads, self.dropout = entry.heads, entry.dropout
        self.attention_norm = nn.LayerNorm(llm_width)
        self.query = nn.Linear(llm_width, entry.width, bias=False)
        self.key = nn.Linear(llm_width, entry.width, bias=False)
        self.value = nn.Linear(llm_width, entry.width, bias=False)
        self.output = nn.Linear(entry.width, llm_width, bias=False)
        self.attention_gate = nn.Parameter(torch.zeros(1))
        self.feed_forward_norm = nn.LayerNorm(llm_width)
        self.linear1 = nn.Linear(llm_width, entry.hidden, bias=False)
        self.linear2 = nn.Linear(entry.hidden, llm_width, bias=False)
        self.feed_forward_gate = nn.Parameter(torch.zeros(1))

    def read_speech(self, vectors: torch.Tensor, mask: torch.Tensor) -> SpeechMemory:
        """(B, S, H) and the mask (B, S) → what ``forward`` attends to."""
        keys, values = self._split_heads(self.key(vectors)), self._split_heads(self.value(vectors))
        return SpeechMemory(keys, values, mask[:, None, None])

    def forward(self, hidden: torch.Tensor, speech: SpeechMemory) -> torch.Tensor:
        """Hidden states (R, T, H) → (R, T, H). R is B, or a multiple of it: beams of one utterance
        are adjacent rows. Without any token of speech the feed-forward part alone runs.
        """
        dtype = self.attention_norm.weight.dtype  # the LLM may be in half precision
        if speech.keys.shape[2]:
            attended = self._attend(self.attention_norm(hidden.to(dtype)), speech)
            hidden = hidden + (self.attention_gate.tanh() * attended).to(hidden.dtype)
        inner = self.linear1(self.feed_forward_norm(hidden.to(dtype))).relu().square()
        update = self.linear2(dropout(inner, self.dropout, self.training))  # (R, T, H)
        output: torch.Tensor = hidden + (self.feed_forward_gate.tanh() * update).to(hidden.dtype)
        return output

    def _attend(self, hidden: torch.Tensor, speech: SpeechMemory) -> torch.Tensor:
        """(R, T, H) → (R, T, H): all positions of all beams are queries to their utterance."""
        num_utterances = len(speech.keys)
        queries = self.query(hidden).reshape(num_utterances, -1, self.query.out_features)
        attended = scaled_dot_product_attention(
            self._split_heads(queries),
            speech.keys,
            speech.values,
            speech.mask,
            self.dropout if self.training else 0.0,
        )  # (B, heads, R / B · T, width / heads)
        joined = attended.transpose(1, 2).flatten(2)  # (B, R / B · T, width)
        vectors: torch.Tensor = self.output(joined).reshape(hidden.shape)
        return vectors

    def _split_heads(self, vectors: torch.Tensor) -> torch.Tensor:
        """(B, tokens, width) → (B, heads, tokens, width / heads)."""
        return vectors.view(*vectors.shape[:2], self.heads, -1).transpose(1, 2)


class GatedCrossAttentionBridge(WindowedBridge):
    """Stacked frames → linear → the blocks in the LLM, once ``insert_into`` has connected them."""

    is_in_prompt = False

    def __init__(self, entry: GatedCrossAttention, encoder_width: int, llm_width: int) -> None:
        super().__init__(entry.stack, entry.stack)
        self.entry = entry
        self.linear = nn.Linear(entry.stack * encoder_width, llm_width)
        self.blocks = nn.ModuleList(GatedBlock(entry, llm_width) for _ in range(entry.layers))
        self._speech: list[SpeechMemory] = []  # of each block; empty: the LLM runs by itself

    def project(self, windows: torch.Tensor) -> torch.Tensor:
        """(windows, encoder width, stack) → (windows, H)."""
        vectors: torch.Tensor = self.linear(stack_frames(windows))
        return vectors

    def insert_into(self, layers: nn.ModuleList) -> None:
        """Runs each block before its layer of the LLM; raises InputError where there are too few
        layers.
        """
        for index, layer_index in enumerate(self.entry.layer_indices(len(layers))):
            hook = partial(self._run_block, index)
            layers[layer_index].register_forward_pre_hook(hook, with_kwargs=True)

    @contextmanager
    def attend(self, speech: Sequence[torch.Tensor]) -> Iterator[None]:
        """While it is open, rows of the LLM attend to ``speech``, each (tokens, H); keys and values
        are computed once.
        """
        vectors, mask = pad_frames(speech)  # (B, S, H), (B, S)
        blocks = (cast(GatedBlock, block) for block in self.blocks)
        self._speech = [block.read_speech(vectors, mask) for block in blocks]
        try:
            yield
        finally:
            self._speech = []

    def blocks_in_llm(self) -> nn.ModuleList:
        """The blocks."""
        return self.blocks

    def _run_block(
        self, index: int, layer: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> tuple[tuple[Any, ...], dict[str, Any]] | None:
        """The arguments of a layer of the LLM with the block's hidden states; None, which changes
        nothing, where there is no speech.
        """
        if not self._speech:
            return None
        block, speech = self.blocks[index], self._speech[index]
        hidden = args[0] if args else kwargs["hidden_states"]  # (R, T, H)
        if layer.training and getattr(layer, "gradient_checkpointing", False):
            # transformers recomputes the layer's forward, not its hooks. Speech is an argument, so
            # that the backward pass, after ``attend`` has ended, computes with the same.
            hidden = checkpoint(block, hidden, speech, use_reentrant=False)
        else:
            hidden = block(hidden, speech)
        if args:
            return (hidden, *args[1:]), kwargs
        return args, {**kwargs, "hidden_states": hidden}
