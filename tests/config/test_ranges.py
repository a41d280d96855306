"""Any number in params.yaml, the catalogue and the settings is refused with its key, or is worth a
plan that ends at once.
"""

from __future__ import annotations

import math
from typing import Any

import pytest

from components.config.errors import InputError
from components.config.params import parse_params, read_params
from components.plan.__main__ import main as run_plan
from components.runtime.stage import check_names
from tests.config.test_params import NEGATIVE, RAW, changed, dotted, numbers
from tests.conftest import REPOSITORY

ODD_VALUES = (math.nan, math.inf, -1, 0, 10**12, 1e-320)
# Where a tiny share is one too, a rule names what it lacks: noise in the corpus, a length.
LACKING = {str(RAW["corpus"]), "train.concatenate.seconds"}
# The largest of these need more memory than this machine has.
COSTLY = ("batch_seconds", "beams", "max_tokens", "probability")

# A training that diverges stops at its first steps and says so, whatever the rate.
LEARNING_RATES = {"learning_rate", "projector_learning_rate", "full"}


@pytest.fixture(autouse=True)
def root(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(REPOSITORY)


def is_accepted(keys: tuple, value: Any) -> bool:
    """Whether the value is taken; one that is not must be refused with its key or its pair's."""
    try:
        check_names(parse_params(changed({keys: value}), "params.yaml"))
    except InputError as error:
        assert error.hint
        assert error.subject in {dotted(keys), dotted(keys[:-1]), *LACKING}, keys
        return False
    return True


def test_odd_numbers_are_taken_or_refused_with_their_key() -> None:
    for keys in numbers(RAW):
        for value in ODD_VALUES:
            is_taken = is_accepted(keys, value)
            has_limit = not LEARNING_RATES & set(keys)
            assert not (is_taken and has_limit and abs(value) >= 10**12), keys
            assert not (is_taken and value < 0 and keys not in NEGATIVE), keys


@pytest.mark.slow
def test_a_plan_of_the_largest_numbers_ends_at_once(capsys: pytest.CaptureFixture[str]) -> None:
    for keys in numbers(RAW):
        if {"constrained", "encoder_lora"} & set(keys):  # as the other set and the other LoRA
            continue
        largest = next((10**power for power in range(9, -1, -1) if is_accepted(keys, 10**power)), 0)
        if largest <= 1:  # a share, or one of a pair whose other value is above
            continue
        code = run_plan(["-S", f"{dotted(keys)}={largest}"])
        assert code == 0 or (code == 2 and keys[-1] in COSTLY), (keys, capsys.readouterr())


def test_steps_beyond_any_training_are_refused(capsys: pytest.CaptureFixture[str]) -> None:
    assert run_plan(["-S", "train.curriculum.0.steps=1000000000"]) == 2
    captured = capsys.readouterr()
    assert "train.curriculum.0.steps" in captured.out + captured.err
    assert read_params().train.curriculum[0].steps == 500
