"""The matching loss of Pham et al. (arXiv 2406.17272): projected speech is drawn towards the
embeddings of its text.

Cross-attention with the text embeddings as query and the projected speech as key and value brings
the speech to the length of the text; mean squared error and cosine distance compare the two. The
text side is detached. The paper leaves the projections open: here query and key have one linear map
each, and the value is the projected speech itself, so that the loss acts on what the LLM reads.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import nn

# Width of query and key. At the width of a 7B LLM the two would have more parameters than the
# projector, and they are not used after training.
MAX_WIDTH = 256


@dataclass(frozen=True)
class MatchingWeights:
    """Weights within the matching loss."""

    mse: float  # of the mean squared error
    cosine: float  # of 1 - cosine


class MatchingHead(nn.Module):
    """Cross-attention between text embeddings and projected speech, both of ``width``."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.query = nn.Linear(width, min(width, MAX_WIDTH), bias=False)
        self.key = nn.Linear(width, min(width, MAX_WIDTH), bias=False)

    def attend(self, text: torch.Tensor, speech: torch.Tensor) -> torch.Tensor:
        """Text (tokens, H) and speech (frames, H) → the speech at the length of the text, (tokens,
        H).
        """
        # Embeddings are small at first; without the norm the attention would start flat and not
        # leave that state.
        query = self.query(nn.functional.layer_norm(text, text.shape[-1:]))  # (tokens, width)
        key = self.key(nn.functional.layer_norm(speech, speech.shape[-1:]))  # (frames, width)
        scores = query @ key.T / math.sqrt(query.shape[-1])  # (tokens, frames)
        return torch.softmax(scores, -1) @ speech  # (tokens, H)

    def forward(
        self,
        texts: Sequence[torch.Tensor],
        speech: Sequence[torch.Tensor],
        weights: MatchingWeights,
        scale: float,
    ) -> torch.Tensor:
        """Sum over text tokens of ``mse`` · mean squared error / ``scale`` + ``cosine`` · (1 -
        cosine), shape (); 0 where no utterance has text.

        ``texts`` are the text embeddings of each utterance, (tokens, H). ``scale`` is the mean
        square of the LLM's embeddings (``mean_square``): those of one LLM are a hundred times
        those of another.
        """
        pairs = [
            (text.detach(), self.attend(text.detach(), vectors))
            for text, vectors in zip(texts, speech, strict=True)
            if len(text)
        ]
        if not pairs:
            return speech[0].sum() * 0.0
        target, attended = (torch.cat(side).float() for side in zip(*pairs, strict=True))  # (N, H)
        squared_error = (attended - target).pow(2).mean(-1) / scale  # (N,)
        distance = 1 - nn.functional.cosine_similarity(attended, target, dim=-1)  # (N,)
        return (weights.mse * squared_error + weights.cosine * distance).sum()


def mean_square(embeddings: torch.Tensor) -> float:
    """Mean square of a table of embeddings, (tokens, H): of the whole table, so that it does not
    depend on the batch.
    """
    norm = float(torch.linalg.vector_norm(embeddings.detach(), dtype=torch.float32))
    return norm**2 / embeddings.numel()
