"""Checkpoints of a training in progress: whole or not there, whenever the kill comes; and the rate
schedules.
"""

from __future__ import annotations

import copy
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch

from components.config.errors import InputError
from components.optim import checkpoint
from components.optim.loop import learning_rate_factor
from components.runtime.hashing import folder_digests


def network(seed: int = 0) -> torch.nn.Sequential:
    """Trained and frozen parameters, and buffers."""
    torch.manual_seed(seed)
    made = torch.nn.Sequential(
        torch.nn.Linear(4, 8), torch.nn.BatchNorm1d(8), torch.nn.Linear(8, 3), torch.nn.Linear(3, 3)
    )
    made[3].requires_grad_(False)
    return made


def optimiser_of(module: torch.nn.Module) -> torch.optim.AdamW:
    return torch.optim.AdamW([each for each in module.parameters() if each.requires_grad], lr=0.05)


def train(module: torch.nn.Module, optimiser: torch.optim.Optimizer, steps: range) -> None:
    for step in steps:
        data = torch.randn(16, 4, generator=torch.Generator().manual_seed(step))
        optimiser.zero_grad()
        module(data).pow(2).mean().backward()
        optimiser.step()


def state_of(module: torch.nn.Module) -> dict[str, torch.Tensor]:
    return {name: tensor.clone() for name, tensor in module.state_dict().items()}


