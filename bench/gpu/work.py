"""What is measured: frames of an encoder, training steps and beam search of an LLM, each through
the code of its stage.

In: a network of ``networks``, a size. Out: a row of plain figures. Operations are counted by
formula: 2 a parameter and token forward; as much again where gradients pass through frozen weights,
twice as much where the weights have gradients of their own (Kaplan et al. 2020, arXiv 2001.08361,
section 2.1). Embedding tables look up and count nothing, the output matrix counts where it is used,
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
from components.model.folders.architecture import parameters
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

FRAMES_A_SECOND = 50  # of every encoder measured here
TOKENS_A_SECOND = 3.7  # of text, as components/plan/load.py counts them


@dataclass(frozen=True)
class Size:
    """How much is computed at once, and how often."""

    seconds: float  # of an utterance
    utterances: int  # of a batch
    beams: int
    runs: int  # of which the median counts


class Noise:
    """Random frames in place of a role's, of one length each; what a training step asks of
    components.features.frames.
    """

    def __init__(self, count: int, width: int, device: str) -> None:
        self._frames = torch.randn(count, width, generator=torch.Generator().manual_seed(1)).to(
            device
        )

    def frames(
        self, items: Sequence[IndexedUtterance], epoch: int | None = None
    ) -> list[torch.Tensor]:
        """The same frames for each utterance, shape (frames, width)."""
        return [self._frames.clone() for _ in items]


def waveforms(size: Size) -> list[np.ndarray]:
    """Noise in place of speech; mono float32 at 16 kHz."""
    random = np.random.default_rng(1)
    return [
        0.1 * random.standard_normal(int(size.seconds * RATE)).astype(np.float32)
        for _ in range(size.utterances)
    ]


def utterances(size: Size) -> list[IndexedUtterance]:
    """Utterances of a batch; they differ in their names alone."""
    entry = IndexEntry(
        "",
        "",
        0,
        0,
        0,
        0,
        int(size.seconds * RATE),
        int(size.seconds * FRAMES_A_SECOND),
        len(TEXT),
        TEXT,
        "",
    )
    return [
        IndexedUtterance(replace(entry, id=str(number)), "noise", Path())
        for number in range(size.utterances)
    ]


def features(encoder: SpeechEncoder, size: Size, device: str) -> dict[str, Any]:
    """Frames of a batch, the front end on the processor included, as the stage ``features``
    computes them.
    """
    batch = waveforms(size)
    card.forget_peak(device)
    seconds = card.seconds(lambda: encoder(batch), device, size.runs)
    count = parameters(encoder.model)
    computed = sum(encoder.padded_seconds(len(each)) for each in batch)
    audio = size.seconds * size.utterances
    return _row(
        "features",
        str(encoder.dtype).removeprefix("torch."),
        seconds,
        2 * count * computed * encoder.rate,
        device,
        **{"audio h/h": audio / seconds, "parameters": count},
    )


def training(
    model: SpeechLLM, settings: Train, size: Size, device: str, scratch: Path
) -> dict[str, Any]:
    """Steps of the curriculum's first stage as components.train takes them,
    micro-batches and all.
    """
    stage = replace(settings.curriculum[0], steps=1, warmup=0)
    training = StageTraining(Ranks(), TrainableParts(model, settings, {}), stage, scratch, device)
    items, noise = (
        utterances(size),
        Noise(int(size.seconds * FRAMES_A_SECOND), model.config.encoder_width, device),
    )
    card.forget_peak(device)
    forward = ForwardPass(
        model,
        settings,
        training.context.label,
        training.precision,
        noise,  # type: ignore[arg-type]
        noise,  # type: ignore[arg-type]
        None,
    )
    objective = StageObjective(training.context, forward, items, len(items), [], noise)  # type: ignore[arg-type]
    examples = [(item, True) for item in items]
    batch = StepBatch(examples, len(examples), forward.count_targets(examples))
    seconds = card.seconds(lambda: training.loop.step(objective, batch, 0), device, size.runs)
    body, head = _counted(model)
    target = len(model.builder.target(TEXT)) + 1
    speech = model.projector.tokens_of(int(size.seconds * FRAMES_A_SECOND))
    tokens = size.utterances * (
        len(model.builder.before) + speech + len(model.builder.after) + target
    )
    operations = (
        4 * (body * tokens + head * size.utterances * target)
        + 6 * parameters(model.projector) * size.utterances * speech
    )
    return _row(
        "training",
        model.config.llm_dtype,
        seconds,
        operations,
        device,
        **{"audio h/h": size.seconds * size.utterances / seconds, "tokens/s": tokens / seconds},
    )


def decoding(model: SpeechLLM, size: Size, device: str) -> dict[str, Any]:
    """Beam search of a batch, of as many tokens as speech of that length has: random weights would
    never end.
    """
    wanted = max(2, int(size.seconds * TOKENS_A_SECOND))
    rules = replace(
        GREEDY, beams=size.beams, max_tokens=wanted, min_tokens_per_second=TOKENS_A_SECOND
    )
    noise = Noise(int(size.seconds * FRAMES_A_SECOND), model.config.encoder_width, device)
    frames, lengths = noise.frames(utterances(size)), [size.seconds] * size.utterances
    card.forget_peak(device)
    seconds = card.seconds(lambda: search(model, frames, lengths, rules), device, size.runs)
    body, head = _counted(model)
    speech = model.projector.tokens_of(len(frames[0]))
    prefix = len(model.builder.before) + speech + len(model.builder.after)
    # The prefix runs through the network once for each beam, every token after it too, and the best
    # text once more for its score.
    rows = size.utterances * size.beams
    operations = 2 * (
        body * (rows * (prefix + wanted) + size.utterances * (prefix + wanted))
        + head * rows * wanted
    )
    weights = (body + head) * next(iter(model.llm.parameters())).element_size() * (wanted + 1)
    return _row(
        "decoding",
        model.config.llm_dtype,
        seconds,
        operations,
        device,
        **{
            "audio h/h": size.seconds * size.utterances / seconds,
            "tokens/s": size.utterances * wanted / seconds,
            "weights read, B/s": weights / seconds,
        },
    )


def _counted(model: SpeechLLM) -> tuple[int, int]:
    """Parameters of the LLM's layers and of its output matrix."""
    head = parameters(model.llm.get_output_embeddings())
    return parameters(model.llm.base_model) - parameters(model.llm.get_input_embeddings()), head


def _row(
    work: str, dtype: str, seconds: float, operations: float, device: str, **figures: float
) -> dict[str, Any]:
    return {
        "work": work,
        "dtype": dtype,
        "seconds": seconds,
        "operations": operations,
        "operations/s": operations / seconds,
        "peak bytes": card.peak(device),
        **figures,
    }
