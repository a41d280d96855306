"""Limits of acoustic evidence from the references of dev: what (almost) all correct texts of this
encoder, layer and head would pass.

In: frames and references of the role dev, a CTC head. Out: ``limits.json``. Nothing is decoded by
the LLM. Cost: a product with the head for each frame, and some milliseconds an utterance.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from components.features.frames import FrameSource
from components.model.encoders.ctc import HeadSource
from components.model.encoders.encoder import SpeechEncoder
from components.model.encoders.trained_head import TrainedHead
from components.model.folders.description import LIMITS, AcousticLimits
from components.runtime.progress import progress
from components.search.acoustic_evidence import ctc_evidence
from components.shards.reader import prefetch

BATCH = 16  # utterances whose frames are in memory at once


def choose_limits(
    num_unsupported: Sequence[int], speech_probabilities: Sequence[float], share: float
) -> AcousticLimits:
    """The smallest ``max_unsupported_units`` that at most a ``share`` of utterances exceed, and the
    largest ``silence_gate`` that at most such a share are below. The first is at least 1, since 0
    is off.

    ``num_unsupported`` are the most letters in a row of each reference that are not supported,
    ``speech_probabilities`` those of the same utterances.
    """
    num_utterances = len(num_unsupported)
    num_failing = min(int(share * num_utterances + 1e-9), num_utterances - 1)
    return AcousticLimits(
        max(1, sorted(num_unsupported, reverse=True)[num_failing]),
        sorted(speech_probabilities)[num_failing],
    )


def calibrate(
    folder: Path, data: Path, encoder: Path, head: Path | None, device: str, share: float
) -> None:
    """Writes the limits to ``folder``; ``head`` is the folder of a trained head, None for the
    encoder's own.
    """
    frames = FrameSource("dev", encoder, device, data)
    source: HeadSource = TrainedHead.load(head, device) if head else SpeechEncoder(encoder, device)
    utterances = [utterance for utterance in frames.utterances if utterance.text]
    prefetch([frames.locate(utterance) for utterance in utterances])
    num_unsupported: list[int] = []
    probabilities: list[float] = []
    with progress("ctc", "calibration", len(utterances), "utterances") as bar:
        for start in range(0, len(utterances), BATCH):
            batch = utterances[start : start + BATCH]
            evidence = ctc_evidence(source, frames.frames(batch), lambda tokens: "")
            for utterance, own in zip(batch, evidence, strict=True):
                num_unsupported.append(own.count_unsupported(utterance.text))
                probabilities.append(own.speech_probability())
            bar.advance(len(batch))
    limits = choose_limits(num_unsupported, probabilities, share)
    (folder / LIMITS).write_text(json.dumps(asdict(limits), indent=1) + "\n")
