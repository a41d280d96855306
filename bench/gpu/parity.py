"""The results of two devices for the same weights and inputs: frames, loss, gradients of the
bridge, decoded text; in float32.

In: two torch devices. Out: the differences. Networks are tiny and drawn on the processor, so that
both devices have the same. Cost: seconds.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch

from bench.gpu.networks import TEXT, build_encoder, build_speech_llm
from bench.gpu.work import WorkSize, draw_waveforms
from components.model.llms.batch import collate
from components.model.matching import MatchingWeights
from components.search.beam import search
from components.search.constraints import GREEDY

SIZE = WorkSize(seconds=1.5, num_utterances=3, num_beams=2, num_runs=1)
RULES = replace(GREEDY, beams=2, max_tokens=8)
WIDTH = 12  # of a frame
LENGTHS = (20, 33, 41)  # frames of the utterances
TEXTS = (TEXT, TEXT[:20], "")


@dataclass(frozen=True)
class DeviceOutput:
    """The results of one device, on the processor."""

    frames: list[torch.Tensor]  # each (frames, width)
    loss: float
    gradients: dict[str, torch.Tensor]  # by parameter of the bridge
    texts: list[str]


@dataclass(frozen=True)
class DeviceDifference:
    """Largest differences, relative to the largest value of the first device."""

    frames: float
    loss: float
    gradients: float
    texts: int  # that differ


def compute(encoder_name: str, llm_name: str, device: str, seed: int = 1) -> DeviceOutput:
    """Frames of the encoder, and the joined model's results for random frames, with the weights
    that ``seed`` draws.
    """
    with build_encoder(encoder_name, device, True, seed) as encoder:
        encoded = [frames.float().cpu() for frames in encoder(draw_waveforms(SIZE))]
    model = build_speech_llm(llm_name, "linear", WIDTH, device, True, "float32", seed)
    model.tune(["projector"])
    random = torch.Generator().manual_seed(1)
    frames = [torch.randn(length, WIDTH, generator=random).to(device) for length in LENGTHS]
    targets = [model.builder.encode(text) for text in TEXTS]
    output = model(collate(model.builder, targets, frames), MatchingWeights(1.0, 1.0))
    loss = output.loss + output.matching_loss
    loss.backward()
    gradients = {
        name: parameter.grad.cpu()
        for name, parameter in model.named_parameters()
        if parameter.grad is not None
    }
    hypotheses = search(model, frames, [1.0] * len(frames), RULES)
    texts = [hypothesis.text for hypothesis in hypotheses]
    return DeviceOutput(encoded, loss.item(), gradients, texts)


def compare_outputs(first: DeviceOutput, second: DeviceOutput) -> DeviceDifference:
    """How much ``second`` differs from ``first``."""
    return DeviceDifference(
        max(map(_relative_difference, first.frames, second.frames)),
        abs(first.loss - second.loss) / abs(first.loss),
        max(
            _relative_difference(gradient, second.gradients[name])
            for name, gradient in first.gradients.items()
        ),
        sum(text != other for text, other in zip(first.texts, second.texts, strict=True)),
    )


def _relative_difference(first: torch.Tensor, second: torch.Tensor) -> float:
    return float((first - second).abs().max() / first.abs().max().clamp(min=1e-12))
