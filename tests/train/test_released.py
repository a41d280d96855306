"""Projectors that SLAM-LLM released, from files made in the same layout: the pipeline takes them in
place of a training.
"""

from __future__ import annotations

import json
import os
from pathlib import Path

import pyarrow.parquet as pq
import pytest
import torch

from components.config.errors import InputError
from components.model.speech_llm import SpeechLLM
from components.runtime.artifact import read_record
from components.train.curve import COLUMNS
from tests import world as tones
from tests.checkpoints import frames_of

ENCODER_WIDTH = LLM_WIDTH = 32  # of the tiny checkpoints
STACK, HIDDEN = 3, 24
NAMES = ("linear1.weight", "linear1.bias", "linear2.weight", "linear2.bias")


def release(
    path: Path,
    encoder_width: int = ENCODER_WIDTH,
    llm_width: int = LLM_WIDTH,
    prefix: str = "encoder_projector.",
) -> dict:
    """A file as SLAM-LLM saves it, of half-precision tensors; its tensors by our names."""
    random = torch.Generator().manual_seed(3)
    shapes = ((HIDDEN, STACK * encoder_width), (HIDDEN,), (llm_width, HIDDEN), (llm_width,))
    tensors = {
        name: torch.randn(shape, generator=random).half()
        for name, shape in zip(NAMES, shapes, strict=True)
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    torch.save({prefix + name: tensor for name, tensor in tensors.items()}, path)
    return {name: tensor.float() for name, tensor in tensors.items()}


@pytest.fixture
def models(world: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of released files; the world's projector is to come from ``released/model.pt`` in
    it.
    """
    monkeypatch.setenv("LIBRETTO_MODELS", str(tmp_path / "models"))
    weights = {"kind": "slam-llm", "file": "released/model.pt"}
    tones.change(
        "catalogue/projector.yaml",
        {"small": {"kind": "linear", "stack": STACK, "hidden": HIDDEN, "weights": weights}},
    )
    return tmp_path / "models"


def load() -> SpeechLLM:
    return SpeechLLM.load(Path("models/bridge"), tones.ENCODER, tones.LLM, "cpu")


def test_a_released_projector_computes_its_formula(models: Path) -> None:
    """W2 relu(W1 [x1 … xk] + b1) + b2 of each stack of frames (SLAM-ASR, section 3); nothing is
    trained.
    """
    released = release(models / "released/model.pt")
    tones.run("train")
    frames = frames_of([7, 3, 12], ENCODER_WIDTH)
    for projected, recording in zip(load().projector(frames), frames, strict=True):
        count = len(recording) // STACK
        stacks = torch.stack(
            [
                torch.cat([recording[STACK * index + step] for step in range(STACK)])
                for index in range(count)
            ]
        )
        hidden = (stacks @ released["linear1.weight"].T + released["linear1.bias"]).clamp(min=0)
        torch.testing.assert_close(
            projected,
            hidden @ released["linear2.weight"].T + released["linear2.bias"],
            rtol=1e-4,
            atol=1e-4,
        )
    assert Path("metrics/curve.csv").read_text().splitlines() == [",".join(COLUMNS)]
    assert json.loads(Path("metrics/train.json").read_text())["steps"] == 0
    assert "released" in read_record(Path("models/bridge"))["inputs"]


def test_a_released_convolution_computes_its_formula(models: Path) -> None:
    """The same with a convolution before the two layers, as MaLa-ASR's is saved: a ReLU before each
    of them.
    """
    entry = {"kind": "conv1d-mlp", "kernel": STACK, "stride": STACK, "hidden": HIDDEN}
    tones.change(
        "catalogue/projector.yaml",
        {"small": {**entry, "weights": {"kind": "slam-llm", "file": "released/model.pt"}}},
    )
    random = torch.Generator().manual_seed(3)
    width = ENCODER_WIDTH
    shapes = (
        (width, width, STACK),
        (width,),
        (HIDDEN, width),
        (HIDDEN,),
        (LLM_WIDTH, HIDDEN),
        (LLM_WIDTH,),
    )
    names = ("conv1d.weight", "conv1d.bias", *NAMES)
    released = {
        name: torch.randn(shape, generator=random)
        for name, shape in zip(names, shapes, strict=True)
    }
    (models / "released").mkdir(parents=True)
    torch.save(
        {f"encoder_projector.{name}": tensor for name, tensor in released.items()},
        models / "released/model.pt",
    )
    tones.run("train")
    [frames] = frames_of([2 * STACK], ENCODER_WIDTH)
    convolved = (
        torch.einsum(
            "nkw,owk->no", frames.reshape(2, STACK, ENCODER_WIDTH), released["conv1d.weight"]
        )
        + released["conv1d.bias"]
    )
    hidden = (
        convolved.clamp(min=0) @ released["linear1.weight"].T + released["linear1.bias"]
    ).clamp(min=0)
    expected = hidden @ released["linear2.weight"].T + released["linear2.bias"]
    torch.testing.assert_close(load().projector([frames])[0], expected, rtol=1e-4, atol=1e-3)


def test_the_pipeline_decodes_with_it(models: Path) -> None:
    release(models / "released/model.pt")
    tones.run("train")
    tones.run("decode")
    assert {
        row["system"] for row in pq.read_table("data/decode/test/tones-test.parquet").to_pylist()
    } == {"free", "greedy", "ctc"}


@pytest.mark.parametrize(
    ("encoder_width", "llm_width", "tensor"),
    [(40, LLM_WIDTH, "linear1.weight"), (ENCODER_WIDTH, 48, "linear2.bias")],
)
def test_other_widths_than_the_encoders_and_the_llms_stop(
    encoder_width: int, llm_width: int, tensor: str, models: Path
) -> None:
    release(models / "released/model.pt", encoder_width, llm_width)
    with pytest.raises(InputError, match=f"{tensor} .*32 wide") as stopped:
        tones.run("train")
    assert stopped.value.subject == tensor
    assert stopped.value.hint
    assert not Path("models/bridge").exists()


def test_a_file_with_more_than_a_projector_stops(models: Path) -> None:
    release(models / "released/model.pt", prefix="llm.base_model.")
    with pytest.raises(InputError, match=r"llm\.base_model\.linear1\.bias"):
        tones.run("train")


def test_another_kind_of_projector_stops(models: Path) -> None:
    release(models / "released/model.pt", prefix="encoder_projector.conv1d.")
    with pytest.raises(InputError, match=r"conv1d\.linear1\.bias.*'linear'") as stopped:
        tones.run("train")
    assert stopped.value.hint


def test_a_missing_file_stops(models: Path) -> None:
    with pytest.raises(InputError, match=r"projector 'small': .*released/model\.pt") as stopped:
        tones.run("train")
    assert stopped.value.hint


class Trap:
    """Unpickled, it would write a file."""

    def __reduce__(self) -> tuple:
        return os.system, ("touch trapped",)


def test_a_file_that_would_run_code_is_refused(models: Path) -> None:
    (models / "released").mkdir(parents=True)
    torch.save({"encoder_projector.linear1.weight": Trap()}, models / "released/model.pt")
    with pytest.raises(InputError, match=r"released/model\.pt"):
        tones.run("train")
    assert not Path("trapped").exists()


def test_another_release_is_another_model(models: Path) -> None:
    """The key in the work cache depends on the bytes of the file."""
    release(models / "released/model.pt")
    tones.run("train")
    before = load().projector.linear1.weight.clone()
    torch.save(
        {
            f"encoder_projector.{name}": tensor + 1
            for name, tensor in release(models / "other.pt").items()
        },
        models / "released/model.pt",
    )
    tones.run("train")
    torch.testing.assert_close(load().projector.linear1.weight, before + 1)
