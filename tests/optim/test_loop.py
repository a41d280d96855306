"""The training loop on a linear model: micro-batches, hooks, learning rates, resume, early stop."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch

from components.config.errors import InputError
from components.optim import loop as loops
from components.optim.loop import (
    MAX_SKIPPED_STEPS,
    LoopSettings,
    MicroBatchLoss,
    Objective,
    StepBatch,
    StepResult,
    TrainingLoop,
    build_adamw,
    learning_rate_factor,
)
from components.optim.precision import Precision
from components.optim.ranks import Ranks, train_together
from components.runtime.progress import Progress


class Killed(Exception):
    """Stands for a kill."""


class SquaredError(Objective[int]):
    """Squares of a linear layer's outputs for seeded inputs; counts what the loop calls."""

    figure_names = ("loss", "items")

    def __init__(
        self, network: torch.nn.Module, kill_at: int | None = None, stop_after: int | None = None
    ) -> None:
        self.network, self.kill_at, self.stop_after = network, kill_at, stop_after
        self.results: list[StepResult] = []
        self.calls: list[str] = []
        self.num_checkpoints = 0

    def batch(self, step: int) -> StepBatch[int]:
        if step == self.kill_at:
            raise Killed
        return StepBatch(list(range(step, step + 5)), num_utterances=5)

    def before_step(self, step: int) -> None:
        self.calls.append(f"before {step}")

    def loss(self, micro_batch: list[int], batch: StepBatch[int], step: int) -> MicroBatchLoss:
        inputs = torch.stack(
            [torch.randn(4, generator=torch.Generator().manual_seed(item)) for item in micro_batch]
        )
        loss = self.network(inputs).pow(2).sum() / batch.num_utterances
        return MicroBatchLoss(loss, {"loss": loss.item(), "items": len(micro_batch)})

    def check_gradients(self) -> None:
        self.calls.append("check")

    def after_step(self, step: int, batch: StepBatch[int], result: StepResult) -> None:
        self.results.append(result)

    def note(self) -> str:
        return f"{len(self.results)} steps, {self.num_checkpoints} checkpoints"

    def checkpoint_state(self, num_steps_done: int) -> dict[str, Any]:
        self.num_checkpoints += 1
        return {"checkpoints": self.num_checkpoints}

    def restore_state(self, state: dict[str, Any]) -> None:
        self.num_checkpoints = state["checkpoints"]

    def stop_reason(self) -> str:
        return "enough" if len(self.results) == self.stop_after else ""


def build(folder: Path, ranks: Ranks | None = None) -> tuple[torch.nn.Module, TrainingLoop]:
    torch.manual_seed(1)
    network = torch.nn.Linear(4, 3)
    settings = LoopSettings("train", "test", 8, 2, "cosine", 1.0, 2, 3, folder / "checkpoint")
    optimiser = build_adamw(network, 0.01, 0.1)
    return network, TrainingLoop(ranks or Ranks(), network, optimiser, settings)


def test_every_step_runs_and_its_figures_are_summed(tmp_path: Path) -> None:
    network, loop = build(tmp_path)
    objective = SquaredError(network)
    loop.run(objective)
    assert objective.calls == ["before 0", "check", *(f"before {step}" for step in range(1, 8))]
    assert [result.figures["items"] for result in objective.results] == [5] * 8
    assert all(result.is_applied for result in objective.results)
    assert objective.results[-1].figures["loss"] < objective.results[0].figures["loss"]
    assert objective.num_checkpoints == 3  # after 3, 6 and 8 steps
    state = json.loads((tmp_path / "checkpoint/state.json").read_text())
    assert (state["step"], state["checkpoints"]) == (8, 3)


