"""The estimate of a training follows what training does, by figures calculated by hand: tokens,
precision, recomputation, budgets, ranks.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from components.config import catalogue
from components.config.errors import InputError
from components.config.params import read_overridden_params, read_params
from components.plan.load import (
    StageLoad,
    estimate_decode,
    frozen_arithmetic,
    generation_steps,
    read_gpu,
)
from components.plan.networks import Networks, read_networks
from components.plan.speech import AudioAmount
from components.plan.training import estimate_train
from tests.conftest import REPOSITORY

SPEECH = [
    AudioAmount("train", "voices", 40_000.0, 10_000, "settings"),
    AudioAmount("dev", "voices", 400.0, 100, "settings"),
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
Estimate = Callable[..., tuple[StageLoad, Networks]]


@pytest.fixture
def estimate(monkeypatch: pytest.MonkeyPatch) -> Estimate:
    """Estimates a training with some parameters changed; returns its load and its networks."""
    monkeypatch.chdir(REPOSITORY)

    def estimate(
        num_sharing: int = 1, dtype: str = "float32", **changed: Any
    ) -> tuple[StageLoad, Networks]:
        values = {key.replace("__", "."): value for key, value in changed.items()}
        params = read_overridden_params({**NAMES, **values}, "overrides")
        networks = read_networks(params)
        load = estimate_train(params, networks, SPEECH, dtype, "float32", num_sharing)
        return load, networks

    return estimate


def test_operations_are_those_of_the_formulas(estimate: Estimate) -> None:
    """200 steps of ten utterances of 4 s: each 20 tokens of speech, 14.8 of text, 20 of the prompt,
    and the end.
    """
    load, networks = estimate()
    tokens = 2_000 * (20 + 4 * 3.7 + 20 + 1)
    llm, encoder, projector = (
        networks.llm.num_parameters,
        networks.encoder.num_parameters,
        networks.modules["projector"][0],
    )
    assert load.total_operations == pytest.approx(
        4 * llm * tokens + 6 * projector * 2_000 * 20 + 2 * encoder * 25 * 8_000
    )
    recomputing = estimate(train__gradient_checkpointing=True)[0]
    assert recomputing.total_operations - load.total_operations == pytest.approx(
        2 * llm * tokens
    )  # the frozen encoder stores nothing
    tuned = estimate(train__curriculum__0__tune=["llm"])[0].total_operations
    assert tuned - load.total_operations == pytest.approx(
        (2 * llm * tokens - 6 * projector * 2_000 * 20) / 2
    )  # of half of the steps


def test_a_stage_of_text_costs_the_llm_its_transcripts_alone(estimate: Estimate) -> None:
    """Of the second stage: 1,000 utterances of 14.8 tokens, and gradients of all its weights."""
    load, networks = estimate(
        train__curriculum__1__reads="text",
        train__curriculum__1__tune=["llm"],
        train__curriculum__1__nonspeech_share=0.0,
    )
    other = estimate()[0].total_operations / 2
    llm = networks.llm.num_parameters
    assert load.total_operations - other == pytest.approx(6 * llm * 1_000 * 4 * 3.7)


def test_a_tuned_encoder_costs_a_backward_pass_and_its_own_gradients(estimate: Estimate) -> None:
    frozen, networks = estimate()
    forward = 2 * networks.encoder.num_parameters * 25 * 4_000  # of one of the two stages
    for tune, passes in ((["projector", "encoder-lora"], 1), (["projector", "encoder"], 2)):
        load = estimate(train__curriculum__0__tune=tune)[0]
        assert load.total_operations - frozen.total_operations == pytest.approx(
            passes * forward, rel=1e-6
        )
        recomputing = estimate(train__curriculum__0__tune=tune, train__gradient_checkpointing=True)[
            0
        ]
        frozen_recomputing = estimate(train__gradient_checkpointing=True)[0]
        assert recomputing.total_operations - frozen_recomputing.total_operations == pytest.approx(
            (passes + 1) * forward
        )
        assert recomputing.peak_bytes < load.peak_bytes > frozen.peak_bytes


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
    projector: str, tokens: int, estimate: Estimate
) -> None:
    assert estimate(projector=projector)[1].speech_tokens(4.0) == tokens


def test_half_precision_is_faster_and_stores_half_of_the_activations(estimate: Estimate) -> None:
    """But for a copy of the weights, which the backward pass needs."""
    full, half = (
        estimate(train__batch_seconds=400)[0],
        estimate(train__precision="bf16", train__batch_seconds=400)[0],
    )
    h200 = read_gpu("h200")
    assert (full.dtype, half.dtype) == ("float32", "bfloat16")
    assert (half.estimate_hours(h200) or 0) < (full.estimate_hours(h200) or 0)
    assert half.peak_bytes < full.peak_bytes
    assert half.operations.keys() == {
        "bfloat16",
        "float32",
    }  # a frozen encoder is run as its entry says
    tune_both = {
        f"train__curriculum__{index}__tune": ["projector", "encoder-lora"] for index in (0, 1)
    }
    tuned = estimate(train__precision="bf16", **tune_both)[0]
    assert {dtype for dtype, count in tuned.operations.items() if count} == {"bfloat16"}
    assert half.estimate_hours(read_gpu("t4")) is None
    assert estimate(train__precision="fp16")[0].estimate_hours(read_gpu("t4"))
    small, networks = estimate(train__batch_seconds=4, train__micro_batches=1)
    copied = estimate(train__batch_seconds=4, train__micro_batches=1, train__precision="bf16")[0]
    stored_values = 55.8 * networks.llm.width * networks.llm.num_layers * 17
    assert copied.peak_bytes - small.peak_bytes == pytest.approx(
        2 * networks.llm.layer_parameters - 2 * stored_values
    )


def test_gradient_checkpointing_stores_a_vector_a_token_and_layer(estimate: Estimate) -> None:
    load, networks = estimate(features__mode="cached")
    recomputing = estimate(features__mode="cached", train__gradient_checkpointing=True)[0]
    tokens = 5 * 55.8  # of a micro-batch
    assert load.peak_bytes - recomputing.peak_bytes == pytest.approx(
        4
        * tokens
        * networks.llm.width
        * (17 * networks.llm.num_layers - (networks.llm.num_layers + 17))
    )


def test_full_windows_fill_the_batches(estimate: Estimate) -> None:
    """480 s are 16 windows of 30 s, 100 utterances of dev are four batches of 32: not as many as
    the 4 s of each would allow.
    """
    whisper = {"encoder": "whisper-tiny", "train__batch_seconds": 480}
    _, cut = estimate(**whisper)
    load, full = estimate(**whisper, features__padding="full-window")
    assert cut.encoder.utterances_per_batch(4.0, 480) == 120
    assert full.encoder.utterances_per_batch(4.0, 480) == 16
    assert full.encoder.utterances_per_batch(4.0, 470) == 15
    assert full.encoder.utterances_per_batch(31.0, 50) == 1
    tokens = 200 * 16 * (300 + 4 * 3.7 + 20 + 1)
    encoded_s = 200 * 16 * 30
    assert load.total_operations == pytest.approx(
        4 * full.llm.num_parameters * tokens
        + 6 * full.modules["projector"][0] * 200 * 16 * 300
        + 2 * full.encoder.num_parameters * 50 * encoded_s
    )
    dev = SPEECH[1]
    steps = 2 * 4 * 3.7 + 1  # the longest transcript of a batch, and its end
    assert generation_steps(full, dev, 100, 960) == pytest.approx(4 * steps)
    assert generation_steps(cut, dev, 100, 960) == pytest.approx(steps)


def test_decoding_full_windows_takes_the_memory_of_those_in_a_batch(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Eight windows of 30 s in 240 s, four beams each: 32 rows of 300 tokens, the prompt and the
    text, whatever the utterances last.
    """
    monkeypatch.chdir(REPOSITORY)
    names = {"encoder": "whisper-tiny", "projector": "linear", "llm": "tinyllama"}
    names |= {"features.padding": "full-window", "decode.batch_seconds": 240}
    params = read_overridden_params(names, "overrides")
    rules = replace(
        params.decode.sets["constrained"], beams=4, max_tokens=100, max_tokens_per_second=0.0
    )
    settings = replace(params.decode, sets={"constrained": rules})
    params, networks = replace(params, decode=settings), read_networks(params)
    peaks = [
        estimate_decode(
            params,
            networks,
            [AudioAmount("test", "voices", 100 * mean_s, 100, "settings")],
            "float16",
            "float32",
        ).peak_bytes
        for mean_s in (1.5, 12.0)
    ]
    llm = networks.llm
    row_bytes = (300 + 20 + 100) * llm.num_layers * llm.kv_width * 2 + llm.vocabulary_size * 12
    whisper = networks.encoder.num_parameters + networks.encoder.decoder_parameters
    bytes_besides = llm.num_parameters * 2 + whisper * 4 + 1e9
    assert peaks == [pytest.approx(32 * row_bytes + bytes_besides)] * 2


