"""Length of a training: steps, epochs and audio of each stage of the curriculum.

In: the train section, networks, audio by source. Out: plain figures, estimated from full batches of
utterances of the mean length; the stage ``train`` logs the exact ones. Cost: microseconds.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

from components.config.training import CurriculumStage, Train
from components.plan.load import count_tokens, mean_seconds, output_seconds
from components.plan.networks import Networks
from components.plan.speech import AudioAmount


@dataclass(frozen=True)
class StageLength:
    """How long a stage of the curriculum trains."""

    name: str
    num_steps: int
    epochs: float  # passes over the training speech, or over non-speech where there is nothing else
    seconds: float  # of audio in all batches
    has_speech: bool


def list_stage_lengths(
    settings: Train, networks: Networks, audio: Sequence[AudioAmount]
) -> list[StageLength]:
    """The length of each stage that trains something; where the audio is not known, epochs are 0.
    None where nothing is trained.
    """
    if not networks.stages:
        return []
    mean_s = mean_seconds(audio, "train")
    # Both with full windows, where an encoder fills them up: batches are formed by these.
    batch_s = step_seconds(settings, networks, mean_s)
    batch_s *= networks.encoder.frame_duration_s(mean_s) / mean_s
    frames = [replace(amount, seconds=output_seconds(networks, amount)) for amount in audio]
    return [_stage_length(stage, batch_s, audio, frames) for stage in settings.curriculum]


def _stage_length(
    stage: CurriculumStage,
    batch_s: float,
    audio: Sequence[AudioAmount],
    frames: Sequence[AudioAmount],
) -> StageLength:
    """The length of a stage; ``batch_s`` and ``frames`` are seconds of frames, those of ``audio``
    are seconds of the recordings.
    """
    epoch_s = epoch_seconds(stage.nonspeech_share, frames)
    if stage.steps is not None:
        num_steps = stage.steps
    else:
        assert stage.epochs is not None  # a stage has one length
        num_steps = math.ceil(stage.epochs * epoch_s / batch_s)
    seconds = num_steps * batch_s
    epochs = seconds / epoch_s if epoch_s else 0.0
    if epoch_s:
        seconds *= epoch_seconds(stage.nonspeech_share, audio) / epoch_s
    return StageLength(stage.name, num_steps, epochs, seconds, stage.nonspeech_share < 1)


def epoch_seconds(nonspeech_share: float, audio: Sequence[AudioAmount]) -> float:
    """Seconds of an epoch: all training speech, and the share of non-speech beside it."""
    speech, nonspeech = (
        [amount for amount in audio if amount.role == role] for role in ("train", "nonspeech-train")
    )
    if nonspeech_share == 1:
        return sum(amount.seconds for amount in nonspeech)
    num_speech = sum(amount.num_utterances for amount in speech)
    num_nonspeech = num_speech * nonspeech_share / (1 - nonspeech_share)
    nonspeech_s = num_nonspeech * mean_seconds(audio, "nonspeech-train")
    return sum(amount.seconds for amount in speech) + nonspeech_s


def sum_speech_epochs(lengths: Sequence[StageLength]) -> float:
    """Passes over the training speech in all stages together."""
    return sum(length.epochs for length in lengths if length.has_speech)


def step_seconds(settings: Train, networks: Networks, mean_s: float) -> float:
    """Seconds of audio in a step that is full under the budgets of seconds and of tokens. Padding
    counts in the first, packed or not.
    """
    num_utterances = networks.encoder.utterances_per_batch(mean_s, settings.batch_seconds)
    if settings.batch_tokens:
        num_utterances = min(num_utterances, settings.batch_tokens / count_tokens(networks, mean_s))
    return max(1.0, num_utterances) * mean_s
