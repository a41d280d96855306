"""An LLM sharded over two ranks: each has half of its layers, and it computes and searches as one
that is not sharded.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from components.config.projector import parse_projector
from components.model.speech_llm import SpeechLLM
from components.optim.ranks import Ranks, full_tensor, is_sharded, train_together
from components.optim.sharding import decoder_layers, shard
from components.search.beam import search
from components.search.constraints import GREEDY
from tests.checkpoints import frames_of, joined, output_of

SEARCH = replace(GREEDY, beams=2, max_tokens=12)


FAMILIES = ("llama", "phi", "bloom", "qwen2", "gpt_neox")
GATED = "gated-cross-attention"  # a bridge with blocks in a Llama, whose layers are shared
ENTRY = {"kind": GATED, "stack": 2, "layers": 2, "width": 16, "heads": 2, "hidden": 24}


def compute(ranks: Ranks, folder: str) -> None:
    for family in (*FAMILIES, GATED):
        compute_one(ranks, Path(folder) / family, family)


@torch.no_grad()
def compute_one(ranks: Ranks, folder: Path, family: str) -> None:
    """Writes loss and texts of three batches, split over the ranks, to ``folder``."""
    model = SpeechLLM.load(folder / "bridge", folder / "encoder", folder / "llm", "cpu")
    expected = {name: parameter.clone() for name, parameter in model.llm.named_parameters()}
    if ranks.is_sharded:
        shard(model.llm, ranks.world_size)
        parameters = [
            parameter
            for layer in decoder_layers(model.llm.base_model)
            for parameter in layer.parameters()
        ]
        share = sum(parameter.to_local().numel() for parameter in parameters) / sum(
            parameter.numel() for parameter in parameters
        )
        assert all(map(is_sharded, parameters)), family
        assert 0.45 < share < 0.55, f"{family}: a rank has {share:.2f} of the layers"
        assert all(
            torch.equal(full_tensor(parameter), expected[name])
            for name, parameter in model.llm.named_parameters()
        )
    batches = [frames_of([9, 4]), frames_of([14], seed=1), frames_of([6, 6, 5], seed=2)]
    results = []
    for batch, is_real in ranks.assigned_items(batches):
        losses = float(output_of(model, batch, ["one two"] * len(batch)).loss)
        texts = [
            hypothesis.text
            for hypothesis in search(
                model, batch, [1.0] * len(batch), SEARCH, is_synchronous=ranks.is_sharded
            )
        ]
        results += [(losses, texts)] if is_real else []
    torch.save(results, folder / f"{ranks.world_size}-{ranks.rank}.pt")


def compute_sharded(ranks: Ranks, folder: str) -> None:
    compute(Ranks(ranks.rank, ranks.world_size, is_sharded=True), folder)


@pytest.mark.slow
def test_a_sharded_llm_computes_and_searches_as_one_that_is_not(tmp_path: Path) -> None:
    for family in FAMILIES:
        joined(tmp_path / family, family).save(tmp_path / family / "bridge")
    model = joined(tmp_path / GATED, projector=parse_projector(ENTRY, GATED))
    with torch.no_grad():
        for name, parameter in model.projector.blocks.named_parameters():
            parameter.fill_(1.0) if "gate" in name else parameter.mul_(3)
    model.save(tmp_path / GATED / "bridge")
    train_together(compute, (str(tmp_path),), 1, 1)
    train_together(compute_sharded, (str(tmp_path),), 2, 1)
    for family in (*FAMILIES, GATED):
        single, *parts = [
            torch.load(tmp_path / family / f"{name}.pt", weights_only=True)
            for name in ("1-0", "2-0", "2-1")
        ]
        together = [parts[index % 2][index // 2] for index in range(3)]
        assert [texts for _, texts in together] == [texts for _, texts in single], family
        assert [loss for loss, _ in together] == pytest.approx(
            [loss for loss, _ in single], rel=1e-6
        ), family


def test_an_idle_rank_repeats_a_batch_that_does_not_count() -> None:
    shares = [
        Ranks(rank, 3, is_sharded=True).assigned_items(["a", "b", "c", "d"]) for rank in range(3)
    ]
    assert shares == [
        [("a", True), ("d", True)],
        [("b", True), ("a", False)],
        [("c", True), ("a", False)],
    ]
    assert Ranks(1, 3).assigned_items(["a", "b", "c", "d"]) == [("b", True)]
