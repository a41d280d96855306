"""The encoder's own CTC loss beside the loss of the LLM: units of the transcripts, and those that
have none or no path.

In: utterances of a stage and their last-layer frames. Out: the sum of CTC loss / frames of a
micro-batch. Cost: small beside the encoder's pass. A transcript that the head can't write, or that
has more units than frames, is left out of this loss, counted and logged.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch

from components.config.errors import InputError
from components.features.frames import FrameSource
from components.model.encoders.ctc import CtcHead, count_min_frames
from components.shards.reader import IndexedUtterance


class EncoderCtcLoss:
    """CTC targets of ``utterances``; raises InputError where most of them have no path.

    ``skipped_summary`` says how many have none; empty where all have one.
    """

    def __init__(self, source: FrameSource, utterances: Sequence[IndexedUtterance]) -> None:
        # Only a tuned encoder has this loss, and frames are then live.
        assert source.encoder is not None
        self.head = CtcHead(source.encoder)
        self.targets: dict[str, list[int]] = {}
        without_units, too_long = [], []
        for utterance in utterances:
            target = self.head.encode(utterance.text)
            if target is None:
                without_units.append(utterance.id)
            elif count_min_frames(target) > source.num_frames(utterance):
                too_long.append(utterance.id)
            else:
                self.targets[utterance.id] = target
        skipped_ids = [*without_units, *too_long]
        self.skipped_summary = ""
        if skipped_ids:
            self.skipped_summary = (
                f"train: {len(without_units)} of {len(utterances)} transcripts have units that the "
                f"CTC head of the encoder does not have, {len(too_long)} more units than frames "
                f"({', '.join(skipped_ids[:3])} …): its loss leaves them out"
            )
        if 2 * len(skipped_ids) > len(utterances):
            raise InputError(
                f"{self.skipped_summary}.",
                subject="train.ctc_weight",
                hint="Set train.ctc_weight to 0, or name an encoder whose CTC head writes these "
                "transcripts.",
            )

    def loss(
        self, examples: Sequence[tuple[IndexedUtterance, bool]], frames: Sequence[torch.Tensor]
    ) -> torch.Tensor:
        """Sum of CTC loss / frames, shape (), over (utterance, whether it is speech) that have a
        path; non-speech is all blanks. ``frames`` are (frames, width) of each.
        """
        targets = [
            self.targets.get(utterance.id) if is_speech else [] for utterance, is_speech in examples
        ]
        pairs = [
            (utterance_frames, target)
            for utterance_frames, target in zip(frames, targets, strict=True)
            if target is not None
        ]
        if not pairs:  # the head gets a gradient of zero
            return self.head.loss(frames[:1], [[]]) * 0.0
        return self.head.loss(
            [utterance_frames for utterance_frames, _ in pairs], [target for _, target in pairs]
        )
