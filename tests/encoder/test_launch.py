"""The launch of a training of an encoder and of an LLM: ranks by torchrun with gloo, killed ranks,
their errors, precision and device.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from components.config.errors import TransientError
from components.encoder import ctc, examples
from components.encoder.examples import CtcExample, compute_examples
from components.encoder.tokenizers import build_character_tokenizer
from components.optim import engine
from components.optim.ranks import Ranks
from components.runtime.hashing import folder_digests
from components.shards.reader import list_utterances
from tests import world as tones
from tests.checkpoints import LLMS, PARAKEET, TEXTS
from tests.encoder.test_ctc import AUGMENT, SHARDS, TRAINING, Killed, training_in
from tests.errors import refused
from tests.llm.test_copying import TRAINING as COPYING
from tests.train.recorded import record_ranks

Launch = Callable[..., dict[str, str]]
SOURCES: dict[str, dict[str, Any]] = {
    "encoder": {"kind": "ctc", "config": PARAKEET, "training": asdict(TRAINING)},
    "llm": {
        "kind": "copying",
        "model_type": "llama",
        "config": LLMS["llama"],
        "training": asdict(COPYING),
    },
}


@pytest.fixture
def launch(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, work: Path, world: Path) -> Launch:
    """Trains the encoder or LLM in a work cache of its own; returns the digests of its files."""

    def train(stage: str, name: str, ranks: int) -> dict[str, str]:
        tones.change(f"catalogue/{stage}.yaml", {"tiny.source": SOURCES[stage]})
        folder = tmp_path / f"{stage}-{name}-{ranks}"
        folder.mkdir(exist_ok=True)
        record_ranks(monkeypatch, folder, name, ranks)
        tones.run(stage)
        return folder_digests(Path("models") / stage)

    return train


@pytest.mark.slow
@pytest.mark.parametrize(("stage", "name"), [("encoder", "fsdp"), ("llm", "ddp")])
def test_two_ranks_give_the_bits_of_one_process(stage: str, name: str, launch: Launch) -> None:
    single = launch(stage, "", 1)
    assert launch(stage, name, 2) == single


@pytest.mark.slow
@pytest.mark.parametrize("ranks", [1, 2])
def test_a_training_with_a_killed_rank_goes_on_to_the_same_bits(
    ranks: int, launch: Launch, monkeypatch: pytest.MonkeyPatch
) -> None:
    undisturbed = launch("encoder", "", 1)
    monkeypatch.setenv("KILLED", f"{ranks - 1}:5")
    with refused(error=TransientError):
        launch("encoder", "ddp", ranks)
    monkeypatch.delenv("KILLED")
    assert launch("encoder", "ddp", ranks) == undisturbed


@pytest.mark.slow
def test_the_error_of_a_rank_names_the_entry(
    launch: Launch, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(SOURCES["encoder"], "config", {**PARAKEET, "num_attention_heads": 3})
    with refused("source.config", "encoder 'tiny'"):
        launch("encoder", "ddp", 2)


def test_more_ranks_than_micro_batches_are_refused_before_any_work(
    launch: Launch, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(engine, "_run_torchrun", None)
    for stage in SOURCES:
        with refused("source.training.micro_batches", f"{stage} 'tiny'", "3 ranks", " 2 "):
            launch(stage, "ddp", 3)


def examples_of(scratch: Path, ranks: Ranks, **changed: Any) -> examples.CtcExamples:
    from transformers.models.parakeet.feature_extraction_parakeet import ParakeetFeatureExtractor

    scratch.mkdir(exist_ok=True)
    utterances = [*list_utterances(SHARDS / "train"), *list_utterances(SHARDS / "nonspeech-train")]
    return compute_examples(
        ranks,
        utterances,
        ParakeetFeatureExtractor(feature_size=PARAKEET["num_mel_bins"]),
        build_character_tokenizer(TEXTS, scratch),
        scratch,
        training_in(scratch, **changed).settings,
    )


def test_examples_are_the_same_in_any_blocks_of_any_ranks(
    world: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = examples_of(tmp_path / "one", Ranks(), augment=AUGMENT)
    monkeypatch.setattr(examples, "BLOCK_SIZE", 2)
    monkeypatch.setattr(Ranks, "barrier", lambda self: None)
    monkeypatch.setattr(examples, "CtcExamples", lambda *arguments: arguments)
    for rank in (2, 0, 1):  # the first rank removes what is not of three
        arguments: Any = examples_of(tmp_path / "three", Ranks(rank, 3), augment=AUGMENT)
    monkeypatch.undo()
    shared = examples.CtcExamples(*arguments)
    assert len(shared) == len(expected) == 2 * (12 + 4)
    for one, other in zip(shared, expected, strict=True):
        assert torch.equal(one.mel, other.mel)
        assert torch.equal(one.target, other.target)
        assert one.duration_s == other.duration_s


def test_a_resumed_run_reads_the_examples_that_are_there(
    world: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Those of the same number of ranks; others are removed."""
    scratch, original = tmp_path / "scratch", examples.read_audio
    calls = []

    def read_audio(utterance: Any) -> Any:
        calls.append(utterance.id)
        if len(calls) == 5:
            raise Killed
        return original(utterance)

    monkeypatch.setattr(examples, "read_audio", read_audio)
    with pytest.raises(Killed):
        examples_of(scratch, Ranks())
    examples_of(scratch, Ranks())
    num_calls = len(calls)
    assert num_calls >= 5 + 16  # what was killed is computed anew
    examples_of(scratch, Ranks())
    assert len(calls) == num_calls
    monkeypatch.setattr(Ranks, "barrier", lambda self: None)
    monkeypatch.setattr(examples, "CtcExamples", lambda *arguments: arguments)
    examples_of(scratch, Ranks(0, 2))
    assert [path.name for path in scratch.glob("examples-*")] == ["examples-0-of-2"]


