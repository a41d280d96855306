"""The bridge of CTC embeddings: a CTC head reads the frames as tokens of the LLM, and each run of
frames with one best token becomes the mean of the LLM's own input embeddings under the head's
probabilities; blanks are dropped.

In: frames that the head of the stage ``ctc`` was trained on. Out: about as many vectors as the
speech has tokens, in the space that the LLM reads text in. An LLM that has not been tuned already
sees something like the transcript, and another encoder with a head over the same tokens can take
the place of the first. After LegoSLM (Ma et al. 2025, arXiv 2505.11352), where the units are the
LLM's whole vocabulary. Cost: the head, and a product with the table of units for each vector.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
from torch import nn

from components.config.errors import InputError
from components.config.projector import CtcEmbeddings
from components.model.bridges.bridge import Bridge, pad_frames
from components.model.encoders.trained_head import FrameClassifier, read_head
from components.model.folders.description import TOKENS, TRAINED_HEAD
from components.runtime.json_files import read_json

NO_TOKEN = 2  # the blank and the unknown unit, which come first
BLANK = 0


def read_token_head(folder: Path) -> tuple[FrameClassifier, list[int]]:
    """The head of a folder of the stage ``ctc`` and the LLM's ids of its units from the third one
    on; raises InputError where it has none over tokens.
    """
    for name in (TRAINED_HEAD, TOKENS):
        if not (folder / name).is_file():
            raise InputError(
                f"{folder / name} is missing: the projector reads frames by a CTC head over tokens "
                "of the LLM.",
                subject=str(folder / name),
                hint="Run 'dvc repro ctc'.",
            )
    return read_head(folder), read_json(folder / TOKENS, list[int])


class CtcEmbeddingsBridge(Bridge):
    """The head → softmax → runs of one best unit → the mean embedding of each run.

    ``read_embeddings`` has to give it the LLM's table before ``forward``; ``set_head`` or a saved
    bridge gives it a trained head. The head is part of the bridge: it is saved with it, and a stage
    that tunes the projector tunes it through the LLM's loss. Speech whose best unit is the blank
    throughout gives one vector, of all its frames.
    """

    tokens: torch.Tensor

    def __init__(self, entry: CtcEmbeddings, encoder_width: int, llm_width: int) -> None:
        super().__init__()
        self.stride = float(entry.stride)  # the least: the number of runs depends on the speech
        self.temperature = entry.temperature
        self._writes_units = entry.segmentation == "head"
        self.head = FrameClassifier(
            encoder_width,
            entry.hidden,
            entry.units,
            entry.blocks,
            entry.stride,
            is_conditioned=entry.is_conditioned,
        )
        # The LLM's ids of the units from the third one on; the first ones before there is a head.
        self.register_buffer("tokens", torch.arange(entry.units - NO_TOKEN))
        self._embedding: list[nn.Embedding] = []  # in a list: it is the LLM's, not the bridge's

    def read_embeddings(self, embedding: nn.Embedding) -> None:
        """Takes the LLM's table of input embeddings, (vocabulary, H)."""
        self._embedding = [embedding]

    def set_head(self, head: FrameClassifier, tokens: Sequence[int]) -> None:
        """Takes the weights of a head, and the LLM's ids of its units from the third one on; raises
        InputError where its sizes are not those of the entry.
        """
        own_shapes = {name: tensor.shape for name, tensor in self.head.state_dict().items()}
        head_shapes = {name: tensor.shape for name, tensor in head.state_dict().items()}
        if own_shapes != head_shapes or len(tokens) != len(self.tokens):
            raise InputError(
                f"The CTC head has {len(tokens) + NO_TOKEN} units and the bridge "
                f"{len(self.tokens) + NO_TOKEN}, or their layers have other sizes.",
                subject="projector",
                hint="Run 'dvc repro ctc', or set 'units' of the entry to what the transcripts "
                "give.",
            )
        self.head.load_state_dict(head.state_dict())
        self.tokens.copy_(torch.tensor(tokens))

    def list_target_tokens(self) -> list[int]:
        """The tokens of the units, where the entry has transcripts in them."""
        return self.tokens.tolist() if self._writes_units else []

    def count_tokens(self, frames: int) -> int:
        """Vectors of so many frames at most: one for each step of the head."""
        return self.head.count_steps(frames)

    def forward(self, frames: Sequence[torch.Tensor]) -> list[torch.Tensor]:
        """Each (frames, encoder width) → (runs, H)."""
        batch, is_frame = pad_frames(frames)
        scores = self.head(batch, is_frame) / self.temperature  # (B, steps, units)
        weights = [
            average_runs(utterance[: self.head.count_steps(len(own))].softmax(-1))
            for utterance, own in zip(scores, frames, strict=True)
        ]  # each (runs, units - 2)
        table = self._embedding[0](self.tokens)  # (units - 2, H)
        vectors = torch.cat(weights).to(table.dtype) @ table  # (all runs, H)
        return list(torch.split(vectors.to(scores.dtype), [len(runs) for runs in weights]))


def average_runs(probabilities: torch.Tensor) -> torch.Tensor:
    """Probabilities of the units at each step, (steps, units) → those of the tokens alone for each
    run of one best unit that is not blank, (runs, units - 2), each row with the sum 1. One row, of
    all steps, where there is no run.
    """
    best = probabilities.argmax(-1)  # (steps,)
    units, lengths = torch.unique_consecutive(best, return_counts=True)
    runs = torch.split(probabilities, lengths.tolist())
    means = [run.mean(0) for unit, run in zip(units.tolist(), runs, strict=True) if unit != BLANK]
    rows = torch.stack(means or [probabilities.mean(0)])[:, NO_TOKEN:]  # (runs, units - 2)
    return rows / rows.sum(-1, keepdim=True).clamp(min=torch.finfo(rows.dtype).tiny)
