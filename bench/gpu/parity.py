"""What two devices make of the same weights and inputs: frames, loss, gradients of the bridge,
decoded text; in float32.

In: two torch devices. Out: the differences. Networks are tiny and drawn on the processor, so that
both have the same. Cost: seconds.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch

from bench.gpu.networks import TEXT, encoder, joined
from bench.gpu.work import Size, waveforms
from components.model.llms.batch import collate
from components.model.matching import MatchingWeights
from components.search.beam import search
from components.search.constraints import GREEDY

SIZE = Size(seconds=1.5, utterances=3, beams=2, runs=1)
RULES = replace(GREEDY, beams=2, max_tokens=8)
WIDTH = 12


@dataclass(frozen=True)
class Made:
    """What one device made, on the processor."""

    frames: list[torch.Tensor]
    loss: float
    gradients: dict[str, torch.Tensor]
    texts: list[str]


@dataclass(frozen=True)
class Difference:
    """Largest differences, relative to the largest value of the first device; and how many of the
    texts differ.
    """

    frames: float
    loss: float
    gradients: float
    texts: int


def made(encoder_name: str, llm_name: str, device: str, seed: int = 1) -> Made:
    """Frames of the encoder, and what the joined model makes of random frames, with the weights
    that ``seed`` draws.
    """
    with encoder(encoder_name, device, True, seed) as listens:
        frames = [each.float().cpu() for each in listens(waveforms(SIZE))]
    model = joined(llm_name, "linear", WIDTH, device, True, "float32", seed)
    model.tune(["projector"])
    random = torch.Generator().manual_seed(1)
    heard = [torch.randn(length, WIDTH, generator=random).to(device) for length in (20, 33, 41)]
    targets = [model.builder.target(text) for text in (TEXT, TEXT[:20], "")]
    output = model(collate(model.builder, targets, heard), MatchingWeights(1.0, 1.0))
    loss = output.loss + output.matching_loss
    loss.backward()
    gradients = {
        name: each.grad.cpu() for name, each in model.named_parameters() if each.grad is not None
    }
    texts = [each.text for each in search(model, heard, [1.0] * 3, RULES)]
    return Made(frames, loss.item(), gradients, texts)


def difference(one: Made, other: Made) -> Difference:
    """How far ``other`` is from ``one``."""

    def far(first: torch.Tensor, second: torch.Tensor) -> float:
        return float((first - second).abs().max() / first.abs().max().clamp(min=1e-12))

    return Difference(
        max(far(first, second) for first, second in zip(one.frames, other.frames, strict=True)),
        abs(one.loss - other.loss) / abs(one.loss),
        max(far(one.gradients[name], other.gradients[name]) for name in one.gradients),
        sum(first != second for first, second in zip(one.texts, other.texts, strict=True)),
    )
