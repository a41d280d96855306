"""What a plan says of a training follows what training does, by hand-made figures: tokens,
precision, recomputation, budgets, ranks.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from components.config.errors import InputError
from components.config.params import overridden
from components.plan.load import Load, gpu_of
from components.plan.networks import Networks, networks
from components.plan.speech import Audio
from components.plan.training import train_load
from tests.conftest import REPOSITORY

SPEECH = [
    Audio("train", "made", 40_000.0, 10_000, "settings"),
    Audio("dev", "made", 400.0, 100, "settings"),
]  # of 4 s each
NAMES = {
    "encoder": "ctc-tiny",
    "projector": "linear",
    "llm": "llama-tiny",
    "features.mode": "live",
    "train.batch_seconds": 40,
    "train.curriculum.0.steps": 100,
    "train.curriculum.1.steps": 100,
    "train.curriculum.1.tune": ["projector"],
    "train.matching.weight": 0.0,
}
Planned = Callable[..., tuple[Load, Networks]]


@pytest.fixture
def planned(monkeypatch: pytest.MonkeyPatch) -> Planned:
    """The load of a training and its networks, with some parameters changed."""
    monkeypatch.chdir(REPOSITORY)

    def of(shared: int = 1, dtype: str = "float32", **changed: Any) -> tuple[Load, Networks]:
        params = overridden(
            {**NAMES, **{key.replace("__", "."): value for key, value in changed.items()}},
            "overrides",
        )
        nets = networks(params)
        return train_load(params, nets, SPEECH, dtype, "float32", shared), nets

    return of


def test_operations_are_those_of_the_formulas(planned: Planned) -> None:
    """200 steps of ten utterances of 4 s: each 20 tokens of speech, 14.8 of text, 20 of the prompt,
    and the end.
    """
    load, nets = planned()
    tokens = 2_000 * (20 + 4 * 3.7 + 20 + 1)
    llm, encoder, projector = (
        nets.llm.parameters,
        nets.encoder.parameters,
        nets.modules["projector"][0],
    )
    assert load.operations == pytest.approx(
        4 * llm * tokens + 6 * projector * 2_000 * 20 + 2 * encoder * 25 * 8_000
    )
    again = planned(train__gradient_checkpointing=True)[0]
    assert again.operations - load.operations == pytest.approx(
        2 * llm * tokens
    )  # the frozen encoder keeps nothing
    whole = planned(train__curriculum__0__tune=["llm"])[0].operations
    assert whole - load.operations == pytest.approx(
        (2 * llm * tokens - 6 * projector * 2_000 * 20) / 2
    )  # of half of the steps


def test_an_encoder_costs_its_way_back_and_its_own_gradients(planned: Planned) -> None:
    frozen, nets = planned()
    forward = 2 * nets.encoder.parameters * 25 * 4_000  # of one of the two stages
    for tune, passes in ((["projector", "encoder-lora"], 1), (["projector", "encoder"], 2)):
        load = planned(train__curriculum__0__tune=tune)[0]
        assert load.operations - frozen.operations == pytest.approx(passes * forward, rel=1e-6)
        again = planned(train__curriculum__0__tune=tune, train__gradient_checkpointing=True)[0]
        frozen_again = planned(train__gradient_checkpointing=True)[0]
        assert again.operations - frozen_again.operations == pytest.approx((passes + 1) * forward)
        assert again.memory < load.memory > frozen.memory


@pytest.mark.parametrize(
    ("projector", "tokens"),
    [
        ("linear", 20),
        ("segment-qformer", 80),
        ("cross-attention", 80),
        ("ctc-compressor", 100),
        ("window-qformer-960ms", 2),
    ],
)
def test_tokens_are_those_that_the_bridge_makes_of_an_utterance(
    projector: str, tokens: int, planned: Planned
) -> None:
    assert planned(projector=projector)[1].speech_tokens(4.0) == tokens


def test_half_precision_is_faster_and_keeps_half_of_the_activations(planned: Planned) -> None:
    """But for a copy of the weights, that the backward pass wants."""
    full, half = (
        planned(train__batch_seconds=400)[0],
        planned(train__precision="bf16", train__batch_seconds=400)[0],
    )
    h200 = gpu_of("h200")
    assert (full.dtype, half.dtype) == ("float32", "bfloat16")
    assert (half.hours(h200) or 0) < (full.hours(h200) or 0)
    assert half.memory < full.memory
    assert half.computed.keys() == {
        "bfloat16",
        "float32",
    }  # a frozen encoder is run as its entry says
    tunes = {
        f"train__curriculum__{number}__tune": ["projector", "encoder-lora"] for number in (0, 1)
    }
    tuned = planned(train__precision="bf16", **tunes)[0]
    assert {dtype for dtype, count in tuned.computed.items() if count} == {"bfloat16"}
    assert half.hours(gpu_of("t4")) is None
    assert planned(train__precision="fp16")[0].hours(gpu_of("t4"))
    small, nets = planned(train__batch_seconds=4, train__micro_batches=1)
    copied = planned(train__batch_seconds=4, train__micro_batches=1, train__precision="bf16")[0]
    kept = 55.8 * nets.llm.width * nets.llm.layers * 17
    assert copied.memory - small.memory == pytest.approx(2 * nets.llm.layered - 2 * kept)


def test_gradient_checkpointing_keeps_a_vector_a_token_and_layer(planned: Planned) -> None:
    load, nets = planned(features__mode="cached")
    again = planned(features__mode="cached", train__gradient_checkpointing=True)[0]
    tokens = 5 * 55.8  # of a micro-batch
    assert load.memory - again.memory == pytest.approx(
        4 * tokens * nets.llm.width * (17 * nets.llm.layers - (nets.llm.layers + 17))
    )


def test_budgets_cut_a_step(planned: Planned) -> None:
    load = planned()[0]
    half = planned(train__batch_tokens=279)[0]  # of 558
    assert half.operations == pytest.approx(load.operations / 2)
    assert half.memory < load.memory
    assert planned(train__batch_tokens=10_000)[0] == load
    assert planned(train__micro_batches=5)[0].memory < load.memory
    assert (
        planned(train__concatenate__share=0.5, train__concatenate__seconds=90)[0].memory
        > load.memory
    )


def test_what_is_trained_is_held_with_its_states_for_the_stage_that_trains_most(
    planned: Planned,
) -> None:
    frozen, nets = planned(features__mode="cached")
    tuned = planned(features__mode="cached", train__curriculum__0__tune=["projector", "llm"])[0]
    assert tuned.memory - frozen.memory == pytest.approx(12 * nets.llm.parameters)


def test_patterns_leave_parameters_frozen(planned: Planned) -> None:
    lower = planned(
        train__curriculum__0__tune=["llm"], train__curriculum__0__freeze=["llm.model.layers.*"]
    )[1]
    assert lower.modules["LLM"] == (lower.llm.parameters - lower.llm.layered, lower.llm.layered)
    with pytest.raises(
        InputError,
        match=r"stage 'projector': the pattern 'llm\.layers\..*matches nothing.*llm\.model\.layers",
    ):
        planned(train__curriculum__0__tune=["llm"], train__curriculum__0__freeze=["llm.layers.0.*"])
    stage = {"train__curriculum__0__tune": ["encoder"]}
    layers = (f"encoder.model.encoder.layers.{those}.*" for those in ("[0-1]", "?"))
    half, whole = (
        planned(**stage, train__curriculum__0__freeze=[pattern])[1] for pattern in layers
    )
    assert half.modules["encoder"][1] * 2 == whole.modules["encoder"][1] > 0


def test_layers_of_a_shared_llm_are_divided_by_the_ranks(planned: Planned) -> None:
    alone, nets = planned(features__mode="cached", train__curriculum__0__tune=["projector", "llm"])
    shared = planned(4, features__mode="cached", train__curriculum__0__tune=["projector", "llm"])[0]
    layer = nets.llm.layered / nets.llm.layers
    assert alone.memory - shared.memory == pytest.approx(
        16 * nets.llm.layered * 3 / 4 - 4 * 2 * layer
    )


def test_a_projector_that_is_taken_over_trains_nothing(planned: Planned) -> None:
    nets = planned(projector="linear")[1]
    assert replace(nets, stages=()).trained == nets.trained > 0