def test_the_note_of_a_step_knows_its_checkpoint(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    notes: list[str] = []

    @contextmanager
    def recorded_progress(*_: object) -> Iterator[Progress]:
        yield Progress("train", "test", 8, "steps", lambda _, note: notes.append(note))

    monkeypatch.setattr(loops, "progress", recorded_progress)
    network, loop = build(tmp_path)
    loop.run(SquaredError(network))
    counts = [0, 0, 1, 1, 1, 2, 2, 3]  # a checkpoint after 3, 6 and 8 steps
    assert notes == [f"{step} steps, {count} checkpoints" for step, count in enumerate(counts, 1)]


def test_learning_rates_follow_the_schedule_and_the_peak_of_their_group(tmp_path: Path) -> None:
    network, loop = build(tmp_path)
    parameters = list(network.parameters())
    loop.optimiser = torch.optim.AdamW(
        [{"params": parameters[:1], "lr": 0.2}, {"params": parameters[1:], "lr": 0.02}]
    )
    loop.__post_init__()
    objective = SquaredError(network)
    rates = []
    for step in range(3):
        loop.step(objective, objective.batch(step), step)
        rates.append([group["lr"] for group in loop.optimiser.param_groups])
    factors = [learning_rate_factor(step, 8, 2, "cosine") for step in range(3)]
    assert rates == [[0.2 * factor, 0.02 * factor] for factor in factors]


def flip_bit(file: Path) -> None:
    data = bytearray(file.read_bytes())
    data[len(data) // 2] ^= 1
    file.write_bytes(data)


def halve(file: Path) -> None:
    os.truncate(file, file.stat().st_size // 2)


def empty(file: Path) -> None:
    os.truncate(file, 0)


def write_empty_object(file: Path) -> None:
    file.write_text("{}")


DAMAGES = [flip_bit, halve, empty, write_empty_object, Path.unlink]
NAMES = ["tensors.safetensors", "state.json", "digests.json"]
NEWEST, BOTH = ("checkpoint",), ("checkpoint", "checkpoint.old")


@pytest.mark.parametrize(
    ("folders", "name", "damage"),
    [
        *((NEWEST, name, damage) for name in NAMES for damage in DAMAGES),
        (BOTH, "tensors.safetensors", flip_bit),
        (BOTH, "state.json", empty),
    ],
)
def test_a_run_with_damaged_checkpoints_says_so_and_ends_with_the_same_bits(
    folders: tuple[str, ...],
    name: str,
    damage: Callable[[Path], None],
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Killed after checkpoints of steps 3 and 6."""
    network, loop = build(tmp_path / "undisturbed")
    loop.run(SquaredError(network))
    killed, loop = build(tmp_path)
    with pytest.raises(Killed):
        loop.run(SquaredError(killed, kill_at=7))
    for folder in folders:
        damage(tmp_path / folder / name)
    resumed, loop = build(tmp_path)
    objective = SquaredError(resumed)
    loop.run(objective)
    assert len(objective.results) == (5 if len(folders) == 1 else 8)
    assert torch.equal(resumed.weight, network.weight)
    assert torch.equal(resumed.bias, network.bias)
    [line] = [record.getMessage() for record in caplog.records]
    assert all(str(tmp_path / folder) in line for folder in folders)
    # What was damaged is gone: the next run has nothing to say.
    caplog.clear()
    _, loop = build(tmp_path)
    loop.run(SquaredError(resumed))
    assert not caplog.records


@pytest.mark.parametrize("step", [1, 3, 4, 7])
def test_a_killed_run_resumes_to_the_same_bits(step: int, tmp_path: Path) -> None:
    network, loop = build(tmp_path / "undisturbed")
    loop.run(SquaredError(network))
    killed, loop = build(tmp_path / "killed")
    with pytest.raises(Killed):
        loop.run(SquaredError(killed, kill_at=step))
    resumed, loop = build(tmp_path / "killed")
    objective = SquaredError(resumed)
    loop.run(objective)
    assert len(objective.results) == 8 - 3 * (step // 3)
    assert objective.num_checkpoints == 3
    for parameter, other in zip(network.parameters(), resumed.parameters(), strict=True):
        assert torch.equal(parameter, other)


def test_an_objective_stops_the_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LIBRETTO_PROGRESS", str(tmp_path / "progress.jsonl"))
    network, loop = build(tmp_path)
    objective = SquaredError(network, stop_after=4)
    loop.run(objective)
    assert len(objective.results) == 4
    lines = (tmp_path / "progress.jsonl").read_text().splitlines()
    assert json.loads(lines[-1])["note"] == "enough"


def train(ranks: Ranks, folder: str) -> None:
    network, loop = build(Path(folder), ranks)
    objective = SquaredError(network)
    loop.run(objective)
    figures = [result.figures["items"] for result in objective.results]
    torch.save([network.state_dict(), figures], Path(folder) / f"{ranks.rank}.pt")


@pytest.mark.slow
def test_two_processes_take_the_same_checkpoint_where_the_newest_is_damaged(tmp_path: Path) -> None:
    arguments = (str(tmp_path),)
    train_together(train, arguments, 2, 1)
    expected = torch.load(tmp_path / "0.pt", weights_only=True)[0]
    flip_bit(tmp_path / "checkpoint" / "tensors.safetensors")
    train_together(train, arguments, 2, 1)
    for rank in range(2):
        weights, figures = torch.load(tmp_path / f"{rank}.pt", weights_only=True)
        assert len(figures) == 2  # from step 6 of 8
        assert all(torch.equal(weights[name], expected[name]) for name in expected)


@pytest.mark.slow
def test_two_processes_have_the_weights_and_figures_of_one(tmp_path: Path) -> None:
    for processes in (1, 2):
        (tmp_path / str(processes)).mkdir()
        train_together(train, (str(tmp_path / str(processes)),), processes, 1)
    results = [
        torch.load(tmp_path / path, weights_only=True) for path in ("1/0.pt", "2/0.pt", "2/1.pt")
    ]
    for weights, figures in results[1:]:
        assert figures == results[0][1]
        assert all(torch.equal(weights[name], results[0][0][name]) for name in weights)


BAD_ITEM = 6  # of the batches of steps 2 to 6; in step 2 the last of its five items


class BadItem(SquaredError):
    """The loss of one item, or its gradient alone, is multiplied by ``factor``."""

    def __init__(self, network: torch.nn.Module, factor: float, gradient: bool = False) -> None:
        super().__init__(network)
        self.factor, self.gradient = factor, gradient

    def loss(self, micro_batch: list[int], batch: StepBatch[int], step: int) -> MicroBatchLoss:
        loss = super().loss(micro_batch, batch, step)
        if BAD_ITEM not in micro_batch:
            return loss
        if not self.gradient:
            return MicroBatchLoss(loss.total * self.factor, loss.figures)
        loss.total.register_hook(lambda gradient: gradient * self.factor)
        return loss


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("factor", [float("nan"), float("inf")])
@pytest.mark.parametrize("gradient", [False, True])
def test_what_is_not_finite_stops_the_run_before_a_weight_changes(
    precision: str, factor: float, gradient: bool, tmp_path: Path
) -> None:
    network, loop = build(tmp_path)
    loop.precision = Precision(precision, "cpu")
    objective = BadItem(network, factor, gradient)
    value = "norm of the gradients is (nan|inf)" if gradient else f"loss is {factor}"
    with pytest.raises(InputError, match=rf"train: the {value} at step 2 of 'test'") as stopped:
        loop.run(objective)
    assert "train.learning_rate" in stopped.value.hint
    assert ("train.precision" in stopped.value.hint) == (precision != "fp32")
    assert len(objective.results) == 2
    assert all(torch.isfinite(parameter).all() for parameter in network.parameters())


def test_the_loss_scaler_skips_a_step_that_is_not_finite(tmp_path: Path) -> None:
    network, loop = build(tmp_path)
    loop.precision = Precision("fp16", "cpu")
    objective = BadItem(network, float("inf"))
    loop.run(objective)
    assert [result.is_applied for result in objective.results] == [
        step not in range(2, 7) for step in range(8)
    ]
    assert all(torch.isfinite(parameter).all() for parameter in network.parameters())
    objective.is_overflow_fatal = True
    with pytest.raises(InputError, match="the loss is inf at step 2"):
        loop.step(objective, objective.batch(2), 2)


def test_overflows_in_a_row_end_a_run_that_learns_nothing(tmp_path: Path) -> None:
    network, loop = build(tmp_path)
    loop.precision = Precision("fp16", "cpu")
    loop.settings = replace(loop.settings, num_steps=40)
    objective = SquaredError(network)
    network.weight.register_hook(lambda gradient: gradient * float("inf"))
    with pytest.raises(InputError, match=rf"{MAX_SKIPPED_STEPS} steps in a row") as stopped:
        loop.run(objective)
    assert "train.precision" in stopped.value.hint
    assert len(objective.results) == MAX_SKIPPED_STEPS


def train_bad_item(ranks: Ranks, folder: str, gradient: bool) -> None:
    network, loop = build(Path(folder), ranks)
    try:
        loop.run(BadItem(network, float("nan"), gradient))
    except InputError as error:
        (Path(folder) / f"{ranks.rank}.txt").write_text(str(error))
        ranks.barrier()  # returns where every rank has stopped
        raise


@pytest.mark.slow
@pytest.mark.parametrize("gradient", [False, True])
def test_all_ranks_stop_at_the_loss_of_one(gradient: bool, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="nan at step 2 of 'test'"):
        train_together(train_bad_item, (str(tmp_path), gradient), 2, 1)
    texts = [(tmp_path / f"{rank}.txt").read_text() for rank in range(2)]
    assert texts[0] == texts[1]


@pytest.mark.parametrize("decay", ["constant", "linear", "cosine"])
def test_a_schedule_warms_up_to_its_peak_and_decays(decay: str) -> None:
    rates = [learning_rate_factor(step, 100, 20, decay) for step in range(100)]
    assert rates[:20] == pytest.approx([(step + 1) / 20 for step in range(20)])
    assert max(rates) == rates[19] == rates[20] == 1.0
    after = rates[20:]
    assert all(rate >= next_rate for rate, next_rate in pairwise(after))
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
    assert [learning_rate_factor(step, 10, 0, "linear") for step in (10, 25)] == [0.0, 0.0]
    assert learning_rate_factor(0, 1, 0, "cosine") == 1.0
    assert learning_rate_factor(9, 10, 10, "cosine") == 1.0
