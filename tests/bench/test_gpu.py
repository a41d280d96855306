"""The benchmark of a GPU at a size for a processor, and what two devices make of the
same weights.
"""

from __future__ import annotations

import json
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
def test_everything_is_measured_and_said_twice(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command.main(["--tiny", "--device", "cpu", "--out", str(tmp_path)])
    found = json.loads((tmp_path / "gpu.json").read_text())
    assert [(row["network"], row["work"]) for row in found["rows"]] == [
        *((name, "features") for name in command.ENCODERS),
        *((name, kind) for name in command.LLMS for kind in ("training", "decoding")),
    ]
    assert found["copy bandwidth"] > 0 and all(rate > 0 for rate in found["matrix rate"].values())
    for row in found["rows"]:
        assert row["audio h/h"] > 0
        assert row["peak bytes"] is None, "nobody counts a processor's"
        assert row["share of the matrix rate"] == pytest.approx(
            row["operations"] / row["seconds"] / found["matrix rate"][row["dtype"]]
        )
    printed = capsys.readouterr().out
    assert all(name in printed for name in (*command.ENCODERS, *command.LLMS, "of the bandwidth %"))


def test_what_does_not_fit_the_card_is_a_row_that_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def full(*arguments: object) -> None:
        raise torch.OutOfMemoryError("full")

    monkeypatch.setattr(command, "ENCODERS", ())
    monkeypatch.setattr(command, "LLMS", ("tinyllama",))
    monkeypatch.setattr(work, "training", full)
    command.main(["--tiny", "--device", "cpu", "--out", str(tmp_path)])
    training, decoding = json.loads((tmp_path / "gpu.json").read_text())["rows"]
    assert training == {
        "network": "tinyllama",
        "utterances": 2,
        "work": "training",
        "failed": "does not fit the card's memory",
    }
    assert decoding["tokens/s"] > 0
    assert "does not fit" in capsys.readouterr().out


def test_a_training_step_trains_the_bridge_alone_and_counts_by_the_formula(tmp_path: Path) -> None:
    model = networks.build_speech_llm("tinyllama", "linear", 8, "cpu", True)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    row = work.measure_training(
        model, read_params().train, work.WorkSize(2, 3, 0, 1), "cpu", tmp_path
    )
    changed = {
        name.split(".")[0]
        for name, tensor in model.state_dict().items()
        if not torch.equal(tensor, before[name])
    }
    assert changed == {"projector", "matching"}
    assert {each.dtype for each in model.llm.parameters()} == {DTYPES["bfloat16"]}, (
        "that of its catalogue entry"
    )
    # A layer 32 wide: four matrices of attention, three of 32 × 64 and two norms; a norm at the
    # end; the matrix of 320 words.
    body, head = 2 * (4 * 32 * 32 + 3 * 32 * 64 + 2 * 32) + 32, 320 * 32
    projector = 40 * 2048 + 2048 + 2048 * 32 + 32
    target = len(model.builder.target(networks.TEXT)) + 1
    prompt = len(model.builder.before) + len(model.builder.after)
    wanted = 3 * (4 * (body * (prompt + 20 + target) + head * target) + 6 * projector * 20)
    assert row["operations"] == wanted
    assert row["tokens/s"] == pytest.approx(3 * (prompt + 20 + target) / row["seconds"])


def test_search_writes_as_many_tokens_as_it_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    lengths = []

    def counted(*arguments: object) -> list:
        found = real(*arguments)
        lengths.extend(len(each.tokens) for each in found)
        return found

    real = work.search
    monkeypatch.setattr(work, "search", counted)
    row = work.measure_decoding(
        networks.build_speech_llm("phi-2", "linear", 8, "cpu", True),
        work.WorkSize(2, 3, 2, 1),
        "cpu",
    )
    assert set(lengths) == {7}  # 2 s at 3.7 a second
    assert row["tokens/s"] == pytest.approx(3 * 7 / row["seconds"])


@pytest.mark.parametrize(("encoder", "llm"), PAIRS)
def test_the_same_weights_make_the_same_on_one_device(encoder: str, llm: str) -> None:
    """And other weights something else, in everything that is compared."""
    here = compute(encoder, llm, "cpu")
    same = compare_outputs(here, compute(encoder, llm, "cpu"))
    assert max(same.frames, same.loss, same.gradients, same.texts) < 1e-6
    other = compare_outputs(here, compute(encoder, llm, "cpu", seed=2))
    assert min(other.frames, other.loss, other.gradients, other.texts) > 1e-3
    assert here.gradients.keys() == {
        *(f"projector.linear{number}.{part}" for number in (1, 2) for part in ("weight", "bias")),
        "matching.query.weight",
        "matching.key.weight",
    }


@pytest.mark.gpu
@pytest.mark.parametrize(("encoder", "llm"), PAIRS)
def test_a_gpu_makes_what_the_processor_makes(encoder: str, llm: str) -> None:
    """In float32, by rounding; texts to the letter."""
    found = compare_outputs(compute(encoder, llm, "cpu"), compute(encoder, llm, "cuda"))
    assert found.frames < 1e-3
    assert found.loss < 1e-4
    assert found.gradients < 1e-3
    assert found.texts == 0
