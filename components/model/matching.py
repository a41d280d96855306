"""The matching loss of Pham et al. (arXiv 2406.17272): projected speech is drawn towards the text's
embeddings.

Cross-attention with the text embeddings as query and the projected speech as key and value brings
the speech to the text's length; mean squared error and cosine distance compare the two. The text
side is detached. The paper leaves the projections open: here query and key have one linear map
each, and the value is the projected speech itself, so that the loss acts on what the LLM will read.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import nn

# width of query and key: at the width of a 7B LLM the two would outweigh the projector, and are
# gone after training
MOST = 256


class Matching(nn.Module):
    """Cross-attention of width ``width`` between text embeddings and projected speech."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.query = nn.Linear(width, min(width, MOST), bias=False)
        self.key = nn.Linear(width, min(width, MOST), bias=False)

    def attend(self, text: torch.Tensor, speech: torch.Tensor) -> torch.Tensor:
        """(tokens, width) and (frames, width) → the speech at the text's length,
        (tokens, width).
        """
        # Embeddings are small at first; without the norm the attention would start flat and stay
        # so.
        query = self.query(nn.functional.layer_norm(text, text.shape[-1:]))
        key = self.key(nn.functional.layer_norm(speech, speech.shape[-1:]))
        return torch.softmax(query @ key.T / math.sqrt(query.shape[-1]), -1) @ speech

    def forward(
        self,
        text: Sequence[torch.Tensor],
        speech: Sequence[torch.Tensor],
        mse: float,
        cosine: float,
        scale: float,
    ) -> torch.Tensor:
        """Sum over text tokens of ``mse`` · mean squared error / ``scale`` + ``cosine`` · (1 -
        cosine); 0 where no text is.

        ``scale`` is the mean square of the LLM's embeddings (``mean_square``): those of one LLM are
        a hundred times those of another.
        """
        pairs = [
            (each.detach(), self.attend(each.detach(), heard))
            for each, heard in zip(text, speech, strict=True)
            if len(each)
        ]
        if not pairs:
            return speech[0].sum() * 0.0
        wanted, got = (torch.cat(side).float() for side in zip(*pairs, strict=True))
        distance = (got - wanted).pow(2).mean(-1) / scale
        return (
            mse * distance + cosine * (1 - nn.functional.cosine_similarity(got, wanted, dim=-1))
        ).sum()


def mean_square(embeddings: torch.Tensor) -> float:
    """Mean square of a table of embeddings (tokens, width); of the whole table, so that no batch
    weighs in.
    """
    return (
        float(torch.linalg.vector_norm(embeddings.detach(), dtype=torch.float32)) ** 2
        / embeddings.numel()
    )