def batch() -> list[CtcExample]:
    """Log-mel and units of three lengths."""
    random = torch.Generator().manual_seed(1)
    return [
        CtcExample(
            torch.randn(length, PARAKEET["num_mel_bins"], generator=random).half(),
            torch.tensor([1, 2, 1]),
            length / 100,
        )
        for length in (60, 90, 48)
    ]


def test_a_batch_goes_to_the_device_of_the_model() -> None:
    """On torch's device without values, an operation with a tensor of the processor fails."""
    model = ctc.build_encoder(PARAKEET, 5, 1).to("meta")
    hidden_states, num_frames = ctc.encode_examples(model, batch())
    assert hidden_states.device.type == num_frames.device.type == "meta"
    assert model.ctc_head(hidden_states).shape == (3, 23, 5)


def test_attention_is_fused() -> None:
    assert ctc.build_encoder(PARAKEET, 5, 1).config.encoder_config._attn_implementation == "sdpa"


@pytest.mark.parametrize("stage", ["encoder", "llm"])
def test_half_precision_trains_to_nearly_the_same_weights(
    stage: str, launch: Launch, monkeypatch: pytest.MonkeyPatch
) -> None:
    single = launch(stage, "", 1)
    weights = load_file(f"models/{stage}/model.safetensors")
    precise = SOURCES[stage]["training"]
    monkeypatch.setitem(SOURCES[stage], "training", {**precise, "precision": "bf16"})
    assert launch(stage, "", 1)["model.safetensors"] != single["model.safetensors"]
    rounded = load_file(f"models/{stage}/model.safetensors")
    assert {tensor.dtype for tensor in rounded.values()} == {
        tensor.dtype for tensor in weights.values()
    }
    distance = sum(
        float((rounded[name].float() - weights[name].float()).square().sum()) for name in weights
    )
    size = sum(float(tensor.float().square().sum()) for tensor in weights.values())
    assert 0 < distance < 0.05 * size


@pytest.mark.gpu
@pytest.mark.parametrize(("precision", "tolerance"), [("fp32", 1e-3), ("bf16", 0.05)])
def test_a_gpu_has_the_loss_of_the_processor(precision: str, tolerance: float) -> None:
    from components.optim.precision import Precision

    losses = []
    for device in ("cpu", "cuda"):
        model = ctc.build_encoder(PARAKEET, 5, 1).to(device).train()
        with Precision(precision if device == "cuda" else "fp32", device).autocast():
            loss = ctc.ctc_loss(model, batch())
        loss.backward()
        losses.append(loss.item())
    assert losses[1] == pytest.approx(losses[0], rel=tolerance)


@pytest.mark.gpu
def test_a_gpu_trains_an_encoder(world: Path, tmp_path: Path) -> None:
    training = training_in(tmp_path / "out", precision="bf16")
    ctc.train(Ranks(), training, "cuda")
    saved = load_file(tmp_path / "out/model.safetensors")
    assert all(tensor.isfinite().all() for tensor in saved.values() if tensor.is_floating_point())
