"""The CTC loss (Graves et al. 2006) of frames against units: for an encoder trained here, and
beside the LLM's loss.

In: scores of a CTC head and unit ids. Out: one sum over utterances. Cost: small beside the
encoder's forward pass.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any, Protocol

import torch


def count_min_frames(target: Sequence[int]) -> int:
    """Frames that a path of ``target`` has at least: one per unit, and a blank between two equal
    ones.
    """
    return len(target) + sum(
        unit == previous for unit, previous in zip(target[1:], target[:-1], strict=True)
    )


def sum_loss_per_frame(
    logits: torch.Tensor, num_frames: torch.Tensor, targets: Sequence[torch.Tensor], blank: int = 0
) -> torch.Tensor:
    """Sum over utterances of CTC loss / frames, shape (). Divided by target length instead, the
    empty targets of non-speech would outweigh all others and the model would give blanks only.

    ``logits`` are (B, T, units), ``num_frames`` (B,) the real lengths, ``targets`` B of (units,);
    an utterance without a path (``count_min_frames``) counts zero.
    """
    log_probs = logits.float().log_softmax(-1).transpose(0, 1)  # (T, B, units)
    target_lengths = torch.tensor([len(target) for target in targets])  # (B,)
    padded_targets = torch.nn.utils.rnn.pad_sequence(list(targets), batch_first=True)
    losses = torch.nn.functional.ctc_loss(
        log_probs,
        padded_targets.to(log_probs.device),
        num_frames,
        target_lengths,
        blank=blank,
        reduction="none",
        zero_infinity=True,
    )  # (B,)
    return (losses / num_frames.to(losses.device)).sum()


class HeadSource(Protocol):
    """What has a CTC head: a ``SpeechEncoder``, or a ``TrainedHead``."""

    device: torch.device
    dtype: torch.dtype

    @property
    def head(self) -> Any:
        """Frames, (B, T, width) → scores of units, (B, T // stride, units)."""

    @property
    def tokenizer(self) -> Any:
        """The units."""

    @property
    def blank(self) -> int:
        """Id of the blank unit."""

    @property
    def stride(self) -> int:
        """Frames for each row of scores."""


class CtcHead:
    """The CTC head of a ``SpeechEncoder`` that has one, or a ``TrainedHead``, and its units."""

    def __init__(self, source: HeadSource) -> None:
        self.source, self.tokenizer, self.blank = source, source.tokenizer, source.blank
        letters = "".join(unit for unit in self.tokenizer.get_vocab() if not unit.startswith("<"))
        # Many heads have units of one case only; transcripts are converted to it.
        has_upper, has_lower = any(map(str.isupper, letters)), any(map(str.islower, letters))
        self.change_case: Callable[[str], str] = str
        if has_upper != has_lower:
            self.change_case = str.upper if has_upper else str.lower

    def encode(self, text: str) -> list[int] | None:
        """Unit ids of a transcript, in the case of the units; None where it has a unit that the
        head lacks.
        """
        ids = list(self.tokenizer(self.change_case(text)).input_ids) if text else []
        return None if self.tokenizer.unk_token_id in ids else ids

    def encode_in_vocabulary(self, text: str) -> list[int]:
        """Unit ids of a text, without those that the head lacks."""
        ids = self.tokenizer(self.change_case(text)).input_ids if text else []
        return [unit for unit in ids if unit not in (self.tokenizer.unk_token_id, self.blank)]

    def write(self, units: Sequence[int]) -> str:
        """The text of units that are neither blanks nor repeats of a path."""
        separated = [index for unit in units for index in (unit, self.blank)]
        return " ".join(self.tokenizer.decode(separated).split())

    @torch.inference_mode()
    def log_probabilities(self, frames: Sequence[torch.Tensor]) -> list[torch.Tensor]:
        """Log-probabilities of the units at each step of ``stride`` frames: utterances (frames,
        width) → (steps, units), fp32, each utterance computed alone.
        """
        return [scores.float().log_softmax(-1) for scores in self._scores(frames)]

    @torch.inference_mode()
    def decode(self, frames: Sequence[torch.Tensor]) -> list[str]:
        """Greedy text of frames, each (frames, width): the best unit of each frame, repeats joined,
        blanks dropped.
        """
        texts = [""] * len(frames)
        indices = [index for index, utterance in enumerate(frames) if len(utterance)]
        scores = self._scores([frames[index] for index in indices])
        for index, utterance_scores in zip(indices, scores, strict=True):
            text = self.tokenizer.decode(utterance_scores.argmax(-1).tolist())
            texts[index] = " ".join(text.split())
        return texts

    def _scores(self, frames: Sequence[torch.Tensor]) -> Iterator[torch.Tensor]:
        """Scores of the units of each utterance, (frames, units)."""
        source = self.source
        for utterance in frames:
            yield source.head(utterance.to(source.device, source.dtype)[None])[0]

    def loss(
        self, frames: Sequence[torch.Tensor], targets: Sequence[Sequence[int]]
    ) -> torch.Tensor:
        """``sum_loss_per_frame`` of last-layer frames, each (frames, width), against unit ids."""
        padded = torch.nn.utils.rnn.pad_sequence(list(frames), batch_first=True)  # (B, T, width)
        logits = self.source.head(padded.to(self.source.dtype))  # (B, T, units)
        num_frames = torch.tensor([len(utterance) for utterance in frames])  # (B,)
        ids = [torch.tensor(target, dtype=torch.long) for target in targets]
        return sum_loss_per_frame(logits, num_frames, ids, self.blank)
