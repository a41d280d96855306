"""The plan of every paper's system against figures that are calculated here from its sizes: steps,
epochs, tokens, features, parameters.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import pytest

from components.config.params import read_overridden_params
from components.plan import run
from components.plan.ctc_training import plan_encoder
from components.plan.load import PROMPT_TOKENS, TEXT_TOKENS, count_tokens
from components.plan.machine import Machine
from components.plan.recipe import expand, read_recipe
from components.plan.run import RunPlan
from tests.conftest import REPOSITORY

UTTERANCES = 28_539 + 104_014 + 148_688  # of LibriSpeech's three training subsets
SECONDS = (100.6 + 363.6 + 496.7) * 3600
TAR = 2_000  # bytes of an utterance besides its frames: headers, padding, JSON
FULL = UTTERANCES * 30  # seconds, where each utterance is 30 s of Whisper
FULL_STEPS = math.ceil(3 * UTTERANCES / 16)  # three epochs of 16 utterances in a step, 480 s
CLIP_S = 12  # of the utterance whose tokens are counted


def linear(stack: int, width: int, hidden: int, llm: int) -> int:
    """Parameters of two linear layers with biases over stacked frames (SLAM-ASR, section 3)."""
    return (stack * width + 1) * hidden + (hidden + 1) * llm


def lora(rank: int, layers: int, *shapes: tuple[int, int]) -> int:
    """Parameters of both factors on matrices of these shapes in each layer (arXiv 2106.09685)."""
    return layers * sum(rank * (inputs + outputs) for inputs, outputs in shapes)


def steps(epochs: float, batch_s: float) -> int:
    """Steps of full batches that are so many passes over 960.9 h."""
    return math.ceil(epochs * SECONDS / batch_s)


@dataclass(frozen=True)
class Hand:
    """What is calculated of a cell; None is not."""

    steps: list[int]  # by stage
    tokens: int  # of CLIP_S of speech
    values: float | None = None  # of a second of frames; None: nothing is stored
    bytes: int = 2  # of a value: half precision
    projector: int | None = None
    lora: int = 0
    encoder_lora: int = 0
    seconds: float = SECONDS  # that have frames


def gated(blocks: int, llm: int, width: int, hidden: int) -> int:
    """Parameters of blocks of gated cross-attention (Flamingo, section 3.1.2): four matrices of the
    attention, two of the feed-forward network, two norms and two gates.
    """
    return blocks * (4 * llm * width + 2 * llm * hidden + 2 * 2 * llm + 2)


D7, D13 = 4096, 5120  # widths of the LLMs of 7 B and 13 B parameters
SQUARE7, SQUARE13 = (D7, D7), (D13, D13)
CELLS: dict[tuple[str, str], Hand] = {
    # 50 frames a second, five stacked: 600 // 5 = 120 tokens; of Whisper's 1,500 frames 300
    ("slam-asr", ""): Hand([steps(3, 300)], 120, 50 * 1280, 2, linear(5, 1280, 2048, D7)),
    ("slam-asr", "slam-llm"): Hand([steps(3, 150)], 120, 50 * 1280, 2, linear(5, 1280, 2048, D7)),
    ("slam-asr-table-2", "whisper-tiny-tinyllama"): Hand(
        [FULL_STEPS], 300, 50 * 384, 2, linear(5, 384, 2048, 2048), seconds=FULL
    ),
    ("slam-asr-table-3", "phi-2"): Hand(
        [FULL_STEPS], 300, 50 * 1280, 2, linear(5, 1280, 2048, 2560), seconds=FULL
    ),
    # log-mel: 100 frames a second, ten stacked
    ("slam-asr-table-4", "fbank"): Hand(
        [steps(3, 300)], 120, 100 * 80, 2, linear(10, 80, 2048, D7)
    ),
    # WavLM overflows half precision: stored in 4 bytes
    ("slam-asr-table-4", "wavlm-large"): Hand(
        [steps(3, 300)], 120, 50 * 1024, 4, linear(5, 1024, 2048, D7)
    ),
    ("slam-asr-table-5", "slam-asr"): Hand(
        [steps(3, 300)], 120, 50 * 1280, 2, linear(5, 1280, 2048, D7)
    ),
    ("slam-asr-table-5", "yu"): Hand([FULL_STEPS], 80, 50 * 1280, seconds=FULL),
    ("slam-asr-table-5", "salmonn"): Hand(
        [FULL_STEPS],
        88,
        50 * (1280 + 768),
        2,
        lora=lora(8, 40, SQUARE13, SQUARE13),
        seconds=FULL,
    ),
    ("slam-asr-table-5", "qwen-audio-form"): Hand(
        [6_000, 30_000], 120, projector=linear(5, 1280, 2048, D7)
    ),
    ("slam-asr-table-6", "slam-asr"): Hand(
        [steps(3, 300)], 120, 50 * 1280, 2, linear(5, 1280, 2048, D7)
    ),
    ("slam-asr-table-6", "whisper-large-v2"): Hand(
        [FULL_STEPS], 300, 50 * 1280, 2, linear(5, 1280, 2048, D7), seconds=FULL
    ),
    ("slam-asr-table-7", "frozen"): Hand(
        [FULL_STEPS], 300, 50 * 1280, 2, linear(5, 1280, 2048, 2048), seconds=FULL
    ),
    ("slam-asr-table-7", "tuned"): Hand([FULL_STEPS], 300, projector=linear(5, 1280, 2048, 2048)),
    ("slam-asr-table-8", "vicuna-7b"): Hand(
        [FULL_STEPS], 300, 50 * 1280, 2, linear(5, 1280, 2048, D7), seconds=FULL
    ),
    ("slam-asr-table-10", "random"): Hand(
        [FULL_STEPS], 300, 50 * 1280, 2, linear(5, 1280, 2048, D7), seconds=FULL
    ),
    # Whisper and AST side by side; a vector for 17 frames: 1,500 = 88 · 17 + 4, and 4 is no half
    ("salmonn-asr", ""): Hand(
        [FULL_STEPS],
        88,
        50 * (1280 + 768),
        2,
        lora=lora(8, 40, SQUARE13, SQUARE13),
        seconds=FULL,
    ),
    ("yu-segment-qformer", "segment-qformer"): Hand([FULL_STEPS], 80, 50 * 1280, seconds=FULL),
    ("yu-segment-qformer", "fc"): Hand(
        [FULL_STEPS], 300, 50 * 1280, 2, linear(5, 1280, 2048, D13), seconds=FULL
    ),
    ("speech-llama", "ctc-compressor"): Hand(
        [steps(1, 300), steps(2, 300)],
        600,  # at most one for each frame
        50 * 1024,
        2,
        lora=lora(2, 32, *[SQUARE7] * 4),
    ),
    # at most one for each of 600 frames, start and end; an embedding for each unit and these two
    ("speechgpt", ""): Hand([steps(0.5, 2000), steps(3, 2000)], 602, 50 * 768, 2, (1000 + 2) * D13),
    ("speechbrain-1b", ""): Hand(
        [steps(1, 2000)],
        120,
        50 * 1024,
        4,
        linear(5, 1024, 2048, 2048),
        # q, o; k, v of eight of 32 heads; gate, up, down
        lora(16, 16, *[(2048, 2048)] * 2, *[(2048, 512)] * 2, *[(2048, 8192)] * 3),
    ),
    # convolution of five frames, then two linear layers: MaLa-ASR's 15.74 M
    ("pham", ""): Hand(
        [steps(1, 300), steps(2, 300), 2_000],
        (600 - 5) // 5 + 1,
        projector=5 * 1024 * 1024 + 1024 + linear(1, 1024, 2048, D7),
        lora=lora(16, 32, *[SQUARE7] * 4),
        encoder_lora=lora(8, 24, *[(1024, 1024)] * 2),
    ),
    ("qwen-audio-form", ""): Hand([6_000, 30_000], 120, projector=linear(5, 1280, 2048, D7)),
    ("laura-form", ""): Hand([4_000, 32_000], 120, projector=linear(5, 1024, 2048, 2048)),
    ("event-encoder", "whisper"): Hand([12_000, 4_000], 120, projector=linear(5, 1280, 2048, D13)),
    # two of 50 frames a second stacked, none of which is in the prompt
    ("li-gated-cross-attention", ""): Hand(
        [steps(1, 300), steps(2, 300)],
        300,
        projector=(2 * 1024 + 1) * D7 + gated(8, D7, 1024, 4096),
    ),
    # frames of 80 ms, three stacked: 150 // 3
    ("fathullah", ""): Hand(
        [100_000], 50, projector=(3 * 512 + 1) * D7, lora=lora(8, 32, *[SQUARE7] * 4)
    ),
    ("fathullah", "end-to-end"): Hand(
        [100_000], 50, projector=(3 * 512 + 1) * D7, lora=lora(8, 32, *[SQUARE7] * 4)
    ),
    # query, key and value are one matrix
    ("fathullah", "bloom-560m"): Hand(
        [100_000],
        50,
        projector=(3 * 512 + 1) * 1024,
        lora=lora(8, 24, (1024, 3 * 1024), (1024, 1024)),
    ),
    ("fathullah", "bloom-1b7"): Hand(
        [100_000],
        50,
        projector=(3 * 512 + 1) * 2048,
        lora=lora(8, 24, (2048, 3 * 2048), (2048, 2048)),
    ),
    ("fathullah", "bloom-7b1"): Hand(
        [100_000], 50, projector=(3 * 512 + 1) * D7, lora=lora(8, 30, (D7, 3 * D7), SQUARE7)
    ),
    ("parakeet", "parakeet-ctc-1-1b"): Hand(
        [steps(3, 300)],
        50,
        12.5 * 1024,
        2,
        projector=(3 * 1024 + 1) * D7,
        lora=lora(8, 32, *[SQUARE7] * 4),
    ),
    ("fathullah-ranks", "r32"): Hand(
        [100_000], 50, projector=(3 * 512 + 1) * D7, lora=lora(32, 32, *[SQUARE7] * 4)
    ),
    ("fathullah-strides", "stack-linear-n12"): Hand(
        [100_000], 12, projector=(12 * 512 + 1) * D7, lora=lora(8, 32, *[SQUARE7] * 4)
    ),
}


def plan_of(recipe: str, cell: str, machine: Machine) -> RunPlan:
    cells = {each.name: each for each in expand(read_recipe(recipe))}
    return run.plan_run(read_overridden_params(cells[cell].overrides, recipe), ["h200"], machine)


@pytest.mark.parametrize(("recipe", "cell"), CELLS, ids=lambda name: name)
def test_a_plan_is_what_its_sizes_give(
    recipe: str, cell: str, machine: Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(REPOSITORY)
    hand, plan = CELLS[recipe, cell], plan_of(recipe, cell, machine)
    assert [length.num_steps for length in plan.lengths] == hand.steps
    assert plan.networks.speech_tokens(CLIP_S) == hand.tokens
    stored = [use.num_bytes for use in plan.disk_uses if use.name == "features, train"]
    if hand.values:
        assert stored == [pytest.approx(hand.seconds * hand.values * hand.bytes + TAR * UTTERANCES)]
    modules = plan.networks.modules
    if hand.projector:
        assert modules["projector"][0] == hand.projector
    assert modules["LoRA"][0] == hand.lora or not hand.lora
    assert modules["encoder LoRA"][0] == hand.encoder_lora


def test_blocks_in_the_llm_run_for_its_text_and_the_speech_takes_no_part_of_it(
    machine: Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(REPOSITORY)
    networks = plan_of("li-gated-cross-attention", "", machine).networks
    blocks = gated(8, D7, 1024, 4096)
    assert networks.sequence_parameters == networks.llm.num_parameters + blocks
    assert networks.prompt_speech_tokens(CLIP_S) == 0
    assert count_tokens(networks, CLIP_S) == CLIP_S * TEXT_TOKENS + PROMPT_TOKENS + 1


@pytest.mark.parametrize(
    ("recipe", "batch_s", "num_steps"),
    [("qwen-audio-form", 200, 6_000), ("slam-asr", 300, steps(3, 300))],
)
def test_epochs_are_audio_over_the_audio_of_the_corpus(
    recipe: str, batch_s: int, num_steps: int, machine: Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(REPOSITORY)
    length = plan_of(recipe, "", machine).lengths[0]
    assert length.epochs == pytest.approx(num_steps * batch_s / SECONDS)
    assert length.seconds == num_steps * batch_s


def conformer(layers: int, width: int, hidden: int, kernel: int, mel: int, channels: int) -> int:
    """Parameters of Parakeet's Conformer: two feed-forward layers, attention with relative
    positions, a convolution, five norms; before them three convolutions of stride 2.
    """
    feed_forward = 2 * (2 * width * hidden + hidden + width)
    attention = 4 * (width + 1) * width + width * width + 2 * width
    convolution = (width + 1) * 2 * width + (kernel + 1) * width + 2 * width + (width + 1) * width
    front = 10 * channels + 2 * (10 * channels + (channels + 1) * channels)
    front += (channels * mel // 8 + 1) * width
    return front + layers * (feed_forward + attention + convolution + 5 * 2 * width)


MLS_SECONDS = 3600 * (
    44_659.74 + 1_966.51 + 1_554.24 + 1_076.58 + 917.68 + 247.38 + 160.96 + 103.65
)


@pytest.mark.parametrize("recipe", ["fathullah", "fathullah-strides"])
def test_the_training_of_an_encoder_is_what_its_sizes_give(
    recipe: str, machine: Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Twenty epochs of MLS in batches of 600 s, 12.5 frames a second, 1,547 units: 6 operations a
    parameter and frame, and 2 for the batches of batch norm.
    """
    monkeypatch.chdir(REPOSITORY)
    plan = plan_of(recipe, "stack-linear-n3" if recipe != "fathullah" else "", machine)
    parameters = conformer(18, 512, 2048, 11, 80, 256)
    assert plan.networks.encoder.num_parameters == parameters
    parameters += (512 + 1) * 1547
    (length,), load = plan.encoder_lengths, plan.loads[0]
    num_steps = math.ceil(20 * MLS_SECONDS / 600)
    assert length.num_steps == pytest.approx(num_steps, rel=1e-4)  # hours as published
    assert length.epochs == pytest.approx(20, rel=1e-4)
    assert (load.stage, load.dtype) == ("encoder", "bfloat16")
    operations = parameters * 12.5 * 600 * (6 * length.num_steps + 2 * 60)
    assert load.total_operations == pytest.approx(operations)
    assert load.estimate_hours(plan.gpus["h200"]) == pytest.approx(
        operations / (0.3 * 989e12) / 3600
    )
    # weights, gradient and two moments in fp32; 600 s at once for batch norm
    assert load.peak_bytes > parameters * 16
    written = {use.name: use.num_bytes for use in plan.disk_uses}
    assert written["encoder conformer-ctc"] == 4 * parameters
    assert written["checkpoints of encoder conformer-ctc"] == 24 * parameters
    nonspeech_s = sum(each.seconds for each in plan.audio if each.role == "nonspeech-train")
    assert written["log-mel for encoder conformer-ctc, while it trains"] == pytest.approx(
        (MLS_SECONDS + nonspeech_s) * 100 * 80 * 2, rel=1e-4
    )


