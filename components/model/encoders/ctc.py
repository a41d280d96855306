"""The CTC loss (Graves et al. 2006) of frames against units: for an encoder trained here, and
beside the LLM's loss.

In: scores of a CTC head and unit ids. Out: one sum over utterances. Cost: small beside the
encoder's forward pass.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch


def frames_needed(target: Sequence[int]) -> int:
    """Frames that a path of ``target`` takes at least: one a unit, and a blank between two equal
    ones.
    """
    return len(target) + sum(
        one == other for one, other in zip(target[1:], target[:-1], strict=True)
    )


def loss_by_frames(
    logits: torch.Tensor, frames: torch.Tensor, targets: Sequence[torch.Tensor], blank: int = 0
) -> torch.Tensor:
    """Sum over utterances of CTC loss / frames: divided by target length, the empty targets of
    non-speech would outweigh all else and hold the model at blanks.

    ``logits`` has the shape (utterances, time, units), ``frames`` the real length of each; an
    utterance without a path (``needed``) counts zero.
    """
    scores = logits.float().log_softmax(-1).transpose(0, 1)
    lengths = torch.tensor([len(target) for target in targets])
    padded = torch.nn.utils.rnn.pad_sequence(list(targets), batch_first=True)
    losses = torch.nn.functional.ctc_loss(
        scores,
        padded.to(scores.device),
        frames,
        lengths,
        blank=blank,
        reduction="none",
        zero_infinity=True,
    )
    return (losses / frames.to(losses.device)).sum()


class CtcHead:
    """The CTC head of a speech encoder and its units; the encoder must have one."""

    def __init__(self, encoder: Any) -> None:
        self.encoder, self.tokenizer = encoder, encoder.tokenizer
        self.blank = int(encoder.model.config.pad_token_id)
        letters = "".join(unit for unit in self.tokenizer.get_vocab() if not unit.startswith("<"))
        # Many heads know one case alone; transcripts are given in it.
        upper, lower = any(map(str.isupper, letters)), any(map(str.islower, letters))
        self.cased = str.upper if upper and not lower else str.lower if lower and not upper else str

    def encode(self, text: str) -> list[int] | None:
        """Unit ids of a transcript, in the case that the units are in; None where it has a unit
        that the head lacks.
        """
        ids = list(self.tokenizer(self.cased(text)).input_ids) if text else []
        return None if self.tokenizer.unk_token_id in ids else ids

    def encode_known(self, text: str) -> list[int]:
        """Unit ids of a text, those left out that the head lacks."""
        ids = self.tokenizer(self.cased(text)).input_ids if text else []
        return [unit for unit in ids if unit not in (self.tokenizer.unk_token_id, self.blank)]

    @torch.inference_mode()
    def log_probabilities(self, frames: Sequence[torch.Tensor]) -> list[torch.Tensor]:
        """Log-probabilities of the units at each last-layer frame, shape (frames, units), fp32, of
        each utterance by itself.
        """
        encoder = self.encoder
        return [
            encoder.head(each.to(encoder.device, encoder.dtype)[None])[0].float().log_softmax(-1)
            for each in frames
        ]

    def loss(
        self, frames: Sequence[torch.Tensor], targets: Sequence[Sequence[int]]
    ) -> torch.Tensor:
        """``loss_by_frames`` of the last-layer frames of some utterances, each (frames, width)."""
        padded = torch.nn.utils.rnn.pad_sequence(list(frames), batch_first=True).to(
            self.encoder.dtype
        )
        lengths = torch.tensor([len(each) for each in frames])
        ids = [torch.tensor(target, dtype=torch.long) for target in targets]
        return loss_by_frames(self.encoder.head(padded), lengths, ids, self.blank)
