"""Files of a killed training that are damaged later: another checkpoint is taken, and the result is
that of an undisturbed run.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from components.text.wer import WordErrors
from components.train import selection
from components.train.objective import StageObjective
from tests import world as tones
from tests.train.test_train import Killed, trained


def flip_bit(file: Path) -> None:
    data = bytearray(file.read_bytes())
    data[len(data) // 2] ^= 1
    file.write_bytes(data)


def cut(file: Path) -> None:
    file.write_bytes(file.read_bytes()[:-5])


@pytest.mark.parametrize(
    ("file", "damage", "is_improving", "first_step"),
    [  # killed before step 5, with checkpoints after steps 2 and 4
        ("last/tensors.safetensors", flip_bit, True, 2),
        ("last/state.json", flip_bit, False, 2),
        ("best/tensors.safetensors", flip_bit, True, 2),  # step 2 was the best before step 4
        ("best/tensors.safetensors", flip_bit, False, 0),  # step 2 is the best at both
        ("throughput.json", cut, True, 4),  # no result depends on it
    ],
)
def test_a_training_with_a_damaged_file_resumes_to_the_same_bits(
    file: str,
    damage: Callable[[Path], None],
    is_improving: bool,
    first_step: int,
    world: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    before_step: Callable[..., None],
    caplog: pytest.LogCaptureFixture,
) -> None:
    kills, steps = list[int](), list[int]()

    def kill(objective: StageObjective, step: int, examples: Any) -> None:
        if step in kills:
            kills.clear()
            raise Killed
        steps.append(step)

    def dev_errors(*_: Any) -> WordErrors:
        return WordErrors(substitutions=9 - steps[-1] if is_improving else 5, words=10)

    before_step(kill)
    monkeypatch.setattr(selection, "dev_errors", dev_errors)
    undisturbed = trained()
    monkeypatch.setenv("LIBRETTO_WORK", str(tmp_path / "other work"))
    kills.append(5)
    with pytest.raises(Killed):
        tones.run("train")
    [damaged] = (tmp_path / "other work").rglob(f"0-projector/{file}")
    damage(damaged)
    steps.clear()
    assert trained() == undisturbed
    assert steps[0] == first_step
    warnings = [line for line in caplog.messages if "damaged" in line]
    assert len(warnings) == (file != "throughput.json")


@pytest.mark.parametrize("file", ["best/tensors.safetensors", "curve.jsonl", "steps"])
def test_a_finished_stage_with_a_damaged_file_is_trained_again(
    file: str,
    world: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    before_step: Callable[..., None],
    caplog: pytest.LogCaptureFixture,
) -> None:
    undisturbed = trained()
    monkeypatch.setenv("LIBRETTO_WORK", str(tmp_path / "other work"))
    kills, stages = ["lora"], list[str]()

    def kill(objective: StageObjective, step: int, examples: Any) -> None:
        stages.append(objective.context.stage.name)
        if kills and stages[-1] == "lora":
            kills.clear()
            raise Killed

    before_step(kill)
    with pytest.raises(Killed):
        tones.run("train")
    # The finished stage is in the cache too, as the same files.
    [damaged] = (tmp_path / "other work").rglob(f"0-projector/{file}")
    damaged.chmod(0o644)
    flip_bit(damaged)
    stages.clear()
    assert trained() == undisturbed
    assert stages.count("projector") == 6
    assert "damaged" in caplog.text
