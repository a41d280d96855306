"""The benchmark of a GPU at a size for a processor, and the results of two devices for the same
weights.
"""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from bench.gpu import __main__ as command
from bench.gpu import networks, work
from bench.gpu.parity import compare_outputs, compute
from components.config.params import read_params
from components.model.folders.pretrained import DTYPES
from tests.conftest import REPOSITORY

PAIRS = [
    ("hubert-xlarge", "tinyllama"),
    ("wavlm-large", "phi-2"),
    ("whisper-large-v2", "vicuna-7b"),
]


@pytest.fixture(autouse=True)
def root(monkeypatch: pytest.MonkeyPatch) -> None:
    """Shapes are those of the repository's catalogue."""
    monkeypatch.chdir(REPOSITORY)


@pytest.mark.slow
def test_everything_is_measured_printed_and_written(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command.main(["--tiny", "--device", "cpu", "--out", str(tmp_path)])
    results = json.loads((tmp_path / "gpu.json").read_text())
    assert [(row["network"], row["work"]) for row in results["rows"]] == [
        *((name, "features") for name in command.ENCODERS for _ in command.ARITHMETICS),
        *((name, kind) for name in command.LLMS for kind in ("training", "decoding")),
    ]
    assert results["copy bandwidth"] > 0 and all(
        rate > 0 for rate in results["matrix rate"].values()
    )
    for row in results["rows"]:
        assert row["audio h/h"] > 0
        assert row["peak bytes"] is None, "a processor does not count them"
        assert row["share of the matrix rate"] == pytest.approx(
            row["operations"] / row["seconds"] / results["matrix rate"][row["dtype"]]
        )
    printed = capsys.readouterr().out
    assert all(name in printed for name in (*command.ENCODERS, *command.LLMS, "of the bandwidth %"))


def test_work_that_does_not_fit_the_card_is_a_row_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def full(*arguments: object) -> None:
        raise torch.OutOfMemoryError("full")

    monkeypatch.setattr(command, "ENCODERS", ())
    monkeypatch.setattr(command, "LLMS", ("tinyllama",))
    monkeypatch.setattr(work, "measure_training", full)
    command.main(["--tiny", "--device", "cpu", "--out", str(tmp_path)])
    training, decoding = json.loads((tmp_path / "gpu.json").read_text())["rows"]
    assert training.pop("failed")
    assert training == {"network": "tinyllama", "utterances": 2, "work": "training"}
    assert decoding["tokens/s"] > 0
    assert "tinyllama" in capsys.readouterr().out


def test_a_training_step_trains_the_bridge_alone_and_counts_by_the_formula(tmp_path: Path) -> None:
    model = networks.build_speech_llm("tinyllama", "linear", 8, "cpu", True)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    settings = read_params().train
    settings = replace(settings, matching=replace(settings.matching, weight=0.3))
    row = work.measure_training(model, settings, work.WorkSize(2, 3, 0, 1), "cpu", tmp_path)
    changed = {
        name.split(".")[0]
        for name, tensor in model.state_dict().items()
        if not torch.equal(tensor, before[name])
    }
    assert changed == {"projector", "matching"}
    assert {parameter.dtype for parameter in model.llm.parameters()} == {DTYPES["bfloat16"]}, (
        "that of its catalogue entry"
    )
    # A layer 32 wide: four matrices of attention, three of 32 × 64 and two norms; a norm at the
    # end; the matrix of 320 words.
    body, head = 2 * (4 * 32 * 32 + 3 * 32 * 64 + 2 * 32) + 32, 320 * 32
    projector = 40 * 2048 + 2048 + 2048 * 32 + 32
    target = len(model.builder.encode(networks.TEXT)) + 1
    prompt = len(model.builder.before) + len(model.builder.after)
    operations = 3 * (4 * (body * (prompt + 20 + target) + head * target) + 6 * projector * 20)
    assert row["operations"] == operations
    assert row["tokens/s"] == pytest.approx(3 * (prompt + 20 + target) / row["seconds"])


def test_search_writes_as_many_tokens_as_it_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    lengths = []

    def search(*arguments: object) -> list:
        hypotheses = original(*arguments)
        lengths.extend(len(hypothesis.tokens) for hypothesis in hypotheses)
        return hypotheses

    original = work.search
    monkeypatch.setattr(work, "search", search)
    row = work.measure_decoding(
        networks.build_speech_llm("phi-2", "linear", 8, "cpu", True),
        work.WorkSize(2, 3, 2, 1),
        "cpu",
    )
    assert set(lengths) == {7}  # 2 s at 3.7 a second
    assert row["tokens/s"] == pytest.approx(3 * 7 / row["seconds"])


@pytest.mark.parametrize(("encoder", "llm"), PAIRS)
def test_one_device_repeats_its_results(encoder: str, llm: str) -> None:
    """Other weights differ in everything that is compared."""
    first = compute(encoder, llm, "cpu")
    same = compare_outputs(first, compute(encoder, llm, "cpu"))
    assert max(same.frames, same.loss, same.gradients, same.texts) < 1e-6
    other = compare_outputs(first, compute(encoder, llm, "cpu", seed=2))
    assert min(other.frames, other.loss, other.gradients, other.texts) > 1e-3
    assert first.gradients.keys() == {
        *(f"projector.linear{index}.{part}" for index in (1, 2) for part in ("weight", "bias")),
        "matching.query.weight",
        "matching.key.weight",
    }


@pytest.mark.gpu
@pytest.mark.parametrize(("encoder", "llm"), PAIRS)
def test_a_gpu_agrees_with_the_processor(encoder: str, llm: str) -> None:
    """In float32, up to rounding; texts to the letter."""
    difference = compare_outputs(compute(encoder, llm, "cpu"), compute(encoder, llm, "cuda"))
    assert difference.frames < 1e-3
    assert difference.loss < 1e-4
    assert difference.gradients < 1e-3
    assert difference.texts == 0


@pytest.mark.gpu
@pytest.mark.parametrize(("arithmetic", "tolerance"), [("tf32", 1e-2), ("bfloat16", 0.1)])
@pytest.mark.parametrize("encoder", command.ENCODERS)
def test_a_gpu_rounds_frames_as_much_as_its_arithmetic(
    encoder: str, arithmetic: str, tolerance: float
) -> None:
    waveforms = work.draw_waveforms(work.WorkSize(1.5, 2, 0, 1))
    frames = []
    for name in ("float32", arithmetic):
        with networks.build_encoder(encoder, "cuda", True, arithmetic=name) as built:
            frames.append(torch.cat(built(waveforms)).float())
    exact, rounded = frames
    assert 0 < float((rounded - exact).norm() / exact.norm()) < tolerance