def test_an_encoder_that_is_augmented_has_a_view_of_every_epoch(
    machine: Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Speeds of 0.5 and 1 make it half as long again; 4 % of the utterances are non-speech."""
    monkeypatch.chdir(REPOSITORY)
    params = read_overridden_params({"encoder": "ctc-digits-augmented"}, "")
    plain = run.plan_run(params, ["h200"], machine)
    (encoder,) = plain.networks.trained_encoders
    assert encoder.settings.augment
    augment = replace(encoder.settings.augment, speed=[0.5, 1.0])
    settings = replace(encoder.settings, augment=augment, precision="fp32")
    plan = plan_encoder(replace(encoder, settings=settings), plain.audio)
    speech = [each for each in plain.audio if each.role == "train"]
    nonspeech = [each for each in plain.audio if each.role == "nonspeech-train"]
    num_nonspeech = sum(each.num_utterances for each in speech) * 0.04 / 0.96
    speech_s, nonspeech_s = (sum(each.seconds for each in part) for part in (speech, nonspeech))
    mean_s = nonspeech_s / sum(each.num_utterances for each in nonspeech)
    epoch_s = 1.5 * (speech_s + num_nonspeech * mean_s)
    assert plan.length.num_steps == math.ceil(10 * epoch_s / 15)
    assert plan.example_bytes == pytest.approx(10 * 1.5 * (speech_s + nonspeech_s) * 100 * 80 * 2)
    assert plan.load.dtype == "float32"


def test_a_finished_or_published_encoder_is_not_trained(
    machine: Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(REPOSITORY)
    for recipe in ("slam-asr", "fathullah"):
        if recipe == "fathullah":
            monkeypatch.setattr(run, "up_to_date_stages", lambda params: {"encoder": 1})
        plan = plan_of(recipe, "", machine)
        assert not plan.encoder_lengths
        assert "encoder" not in [load.stage for load in plan.loads]
        assert not [use for use in plan.disk_uses if "log-mel" in use.name]
