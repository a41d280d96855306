"""The plan of every paper's system against figures that are calculated here from its sizes: steps,
epochs, tokens, features, parameters.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import pytest

from components.config.params import read_overridden_params
from components.plan import run
from components.plan.machine import Machine
from components.plan.recipe import expand, read_recipe
from components.plan.run import RunPlan
from tests.conftest import REPOSITORY

UTTERANCES = 28_539 + 104_014 + 148_688  # of LibriSpeech's three training subsets
SECONDS = (100.6 + 363.6 + 496.7) * 3600
TAR = 2_000  # bytes of an utterance besides its frames: headers, padding, JSON
FULL = UTTERANCES * 30  # seconds, where each utterance is 30 s of Whisper
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


D7, D13 = 4096, 5120  # widths of the LLMs of 7 B and 13 B parameters
SQUARE7, SQUARE13 = (D7, D7), (D13, D13)
CELLS: dict[tuple[str, str], Hand] = {
    # 50 frames a second, five stacked: 600 // 5 = 120 tokens; of Whisper's 1,500 frames 300
    ("slam-asr", ""): Hand([steps(3, 300)], 120, 50 * 1280, 2, linear(5, 1280, 2048, D7)),
    ("slam-asr", "slam-llm"): Hand([steps(3, 150)], 120, 50 * 1280, 2, linear(5, 1280, 2048, D7)),
    ("slam-asr-table-2", "whisper-tiny-tinyllama"): Hand(
        [steps(3, 200)], 300, 50 * 384, 2, linear(5, 384, 2048, 2048), seconds=FULL
    ),
    ("slam-asr-table-3", "phi-2"): Hand(
        [steps(3, 200)], 300, 50 * 1280, 2, linear(5, 1280, 2048, 2560), seconds=FULL
    ),
    # log-mel: 100 frames a second, ten stacked
    ("slam-asr-table-4", "fbank"): Hand(
        [steps(3, 300)], 120, 100 * 80, 2, linear(10, 80, 2048, D7)
    ),
    # WavLM overflows half precision: stored in 4 bytes
    ("slam-asr-table-4", "wavlm-large"): Hand(
        [steps(3, 300)], 120, 50 * 1024, 4, linear(5, 1024, 2048, D7)
    ),
    ("slam-asr-table-7", "frozen"): Hand(
        [steps(3, 200)], 300, 50 * 1280, 2, linear(5, 1280, 2048, 2048), seconds=FULL
    ),
    ("slam-asr-table-7", "tuned"): Hand(
        [steps(3, 200)], 300, projector=linear(5, 1280, 2048, 2048)
    ),
    ("slam-asr-table-8", "vicuna-7b"): Hand(
        [steps(3, 200)], 300, 50 * 1280, 2, linear(5, 1280, 2048, D7), seconds=FULL
    ),
    ("slam-asr-table-10", "random"): Hand(
        [steps(3, 200)], 300, 50 * 1280, 2, linear(5, 1280, 2048, D7), seconds=FULL
    ),
    # Whisper and AST side by side; a vector for 17 frames: 1,500 = 88 · 17 + 4, and 4 is no half
    ("salmonn-asr", ""): Hand(
        [steps(3, 200)],
        88,
        50 * (1280 + 768),
        2,
        lora=lora(8, 40, SQUARE13, SQUARE13),
        seconds=FULL,
    ),
    ("yu-segment-qformer", "segment-qformer"): Hand([steps(3, 200)], 80, 50 * 1280, seconds=FULL),
    ("yu-segment-qformer", "fc"): Hand(
        [steps(3, 200)], 300, 50 * 1280, 2, linear(5, 1280, 2048, D13), seconds=FULL
    ),
    ("speech-llama", "ctc-compressor"): Hand(
        [steps(1, 300), steps(2, 300)],
        600,  # at most one for each frame
        50 * 1024,
        2,
        lora=lora(2, 32, *[SQUARE7] * 4),
    ),
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
    # frames of 80 ms, three stacked: 150 // 3
    ("fathullah", ""): Hand(
        [100_000], 50, projector=(3 * 512 + 1) * D7, lora=lora(8, 32, *[SQUARE7] * 4)
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
