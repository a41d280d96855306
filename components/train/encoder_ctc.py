"""The encoder's own CTC loss beside the LLM's: units of the transcripts, and those that have none
or no path.

In: utterances of a stage and their last-layer frames. Out: the sum of CTC loss / frames of a
micro-batch. Cost: small beside the encoder's pass. A transcript that the head can't write, or that
has more units than frames, is left out, counted and said.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch

from components.config.errors import InputError
from components.features.frames import FrameSource
from components.model.encoders.ctc import CtcHead, frames_needed
from components.shards.reader import IndexedUtterance


class EncoderCtcLoss:
    """CTC targets of ``items``; raises InputError where most of them have no path."""

    def __init__(self, source: FrameSource, items: Sequence[IndexedUtterance]) -> None:
        assert (
            source.encoder is not None
        )  # only a tuned encoder has this loss, and frames are then live
        self.head = CtcHead(source.encoder)
        self.targets: dict[str, list[int]] = {}
        lacking, long = [], []
        for item in items:
            target = self.head.encode(item.entry.text)
            if target is None:
                lacking.append(item.entry.id)
            elif frames_needed(target) > source.num_frames(item):
                long.append(item.entry.id)
            else:
                self.targets[item.entry.id] = target
        self.said = ""
        if lacking or long:
            self.said = (
                f"train: without a path in the encoder's CTC: {len(lacking)} of {len(items)} transcripts have units that its head "
                f"lacks, {len(long)} more units than frames ({', '.join([*lacking, *long][:3])} …): they are left out of its loss"
            )
        if 2 * (len(lacking) + len(long)) > len(items):
            raise InputError(
                f"{self.said}.",
                subject="train.ctc_weight",
                hint=(
                    "Set train.ctc_weight to 0, or take an encoder whose CTC head writes "
                    "these transcripts."
                ),
            )

    def loss(
        self, part: Sequence[tuple[IndexedUtterance, bool]], frames: Sequence[torch.Tensor]
    ) -> torch.Tensor:
        """Sum of CTC loss / frames over (utterance, whether it is speech) that have a path;
        non-speech is all blanks.
        """
        found = [
            (each, self.targets.get(item.entry.id) if spoken else [])
            for (item, spoken), each in zip(part, frames, strict=True)
        ]
        held = [(each, target) for each, target in found if target is not None]
        if not held:  # the head has a gradient all the same
            return self.head.loss(frames[:1], [[]]) * 0.0
        return self.head.loss([each for each, _ in held], [target for _, target in held])
