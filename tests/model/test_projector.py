"""The projector: its formula, its size, and what becomes of the frames that do not fill a stack."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from components.config.projector import Linear
from components.model.projector import LinearProjector, build_projector
from tests.checkpoints import frames_of


def reference(projector: LinearProjector, frames: np.ndarray) -> np.ndarray:
    """Frames t·k to t·k + k - 1 side by side, linear, ReLU, linear; frame by frame."""
    weights = [parameter.detach().double().numpy() for parameter in projector.parameters()]
    k, rows = projector.size, []
    for start in range(0, len(frames) - k + 1, k):
        joined = np.concatenate([frames[start + offset] for offset in range(k)])
        hidden = np.maximum(weights[0] @ joined + weights[1], 0)
        rows.append(weights[2] @ hidden + weights[3])
    return np.array(rows)


@pytest.mark.parametrize("stack", [1, 3, 5])
def test_stacks_of_frames_go_through_two_layers(stack: int) -> None:
    torch.manual_seed(0)
    projector, frames = LinearProjector(Linear("linear", stack, 16), 12, 10), frames_of([5, 17, 15, 31])
    for each, made in zip(frames, projector(frames), strict=True):
        assert made.shape == (len(each) // stack, 10)
        np.testing.assert_allclose(made.detach().numpy(), reference(projector, each.double().numpy()), rtol=1e-4, atol=1e-6)


def test_an_utterance_shorter_than_a_stack_is_filled_up_with_zeros() -> None:
    projector, frames = LinearProjector(Linear("linear", 5, 16), 12, 10), frames_of([1, 4])
    for each, made in zip(frames, projector(frames), strict=True):
        filled = np.concatenate([each.double().numpy(), np.zeros((5 - len(each), 12))])
        np.testing.assert_allclose(made.detach().numpy(), reference(projector, filled), rtol=1e-4, atol=1e-6)


def test_frames_short_of_a_last_stack_do_not_count() -> None:
    projector, frames = LinearProjector(Linear("linear", 3, 16), 12, 10), frames_of([8])[0]
    torch.testing.assert_close(projector([frames])[0], projector([frames[:6]])[0])


def test_an_utterance_is_projected_alone_as_in_a_batch() -> None:
    projector, frames = LinearProjector(Linear("linear", 3, 16), 12, 10), frames_of([8, 2, 40, 3])
    for each, made in zip(frames, projector(frames), strict=True):
        torch.testing.assert_close(made, projector([each])[0], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(("encoder", "millions"), [(1024, 18.88), (1280, 21.50)])
def test_the_paper_gives_as_many_parameters(encoder: int, millions: float) -> None:
    """SLAM-ASR: 5 frames stacked, 2,048 between the layers, an LLM of width 4,096."""
    with torch.device("meta"):
        projector = build_projector(Linear("linear", 5, 2048), encoder, 4096)
    count = sum(parameter.numel() for parameter in projector.parameters())
    assert count / 1e6 == pytest.approx(millions, abs=0.01)