def same(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> bool:
    return one.keys() == other.keys() and all(
        torch.equal(tensor, other[name]) for name, tensor in one.items()
    )


def test_parameters_buffers_and_moments_come_back_to_the_bit(tmp_path: Path) -> None:
    module = network()
    optimiser = optimiser_of(module)
    train(module, optimiser, range(5))
    checkpoint.save(tmp_path / "last", module, optimiser, {"step": 5, "curve": [0.1, None]})
    train(module, optimiser, range(5, 9))
    again = network()
    others = optimiser_of(again)
    assert checkpoint.load(tmp_path / "last", again, others) == {"step": 5, "curve": [0.1, None]}
    train(again, others, range(5, 9))
    assert same(state_of(again), state_of(module))
    assert not list(tmp_path.rglob("*.pt"))


def test_a_saved_checkpoint_does_not_follow_the_training(tmp_path: Path) -> None:
    module = network()
    optimiser = optimiser_of(module)
    train(module, optimiser, range(2))
    checkpoint.save(tmp_path / "last", module, optimiser, {})
    before = state_of(module)
    train(module, optimiser, range(2, 4))
    assert not same(state_of(module), before)
    checkpoint.load(tmp_path / "last", module, optimiser)
    assert same(state_of(module), before)


def test_weights_alone_are_saved_and_read_without_an_optimiser(tmp_path: Path) -> None:
    module = network()
    checkpoint.save(tmp_path / "best", module, None, {"wer": 0.5})
    again = network(seed=1)
    frozen = again[3].weight.clone()
    assert checkpoint.load(tmp_path / "best", again, None) == {"wer": 0.5}
    assert torch.equal(again[0].weight, module[0].weight)
    assert torch.equal(again[3].weight, frozen)


def wider() -> torch.nn.Sequential:
    """As ``network``, with a last layer and running means of other sizes."""
    torch.manual_seed(5)
    made = torch.nn.Sequential(
        torch.nn.Linear(4, 8), torch.nn.BatchNorm1d(8), torch.nn.Linear(8, 5), torch.nn.Linear(5, 3)
    )
    made[3].requires_grad_(False)
    return made


def more() -> torch.nn.Sequential:
    return network(seed=5).requires_grad_(True)


def less() -> torch.nn.Sequential:
    made = network(seed=5)
    made[1] = torch.nn.Identity()
    return made


@pytest.mark.parametrize(
    ("other", "says"),
    [
        (wider, r"its parameter '2\.bias' is \(3,\), the model's is \(5,\)"),
        (more, r"parameter '3\.bias' is not there"),
        (less, r"parameter '1\.bias' is \(8,\), the model's is not there"),
    ],
)
def test_a_checkpoint_of_another_model_is_refused_and_nothing_is_overwritten(
    other: Any, says: str, tmp_path: Path
) -> None:
    checkpoint.save(tmp_path / "last", network(), None, {"step": 3})
    module = other()
    before, held = state_of(module), folder_digests(tmp_path)
    with pytest.raises(
        InputError,
        match=rf"last is a checkpoint of another model: .*{says}.*delete that folder to train anew",
    ):
        checkpoint.load(tmp_path / "last", module, None)
    assert same(state_of(module), before)
    assert folder_digests(tmp_path) == held


class Killed(Exception):
    """Stands for a kill."""


# What saving does to the file system, one after the other; a kill comes before one of them.
ACTS = ["rmtree", "mkdir", "save_file", "write_text", "rmtree", "rename", "rename", "rmtree"]


@pytest.mark.parametrize("act", range(len(ACTS)))
def test_a_kill_while_saving_leaves_a_whole_checkpoint(
    act: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, module = tmp_path / "last", network()
    checkpoint.save(folder, module, None, {"step": 1})
    first = state_of(module)
    with torch.no_grad():
        module[0].weight += 1
    second = copy.deepcopy(state_of(module))
    left = [act + 1]

    def dying(owner: Any, name: str) -> None:
        known = getattr(owner, name)

        def call(*arguments: Any, **named: Any) -> Any:
            left[0] -= 1
            if left[0] == 0:
                raise Killed
            return known(*arguments, **named)

        monkeypatch.setattr(owner, name, call)

    for owner, name in (
        (checkpoint.shutil, "rmtree"),
        (Path, "mkdir"),
        (checkpoint, "save_file"),
        (Path, "write_text"),
        (Path, "rename"),
    ):
        dying(owner, name)
    with pytest.raises(Killed):
        checkpoint.save(folder, module, None, {"step": 2})
    monkeypatch.undo()
    assert checkpoint.has_checkpoint(folder)
    step = checkpoint.load(folder, module, None)["step"]
    assert same(state_of(module), first if step == 1 else second)
    assert step == 1 or act > 6
    # And the next one is saved as if nothing had been.
    checkpoint.save(folder, module, None, {"step": 3})
    assert checkpoint.has_checkpoint(folder)
    assert checkpoint.load(folder, module, None) == {"step": 3}
    assert [path.name for path in tmp_path.iterdir()] == ["last"]


def test_no_checkpoint_is_there_before_the_first(tmp_path: Path) -> None:
    assert not checkpoint.has_checkpoint(tmp_path / "last")
    (tmp_path / "last.new").mkdir()
    assert not checkpoint.has_checkpoint(tmp_path / "last")


@pytest.mark.parametrize("decay", ["constant", "linear", "cosine"])
def test_a_schedule_warms_up_to_its_peak_and_decays(decay: str) -> None:
    rates = [learning_rate_factor(step, 100, 20, decay) for step in range(100)]
    assert rates[:20] == pytest.approx([(step + 1) / 20 for step in range(20)])
    assert max(rates) == rates[19] == rates[20] == 1.0
    after = rates[20:]
    assert all(one >= other for one, other in pairwise(after))
    assert {
        "constant": after[-1] == 1.0,
        "linear": 0 < after[-1] < 0.02,
        "cosine": 0 < after[-1] < 0.001,
    }[decay]
    middle = {"constant": 1.0, "linear": 0.5, "cosine": 0.5}[decay]
    assert rates[60] == pytest.approx(middle)
    if decay == "linear":
        assert after == pytest.approx([1 - step / 80 for step in range(80)])
    if decay == "cosine":
        assert rates[40] == pytest.approx(0.5 + 0.5 * 2**-0.5)


def test_a_schedule_without_warm_up_starts_at_its_peak() -> None:
    assert learning_rate_factor(0, 10, 0, "linear") == 1.0
    assert learning_rate_factor(0, 1, 0, "cosine") == 1.0
    assert learning_rate_factor(9, 10, 10, "cosine") == 1.0
