"""Training by torchrun: two ranks with gloo against one process, replicated and sharded; errors and kills come through."""

from __future__ import annotations

import csv
from pathlib import Path

import pytest
import torch

from components.train import engine
from tests import world as tones

LORA_RATE = 0.001  # of params.yaml, the recipe's


@pytest.fixture
def steps(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, work: Path, world: Path):
    """Trains with an engine on so many ranks: (gradients of the first step on each rank, loss of each step)."""
    monkeypatch.setattr(engine, "RANK", "tests.train.recorded")
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parents[2]))

    def train(name: str, ranks: int) -> tuple[list[list[torch.Tensor]], list[float]]:
        folder = tmp_path / f"{name}-{ranks}"
        folder.mkdir()
        for key, value in {"GRADIENTS": folder, "LIBRETTO_WORK": folder / "work", "LIBRETTO_ENGINE": name, "LIBRETTO_WORKERS": ranks}.items():
            monkeypatch.setenv(key, str(value))
        tones.run("train")
        with Path("metrics/curve.csv").open(newline="") as stream:
            losses = [float(row["loss"]) for row in csv.DictReader(stream)]
        return [torch.load(folder / f"{rank}.pt", weights_only=True) for rank in range(ranks)], losses

    return train


def apart(one: list[torch.Tensor], other: list[torch.Tensor]) -> float:
    """The largest relative distance between two lists of gradients."""
    return max(float((a - b).norm() / a.norm().clamp(min=1e-12)) for a, b in zip(one, other, strict=True))


@pytest.mark.slow
@pytest.mark.parametrize("name", ["ddp", "fsdp"])
@pytest.mark.parametrize(("tune", "rate", "tolerance"), [(["projector"], 1e-4, 1e-5), (["projector", "lora"], LORA_RATE, 1e-3)])
def test_two_ranks_follow_one_process(name: str, tune: list[str], rate: float, tolerance: float, steps) -> None:
    """Three micro-batches, so that the ranks have unequal shares of a step."""
    tones.change("params.yaml", {"train.micro_batches": 3, "train.lora.dropout": 0.0, "train.lora.learning_rate": LORA_RATE,
                                 "train.selection.every": 25, "train.curriculum.0.steps": 50, "train.curriculum.0.tune": tune,
                                 "train.curriculum.0.learning_rate": rate, "train.curriculum.1.steps": 1})  # fmt: skip
    alone, wanted = steps("ddp", 1)
    gradients, losses = steps(name, 2)
    assert all(apart(alone[0], each) < 1e-6 for each in gradients)
    assert losses == pytest.approx(wanted, abs=tolerance)
