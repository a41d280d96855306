"""The jump of a training curve: found wherever and however steep it is, and nowhere else."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from components.train.curve import COLUMNS
from components.train.emergence import MIN_STEPS, find_jump, running_median, summarise
from tests import world as tones

HEAD = ",".join(COLUMNS) + "\n"
NOISE = st.floats(0, 0.05)  # of a batch
SEED = st.integers(0, 999)


def noisy(curve: np.ndarray, noise: float, seed: int) -> np.ndarray:
    return np.clip(curve + noise * np.random.default_rng(seed).standard_normal(len(curve)), 0, 1)


def sigmoid(steps: int, jump_step: float, slope: float, low: float, high: float) -> np.ndarray:
    return low + (high - low) * (1 + np.tanh((np.arange(steps) - jump_step) / (2 * slope))) / 2


@settings(max_examples=200, deadline=None)
@given(
    st.integers(100, 3000),
    st.floats(0, 1),
    st.floats(0, 1),
    st.floats(0, 0.45),
    st.floats(0.3, 0.6),
    NOISE,
    SEED,
)
def test_a_sigmoid_between_two_levels_is_detected(
    steps: int, position: float, slope: float, low: float, rise: float, noise: float, seed: int
) -> None:
    """Anywhere but near the ends, of any slope that leaves it levels; within a fiftieth
    of the run.
    """
    high = min(1, max(0.55, low + rise))
    width = 0.2 + slope * steps / 70
    margin = max(0.12 * steps, 14 * width)
    jump_step = margin + position * (steps - 2 * margin)
    jump = find_jump(noisy(sigmoid(steps, jump_step, width, low, high), noise, seed))
    assert jump is not None
    assert abs(jump.step - jump_step) <= 3 + 0.02 * steps
    assert jump.before == pytest.approx(low, abs=0.05)
    assert jump.after == pytest.approx(high, abs=0.05)


@settings(max_examples=50, deadline=None)
@given(st.integers(1000, 6000), st.floats(0.15, 0.85), NOISE, SEED)
def test_the_papers_curve_jumps_at_its_spike_and_not_at_its_first_rise(
    steps: int, position: float, noise: float, seed: int
) -> None:
    """At once to 0.4, a crawl, a spike to 0.85, a crawl (section 5 and figures 2 to 4)."""
    time = np.arange(steps) / steps
    curve = (
        0.4 * (1 - np.exp(-time / 0.01))
        + 0.05 * time
        + (0.4 + 0.1 * (time - position)) * (time >= position)
    )
    jump = find_jump(noisy(curve, noise, seed))
    assert jump is not None
    assert abs(jump.step - position * steps) <= 3 + 0.02 * steps
    assert jump.before == pytest.approx(0.42, abs=0.04)


SMOOTH = {
    "flat": lambda time: 0 * time + 0.6,
    "a line": lambda time: 0.2 + 0.6 * time,
    "falling": lambda time: 0.9 - 0.6 * time,
    "slowing down": lambda time: 0.95 * (1 - np.exp(-time / 0.08)),
    "slowing down all the time": lambda time: 0.15 * np.log1p(400 * time),
    "ever faster": lambda time: 0.9 * time**2,
    "collapsing": lambda time: np.where(time < 0.5, 0.9, 0.2),
    "what text alone gives": lambda time: np.where(time < 0.1, 0.02, 0.4),
}


@settings(max_examples=30, deadline=None)
@given(st.integers(150, 3000), NOISE, SEED)
@pytest.mark.parametrize("form", SMOOTH)
def test_a_curve_that_rises_evenly_or_not_at_all_has_no_jump(
    form: str, steps: int, noise: float, seed: int
) -> None:
    assert find_jump(noisy(SMOOTH[form](np.arange(steps) / steps), noise, seed)) is None


def test_more_steps_of_the_same_run_have_the_jump_at_the_same_position() -> None:
    positions = [
        find_jump(sigmoid(steps, 0.3 * steps, 0.01 * steps, 0.3, 0.9)).step / steps
        for steps in (200, 2_000, 20_000)
    ]
    assert positions == pytest.approx([0.3] * 3, abs=0.01)


def test_short_curves() -> None:
    """Some steps are no level, whatever they hold; from ``MIN_STEPS`` on a clean edge is one."""
    assert find_jump([]) is None
    assert find_jump([0.1] * 9 + [0.9] * 10) is None
    jump = find_jump([0.1] * (MIN_STEPS // 2) + [0.9] * (MIN_STEPS // 2))
    assert jump is not None and (jump.step, jump.before, jump.after) == (MIN_STEPS // 2, 0.1, 0.9)


def test_single_batches_are_smoothed_away_and_edges_stay() -> None:
    curve = np.repeat([0.2, 0.8], 30)
    curve[[0, 10, 59]] = 1.0, 0.9, 0.0
    assert running_median(curve).tolist() == np.repeat([0.2, 0.8], 30).tolist()


def test_the_summary_names_the_best_checkpoint_of_every_stage(tmp_path: Path) -> None:
    """Accuracy is that before a row's update, a word error rate that after it; of equal ones the
    first counts, as in training.
    """
    accuracy = [0.1] * 20 + [0.9] * 20
    wer = {9: 0.5, 19: 0.4, 29: 0.2, 39: 0.2}
    rows = [
        f"{step},{'one' if step < 20 else 'two'},{(step % 20 + 1) / 16},36,1.0,0.0,{value},"
        f"{wer.get(step, '')}"
        for step, value in enumerate(accuracy)
    ]
    (tmp_path / "curve.csv").write_text(HEAD + "\n".join(rows) + "\n")
    assert summarise(tmp_path / "curve.csv") == {
        "steps": 40,
        "epochs": {"one": 1.25, "two": 1.25},
        "audio_hours": {"one": 0.2, "two": 0.2},
        "accuracy": 0.9,
        "jump": {"step": 20, "accuracy_before": 0.1, "accuracy_after": 0.9},
        "best": {"one": {"dev_wer": 0.4, "step": 20}, "two": {"dev_wer": 0.2, "step": 30}},
    }


def test_epochs_of_a_stage_count_from_its_first_step(tmp_path: Path) -> None:
    """Also where its first step is more of an epoch than the stage before it has made."""
    rows = [("one", 0.01), ("one", 0.02), ("two", 0.1), ("two", 0.2), ("one", 0.01)]
    lines = [f"{step},{stage},{epoch},36,1,0,0.5," for step, (stage, epoch) in enumerate(rows)]
    (tmp_path / "curve.csv").write_text(HEAD + "\n".join(lines) + "\n")
    assert summarise(tmp_path / "curve.csv")["epochs"] == {"one": 0.03, "two": 0.2}


def test_a_curve_without_steps_has_no_figures(tmp_path: Path) -> None:
    """As released projectors leave it."""
    (tmp_path / "curve.csv").write_text(HEAD)
    nothing = {"step": None, "accuracy_before": None, "accuracy_after": None}
    assert summarise(tmp_path / "curve.csv") == {
        "steps": 0,
        "epochs": {},
        "audio_hours": {},
        "accuracy": None,
        "jump": nothing,
        "best": {},
    }


def test_the_stage_writes_the_summary_of_its_curve(world: Path) -> None:
    tones.run("train")
    metrics = json.loads(Path("metrics/train.json").read_text())
    assert metrics == summarise(Path("metrics/curve.csv"))
    assert metrics["steps"] == 12
    assert {name: best["step"] % 2 for name, best in metrics["best"].items()} == {
        "projector": 0,
        "lora": 0,
    }
