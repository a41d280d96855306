"""What is measured: frames of an encoder, training steps and beam search of an LLM, each with the
code of its stage.

In: a network of ``bench.gpu.networks``, a size. Out: a row of plain figures. Operations are counted
by formula: 2 a parameter and token forward; as much again where gradients pass through frozen
weights, twice as much where the weights have gradients of their own (Kaplan et al. 2020, arXiv
2001.08361, section 2.1). Embedding tables count nothing, the output matrix counts where it is used,
attention scores are left out: a share of the measured rate is a lower bound.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from bench.gpu import card
from bench.gpu.networks import TEXT
from components.audio.sound import RATE
from components.config.training import Train
from components.model.encoders.encoder import SpeechEncoder
from components.model.folders.architecture import count_parameters
from components.model.speech_llm import SpeechLLM
from components.optim.loop import StepBatch
from components.optim.ranks import Ranks
from components.search.beam import search
from components.search.constraints import GREEDY
from components.shards.index import IndexEntry
from components.shards.reader import IndexedUtterance
from components.train.forward import ForwardPass
from components.train.objective import StageObjective
from components.train.parts import TrainableParts
from components.train.stage import StageTraining

FRAMES_PER_SECOND = 50  # of every encoder measured here
TOKENS_PER_SECOND = 3.7  # of text, as components/plan/load.py counts them


@dataclass(frozen=True)
class WorkSize:
    """How much is computed at once, and how often."""

    seconds: float  # of an utterance
    num_utterances: int  # of a batch
    num_beams: int
    num_runs: int  # the median of them counts

    @property
    def num_frames(self) -> int:
        """Frames of an utterance."""
        return int(self.seconds * FRAMES_PER_SECOND)

    @property
    def batch_seconds(self) -> float:
        """Seconds of audio in a batch."""
        return self.seconds * self.num_utterances


class NoiseFrames:
    """Random frames in place of a role's, all of one length; the part of
    components.features.frames that a training step uses.
    """

    def __init__(self, num_frames: int, width: int, device: str) -> None:
        random = torch.Generator().manual_seed(1)
        self._frames = torch.randn(num_frames, width, generator=random).to(device)

    def frames(
        self, items: Sequence[IndexedUtterance], epoch: int | None = None
    ) -> list[torch.Tensor]:
        """The same frames for each utterance, (frames, width)."""
        return [self._frames.clone() for _ in items]


def draw_waveforms(size: WorkSize) -> list[np.ndarray]:
    """Noise in place of speech: mono float32 at 16 kHz, each (samples,)."""
    random = np.random.default_rng(1)
    return [
        0.1 * random.standard_normal(int(size.seconds * RATE)).astype(np.float32)
        for _ in range(size.num_utterances)
    ]


def build_utterances(size: WorkSize) -> list[IndexedUtterance]:
    """Utterances of a batch, which differ in their ids alone."""
    entry = IndexEntry(
        "", "", 0, 0, 0, 0, int(size.seconds * RATE), size.num_frames, len(TEXT), TEXT, ""
    )
    return [
        IndexedUtterance(replace(entry, id=str(index)), "noise", Path())
        for index in range(size.num_utterances)
    ]


def measure_features(
    encoder: SpeechEncoder, size: WorkSize, device: str, arithmetic: str = "float32"
) -> dict[str, Any]:
    """Frames of a batch, with the front end on the processor, as the stage ``features`` computes
    them.
    """
    batch = draw_waveforms(size)
    card.reset_peak(device)
    seconds = card.measure_seconds(lambda: encoder(batch), device, size.num_runs)
    num_parameters = count_parameters(encoder.model)
    encoded_seconds = sum(encoder.computed_duration_s(len(waveform)) for waveform in batch)
    return _row(
        "features",
        arithmetic,
        seconds,
        2 * num_parameters * encoded_seconds * encoder.frame_rate,
        device,
        **{"audio h/h": size.batch_seconds / seconds, "parameters": num_parameters},
    )


def measure_training(
    model: SpeechLLM, settings: Train, size: WorkSize, device: str, scratch: Path
) -> dict[str, Any]:
    """Steps of the curriculum's first stage as components.train computes them, with its
    micro-batches.
    """
    stage = replace(settings.curriculum[0], steps=1, warmup=0)
    training = StageTraining(Ranks(), TrainableParts(model, settings, {}), stage, scratch, device)
    utterances = build_utterances(size)
    noise = NoiseFrames(size.num_frames, model.config.encoder_width, device)
    card.reset_peak(device)
    forward = ForwardPass(
        model,
        settings,
        training.context.label,
        training.precision,
        noise,  # type: ignore[arg-type]
        noise,  # type: ignore[arg-type]
        None,
    )
    objective = StageObjective(
        training.context,
        forward,
        utterances,
        len(utterances),
        [],
        noise,  # type: ignore[arg-type]
    )
    examples = [(utterance, True) for utterance in utterances]
    batch = StepBatch(examples, len(examples), forward.count_targets(examples))
    seconds = card.measure_seconds(
        lambda: training.loop(1).step(objective, batch, 0), device, size.num_runs
    )
    layers, output = _count_parameters(model)
    target_tokens = len(model.builder.encode(TEXT)) + 1
    speech_tokens = model.projector.count_tokens(size.num_frames)
    tokens = size.num_utterances * (_prefix_tokens(model, size) + target_tokens)
    operations = (
        4 * (layers * tokens + output * size.num_utterances * target_tokens)
        + 6 * count_parameters(model.projector) * size.num_utterances * speech_tokens
    )
    return _row(
        "training",
        model.config.llm_dtype,
        seconds,
        operations,
        device,
        **{"audio h/h": size.batch_seconds / seconds, "tokens/s": tokens / seconds},
    )


def measure_decoding(model: SpeechLLM, size: WorkSize, device: str) -> dict[str, Any]:
    """Beam search of a batch, of as many tokens as speech of that length has: random weights would
    never end.
    """
    num_tokens = max(2, int(size.seconds * TOKENS_PER_SECOND))
    rules = replace(
        GREEDY,
        beams=size.num_beams,
        max_tokens=num_tokens,
        min_tokens_per_second=TOKENS_PER_SECOND,
    )
    noise = NoiseFrames(size.num_frames, model.config.encoder_width, device)
    frames = noise.frames(build_utterances(size))
    durations_s = [size.seconds] * size.num_utterances
    card.reset_peak(device)
    seconds = card.measure_seconds(
        lambda: search(model, frames, durations_s, rules), device, size.num_runs
    )
    layers, output = _count_parameters(model)
    prefix_tokens = _prefix_tokens(model, size)
    # The prefix runs through the network once for each beam, every token after it too, and the best
    # text once more for its score.
    num_rows = size.num_utterances * size.num_beams
    operations = 2 * (
        layers * (num_rows + size.num_utterances) * (prefix_tokens + num_tokens)
        + output * num_rows * num_tokens
    )
    weight_bytes = (layers + output) * next(iter(model.llm.parameters())).element_size()
    return _row(
        "decoding",
        model.config.llm_dtype,
        seconds,
        operations,
        device,
        **{
            "audio h/h": size.batch_seconds / seconds,
            "tokens/s": size.num_utterances * num_tokens / seconds,
            "weights read, B/s": weight_bytes * (num_tokens + 1) / seconds,
        },
    )


def _prefix_tokens(model: SpeechLLM, size: WorkSize) -> int:
    """Tokens of an utterance before its transcript: prompt and speech."""
    speech_tokens = model.projector.count_tokens(size.num_frames)
    return len(model.builder.before) + speech_tokens + len(model.builder.after)


def _count_parameters(model: SpeechLLM) -> tuple[int, int]:
    """Parameters of the LLM's layers and of its output matrix."""
    layers = count_parameters(model.llm.base_model) - count_parameters(
        model.llm.get_input_embeddings()
    )
    return layers, count_parameters(model.llm.get_output_embeddings())


def _row(
    work: str, dtype: str, seconds: float, operations: float, device: str, **figures: float
) -> dict[str, Any]:
    return {
        "work": work,
        "dtype": dtype,
        "seconds": seconds,
        "operations": operations,
        "operations/s": operations / seconds,
        "peak bytes": card.peak_bytes(device),
        **figures,
    }
