"""An LLM in parts on two ranks: each holds half of its layers, and it computes and searches as a
whole one does.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from components.model.speech_llm import SpeechLLM
from components.optim.ranks import Ranks, full_tensor, is_sharded, train_together
from components.optim.sharding import decoder_layers, shard
from components.search.beam import search
from components.search.constraints import GREEDY
from tests.checkpoints import frames_of, joined

SEARCH = replace(GREEDY, beams=2, max_tokens=12)


FAMILIES = ("llama", "phi", "bloom", "qwen2", "gpt_neox")


def compute(ranks: Ranks, folder: str) -> None:
    for family in FAMILIES:
        compute_one(ranks, Path(folder) / family, family)


@torch.no_grad()
def compute_one(ranks: Ranks, place: Path, family: str) -> None:
    """Loss and texts of three batches dealt to the ranks, to the folder ``place``."""
    model = SpeechLLM.load(place / "bridge", place / "encoder", place / "llm", "cpu")
    wanted = {name: parameter.clone() for name, parameter in model.llm.named_parameters()}
    if ranks.sharded:
        shard(model.llm, ranks.count)
        held = [
            parameter
            for layer in decoder_layers(model.llm.base_model)
            for parameter in layer.parameters()
        ]
        share = sum(parameter.to_local().numel() for parameter in held) / sum(
            parameter.numel() for parameter in held
        )
        assert all(map(is_sharded, held)), family
        assert 0.45 < share < 0.55, f"{family}: a rank holds {share:.2f} of the layers"
        assert all(
            torch.equal(full_tensor(parameter), wanted[name])
            for name, parameter in model.llm.named_parameters()
        )
    batches = [frames_of([9, 4]), frames_of([14], seed=1), frames_of([6, 6, 5], seed=2)]
    found = []
    for batch, counts in ranks.assigned_items(batches):
        losses = float(model.losses(batch, ["one two"] * len(batch), 1.0, 1.0)[0].total)
        texts = [
            each.text
            for each in search(model, batch, [1.0] * len(batch), SEARCH, together=ranks.sharded)
        ]
        found += [(losses, texts)] if counts else []
    torch.save(found, place / f"{ranks.count}-{ranks.rank}.pt")


def compute_in_parts(ranks: Ranks, folder: str) -> None:
    compute(Ranks(ranks.rank, ranks.count, sharded=True), folder)


@pytest.mark.slow
def test_an_llm_in_parts_computes_and_searches_as_a_whole_one(tmp_path: Path) -> None:
    for family in FAMILIES:
        joined(tmp_path / family, family).save(tmp_path / family / "bridge")
    train_together(compute, (str(tmp_path),), 1, 1)
    train_together(compute_in_parts, (str(tmp_path),), 2, 1)
    for family in FAMILIES:
        alone, *parts = [
            torch.load(tmp_path / family / f"{name}.pt", weights_only=True)
            for name in ("1-0", "2-0", "2-1")
        ]
        together = [parts[place % 2][place // 2] for place in range(3)]
        assert [texts for _, texts in together] == [texts for _, texts in alone], family
        assert [loss for loss, _ in together] == pytest.approx(
            [loss for loss, _ in alone], rel=1e-6
        ), family


def test_a_rank_with_nothing_left_repeats_a_batch_that_does_not_count() -> None:
    shares = [
        Ranks(rank, 3, sharded=True).assigned_items(["a", "b", "c", "d"]) for rank in range(3)
    ]
    assert shares == [
        [("a", True), ("d", True)],
        [("b", True), ("a", False)],
        [("c", True), ("a", False)],
    ]
    assert Ranks(1, 3).assigned_items(["a", "b", "c", "d"]) == [("b", True)]
