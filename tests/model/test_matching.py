"""The matching loss against its formula, and what it may pull at."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from components.model.matching import MatchingHead, MatchingWeights, mean_square

WIDTH = 6


def pairs(
    lengths: list[tuple[int, int]], seed: int = 0
) -> tuple[list[torch.Tensor], list[torch.Tensor]]:
    """Text (tokens, width) and speech (frames, width) of each pair."""
    random = torch.Generator().manual_seed(seed)
    return (
        [torch.randn(tokens, WIDTH, generator=random) for tokens, _ in lengths],
        [torch.randn(frames, WIDTH, generator=random) for _, frames in lengths],
    )


def matching(seed: int = 0) -> MatchingHead:
    torch.manual_seed(seed)
    return MatchingHead(WIDTH)


def attended(head: MatchingHead, text: np.ndarray, speech: np.ndarray) -> np.ndarray:
    """Cross-attention with text as query, speech as key and value, both normalised before the
    projections.
    """

    def normal(rows: np.ndarray) -> np.ndarray:
        return (rows - rows.mean(1, keepdims=True)) / np.sqrt(rows.var(1, keepdims=True) + 1e-5)

    query, key = (module.weight.detach().double().numpy() for module in (head.query, head.key))
    scores = (normal(text) @ query.T) @ (normal(speech) @ key.T).T / np.sqrt(WIDTH)
    weights = np.exp(scores - scores.max(1, keepdims=True))
    return weights / weights.sum(1, keepdims=True) @ speech


@pytest.mark.parametrize(("mse", "cosine"), [(1.0, 0.0), (0.0, 1.0), (0.7, 2.0)])
@pytest.mark.parametrize("lengths", [[(1, 1)], [(3, 8)], [(4, 2), (1, 9), (0, 5), (7, 7)]])
def test_the_loss_is_that_of_the_formula(
    mse: float, cosine: float, lengths: list[tuple[int, int]]
) -> None:
    head, (text, speech) = matching(), pairs(lengths)
    wanted_rows = [each.double().numpy() for each in text if len(each)]
    got_rows = [
        attended(head, each.double().numpy(), heard.double().numpy())
        for each, heard in zip(text, speech, strict=True)
        if len(each)
    ]
    wanted, got = np.concatenate(wanted_rows), np.concatenate(got_rows)
    distance = ((got - wanted) ** 2).mean(1) / 1.7
    similarity = (
        (got * wanted).sum(1) / np.linalg.norm(got, axis=1) / np.linalg.norm(wanted, axis=1)
    )
    total = (mse * distance + cosine * (1 - similarity)).sum()
    assert head(text, speech, MatchingWeights(mse, cosine), 1.7).item() == pytest.approx(
        total, rel=1e-5
    )


def test_the_scale_of_an_llms_embeddings_does_not_change_the_loss() -> None:
    head, (text, speech) = matching(), pairs([(3, 8), (5, 4)])
    scale = mean_square(torch.cat(text))
    assert scale == pytest.approx(float(torch.cat(text).pow(2).mean()))
    small = head(
        [0.01 * each for each in text],
        [0.01 * each for each in speech],
        MatchingWeights(1.0, 0.0),
        1e-4 * scale,
    )
    assert small.item() == pytest.approx(
        head(text, speech, MatchingWeights(1.0, 0.0), scale).item(), rel=0.2
    )


def test_utterances_weigh_the_same_however_a_batch_is_cut() -> None:
    head, (text, speech) = matching(), pairs([(3, 8), (5, 4), (1, 6)])
    parts = [
        head(text[:1], speech[:1], MatchingWeights(1.0, 1.0), 0.5),
        head(text[1:], speech[1:], MatchingWeights(1.0, 1.0), 0.5),
    ]
    assert float(sum(parts).detach()) == pytest.approx(
        head(text, speech, MatchingWeights(1.0, 1.0), 0.5).item(), rel=1e-6
    )


def test_the_text_is_not_pulled_towards_the_speech() -> None:
    head, (text, speech) = matching(), pairs([(3, 8), (0, 2)])
    for each in (*text, *speech):
        each.requires_grad_(True)
    head(text, speech, MatchingWeights(1.0, 1.0), 1.0).backward()
    assert all(each.grad is None or not each.grad.any() for each in text)
    assert speech[0].grad is not None
    assert speech[0].grad.abs().sum() > 0
    assert all(
        parameter.grad is not None and parameter.grad.abs().sum() > 0
        for parameter in head.parameters()
    )


def test_without_text_the_loss_is_nothing() -> None:
    head, (text, speech) = matching(), pairs([(0, 4), (0, 9)])
    speech = [each.requires_grad_(True) for each in speech]
    loss = head(text, speech, MatchingWeights(1.0, 1.0), 1.0)
    assert loss.item() == 0.0
    loss.backward()
    assert all(each.grad is None or not each.grad.any() for each in speech)
    text, speech = pairs([(3, 8)])
    _, silent = pairs([(0, 5)])
    assert torch.equal(
        head([*text, text[0][:0]], [*speech, *silent], MatchingWeights(1.0, 1.0), 1.0),
        head(text, speech, MatchingWeights(1.0, 1.0), 1.0),
    )


def test_the_loss_falls_as_speech_comes_nearer_to_the_text() -> None:
    head, (text, speech) = matching(), pairs([(4, 4)])
    steps = [
        head(
            text,
            [text[0].mean(0) * share + speech[0] * (1 - share)],
            MatchingWeights(1.0, 1.0),
            1.0,
        ).item()
        for share in (0.0, 0.5, 1.0)
    ]
    assert steps[0] > steps[1] > steps[2]
    wanted = [torch.ones(3, WIDTH)]
    assert head(
        wanted, [torch.ones(5, WIDTH)], MatchingWeights(1.0, 1.0), 1.0
    ).item() == pytest.approx(0.0, abs=1e-5)


def test_speech_learns_to_say_the_text() -> None:
    head, (text, speech) = matching(), pairs([(3, 9)])
    heard = speech[0].requires_grad_(True)
    optimiser = torch.optim.Adam([heard, *head.parameters()], lr=0.05)
    losses = []
    for _ in range(120):
        optimiser.zero_grad()
        loss = head(text, [heard], MatchingWeights(1.0, 1.0), 1.0)
        loss.backward()
        optimiser.step()
        losses.append(loss.item())
    assert losses[-1] < 0.1 * losses[0]
