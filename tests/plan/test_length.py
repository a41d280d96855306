"""The length of a training in steps, epochs and hours, by figures calculated by hand, and the
warning about one that is too short.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from components.config.params import read_overridden_params
from components.plan import run
from components.plan.length import StageLength, list_stage_lengths, sum_speech_epochs
from components.plan.machine import Machine
from components.plan.networks import read_networks
from components.plan.report import print_plan
from components.plan.speech import AudioAmount
from components.runtime import world_size
from tests.conftest import REPOSITORY

SPEECH = [
    AudioAmount("train", "voices", 40_000.0, 10_000, "settings"),
    AudioAmount("nonspeech-train", "sounds", 2_000.0, 1_000, "settings"),
]  # of 4 s and 2 s each
LIBRISPEECH = {
    "corpus": "librispeech",
    "encoder": "whisper-large-v2",
    "projector": "linear",
    "llm": "phi-2",
    "features.mode": "live",
}
Lengths = Callable[..., list[StageLength]]


@pytest.fixture
def lengths(monkeypatch: pytest.MonkeyPatch) -> Lengths:
    """The lengths with some keys of the first stage changed; it alone trains."""
    monkeypatch.chdir(REPOSITORY)

    def lengths(batch_tokens: int = 0, **changed: Any) -> list[StageLength]:
        stage = read_overridden_params({}, "").raw["train"]["curriculum"][0]
        values = {
            "train.curriculum": [{**stage, **changed}],
            "train.batch_seconds": 40,
            "train.batch_tokens": batch_tokens,
        }
        params = read_overridden_params(values, "overrides")
        return list_stage_lengths(params.train, read_networks(params), SPEECH)

    return lengths


def test_steps_are_epochs_and_epochs_are_steps(lengths: Lengths) -> None:
    """Steps of 40 s, 40,000 s of speech: 1,000 steps are an epoch."""
    for length in (lengths(steps=500), lengths(steps=None, epochs=0.5)):
        assert length == [StageLength("projector", 500, 0.5, 20_000.0, True)]


def test_nonspeech_makes_an_epoch_longer(lengths: Lengths) -> None:
    """A fifth of the utterances: 2,500 clips of 2 s beside 40,000 s of speech."""
    (length,) = lengths(steps=None, epochs=2, nonspeech_share=0.2)
    assert (length.num_steps, length.epochs) == (2 * 45_000 / 40, 2.0)
    (length,) = lengths(steps=25, nonspeech_share=1.0)
    assert (length.epochs, length.has_speech) == (0.5, False)
    assert sum_speech_epochs([length]) == 0


def test_full_windows_are_counted_in_an_epoch(monkeypatch: pytest.MonkeyPatch) -> None:
    """16 windows in 480 s: 10,000 utterances, and a fifth of non-speech beside them, each a window
    however short it is; the audio is that of the recordings.
    """
    monkeypatch.chdir(REPOSITORY)
    stage = read_overridden_params({}, "").raw["train"]["curriculum"][0]
    values = {
        "encoder": "whisper-tiny",
        "features.padding": "full-window",
        "train.curriculum": [{**stage, "steps": None, "epochs": 2, "nonspeech_share": 0.2}],
        "train.batch_seconds": 480,
    }
    params = read_overridden_params(values, "overrides")
    (length,) = list_stage_lengths(params.train, read_networks(params), SPEECH)
    assert length.num_steps == 2 * 12_500 / 16 + 0.5
    assert length.epochs == pytest.approx(2, rel=1e-3)
    assert length.seconds == pytest.approx(2 * 45_000, rel=1e-3)


def test_a_budget_in_tokens_makes_steps_shorter(lengths: Lengths) -> None:
    """An utterance of 4 s has 33.3 tokens of speech, 14.8 of text, 20 of the prompt, and the end:
    345.7 of these are five of them.
    """
    (length,) = lengths(batch_tokens=346, steps=100)
    assert length.seconds == pytest.approx(100 * 5 * 4, rel=0.01)


@pytest.mark.parametrize(
    ("changed", "recipe"),
    [
        ({}, "slam-asr-table-3 --only phi-2"),
        ({"encoder": "hubert-xlarge-ls960-ft", "llm": "vicuna-7b"}, "slam-asr"),
        ({"train.curriculum.0.epochs": 1, "train.curriculum.0.steps": None}, ""),
    ],
)
def test_a_training_that_is_too_short_is_warned_of(
    changed: dict[str, Any],
    recipe: str,
    machine: Machine,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """The default curriculum sees 1.7 % of LibriSpeech; the last line names a recipe for it."""
    monkeypatch.chdir(REPOSITORY)
    params = read_overridden_params({**LIBRISPEECH, **changed}, "overrides")
    print_plan(run.plan_run(params, machine=machine))
    last = " ".join(capsys.readouterr().out.split()).rpartition("WARNING")
    assert bool(last[0]) == bool(recipe)
    assert f"libretto use {recipe}." in last[2] or not recipe


def test_cached_and_live_frames_are_planned_side_by_side(
    machine: Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The other mode is planned too, unless a part of the encoder is tuned: it is live then."""
    monkeypatch.chdir(REPOSITORY)
    stage = {"train.curriculum.0.epochs": 3, "train.curriculum.0.steps": None}
    values = {**LIBRISPEECH, **stage, "features.mode": "cached"}
    cached = run.plan_run(read_overridden_params(values, ""), machine=machine)
    live = run.plan_run(
        read_overridden_params({**values, "features.mode": "live"}, ""), machine=machine
    )
    assert [load.stage for load in cached.loads] == ["features", "ctc", "train", "decode"]
    assert [load.stage for load in live.loads] == ["ctc", "train", "decode"]
    assert cached.other_loads == live.loads and live.other_loads == cached.loads
    once = cached.loads[0].total_operations
    # live: three epochs of the same audio, and what is tested
    assert sum(load.total_operations for load in live.loads) > 2 * once + sum(
        load.total_operations for load in cached.loads[1:]
    )
    tuned = {"train.curriculum.0.tune": ["projector", "encoder"], "features.mode": "live"}
    plan = run.plan_run(read_overridden_params({**values, **tuned}, ""), machine=machine)
    assert plan.other_loads == []


@pytest.mark.parametrize(("micro_batches", "is_said"), [(1, True), (2, True), (8, False)])
def test_gpus_that_have_no_part_of_a_step_are_named(
    micro_batches: int,
    is_said: bool,
    machine: Machine,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Also where one GPU trains alone, without an engine."""
    monkeypatch.chdir(REPOSITORY)
    for module in (run, world_size):
        monkeypatch.setattr(module, "count_gpus", lambda: 8)
    params = read_overridden_params({**LIBRISPEECH, "train.micro_batches": micro_batches}, "")
    print_plan(run.plan_run(params, machine=machine))
    printed = capsys.readouterr().out
    assert (f"{micro_batches} of 8 GPUs" in printed) == is_said
    assert ("raise train.micro_batches" in printed) == is_said