def test_rescoring_is_counted_by_the_prefixes_that_the_llm_reads(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """By the LLM alone, in batches: no text is generated, and non-speech has no texts."""
    monkeypatch.chdir(REPOSITORY)
    params = read_overridden_params({"encoder": "hubert-xlarge", "llm": "tinyllama"}, "overrides")
    free = params.decode.sets["free"]
    networks = read_networks(params)

    def estimate(role: str, **changes: float) -> StageLoad:
        settings = replace(params.decode, sets={"free": replace(free, **changes)})
        amount = AudioAmount(role, "voices", 1200.0, 100, "settings")
        own = replace(params, decode=settings)
        return estimate_decode(own, networks, [amount], "float16", "float32")

    rescoring = estimate("test", ctc_texts=32, ctc_weight=1.0)
    assert rescoring.generated == 0
    tokens = 1.64 * 32 * 3.7 * 1200
    assert rescoring.total_operations == pytest.approx(2 * networks.llm.num_parameters * tokens)
    assert rescoring.estimate_core_hours() == pytest.approx(
        rescoring.total_operations / 30e9 / 3600
    )
    assert estimate("nonspeech-test", ctc_texts=32, ctc_weight=1.0).total_operations == 0
    generation = estimate("test")
    assert generation.generated == generation.total_operations > 0


def test_budgets_cut_a_step(estimate: Estimate) -> None:
    load = estimate()[0]
    half = estimate(train__batch_tokens=279)[0]  # of 558
    assert half.total_operations == pytest.approx(load.total_operations / 2)
    assert half.peak_bytes < load.peak_bytes
    assert estimate(train__batch_tokens=10_000)[0] == load
    assert estimate(train__micro_batches=5)[0].peak_bytes < load.peak_bytes
    assert (
        estimate(train__concatenate__share=0.5, train__concatenate__seconds=90)[0].peak_bytes
        > load.peak_bytes
    )


def test_optimiser_states_are_those_of_the_stage_that_trains_most(
    estimate: Estimate,
) -> None:
    frozen, networks = estimate(features__mode="cached")
    tuned = estimate(features__mode="cached", train__curriculum__0__tune=["projector", "llm"])[0]
    assert tuned.peak_bytes - frozen.peak_bytes == pytest.approx(12 * networks.llm.num_parameters)


def test_patterns_leave_parameters_frozen(estimate: Estimate) -> None:
    lower = estimate(
        train__curriculum__0__tune=["llm"], train__curriculum__0__freeze=["llm.model.layers.*"]
    )[1]
    assert lower.modules["LLM"] == (
        lower.llm.num_parameters - lower.llm.layer_parameters,
        lower.llm.layer_parameters,
    )
    with pytest.raises(InputError) as caught:
        estimate(
            train__curriculum__0__tune=["llm"], train__curriculum__0__freeze=["llm.layers.0.*"]
        )
    assert caught.value.subject == "llm.layers.0.*"
    assert "llm.model.layers" in caught.value.hint
    stage = {"train__curriculum__0__tune": ["encoder"]}
    layers = (f"encoder.model.encoder.layers.{index}.*" for index in ("[0-1]", "?"))
    half, none = (
        estimate(**stage, train__curriculum__0__freeze=[pattern])[1] for pattern in layers
    )
    assert half.modules["encoder"][1] * 2 == none.modules["encoder"][1] > 0


def test_layers_of_a_shared_llm_are_divided_by_the_ranks(estimate: Estimate) -> None:
    unshared, networks = estimate(
        features__mode="cached", train__curriculum__0__tune=["projector", "llm"]
    )
    shared = estimate(4, features__mode="cached", train__curriculum__0__tune=["projector", "llm"])[
        0
    ]
    layer = networks.llm.layer_parameters / networks.llm.num_layers
    assert unshared.peak_bytes - shared.peak_bytes == pytest.approx(
        16 * networks.llm.layer_parameters * 3 / 4 - 4 * 2 * layer
    )


def test_a_released_projector_trains_nothing(estimate: Estimate) -> None:
    networks = estimate(projector="linear")[1]
    assert replace(networks, stages=()).num_trained == networks.num_trained > 0


def test_the_arithmetic_of_a_frozen_encoder_decides_about_its_hours(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """An A100 multiplies 8 times as fast in TF32 and 16 times in bfloat16 as in float32; a T4 has
    no TF32.
    """

    def hours(arithmetic: str, card: str) -> float | None:
        entry = catalogue.encoder("hubert-xlarge-ls960-ft")
        numerics = replace(entry.numerics, gpu_arithmetic=arithmetic)
        monkeypatch.setattr(
            "components.plan.load.catalogue.encoder", lambda name: replace(entry, numerics=numerics)
        )
        dtype = frozen_arithmetic(read_params(), "float32")
        return StageLoad("features", dtype, {dtype: 1e18}, 0.0, 0.0).estimate_hours(read_gpu(card))

    exact = hours("float32", "a100-80gb") or 0
    assert hours("tf32", "a100-80gb") == pytest.approx(exact / 8)
    assert hours("bfloat16", "a100-80gb") == pytest.approx(exact / 16)
    assert hours("tf32", "t4") == hours("float32", "t4")
    assert hours("bfloat16", "t4") is None
