"""Sequences in one row: the loss and the gradients of the padded form, for every family that keeps
them apart.
"""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from components.model.llms import causal
from components.model.llms.causal import check_packing
from components.model.speech_llm import SpeechLLM
from tests.checkpoints import BOTH, LLMS, LORA, frames_of, joined, output_of
from tests.errors import refused

TEXTS = ["amber birch", "", "cedar delta ember fjord grove", "heron"]
PACKING = [family for family in LLMS if family != "bloom"]


def learning(folder: Path, family: str) -> SpeechLLM:
    model = joined(folder, family)
    model.add_lora(4, 8, 0.0, LORA[family], 1)
    model.tune(["projector", "lora"])
    # as it is after some steps: LoRA's second matrix starts at zero and hides the first one's
    # gradient
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_B" in name:
                parameter.normal_(0, 0.1, generator=torch.Generator().manual_seed(len(name)))
    return model


def gradients(model: SpeechLLM, packed: bool) -> tuple[float, dict[str, torch.Tensor]]:
    model.zero_grad()
    output = output_of(model, frames_of([3, 9, 21, 6]), TEXTS, BOTH, is_packed=packed)
    (output.loss + output.matching_loss).backward()
    return output.loss.item(), {
        name: each.grad.clone() for name, each in model.named_parameters() if each.grad is not None
    }


@pytest.mark.parametrize("family", PACKING)
def test_packed_and_padded_sequences_have_one_loss_and_one_gradient(
    family: str, tmp_path: Path
) -> None:
    model = learning(tmp_path, family)
    check_packing(model.llm)
    (loss, padded), (packed_loss, packed) = gradients(model, False), gradients(model, True)
    assert packed_loss == pytest.approx(loss, rel=1e-5)
    assert packed.keys() == padded.keys()
    assert any("lora_A" in name for name in packed)
    for name, grad in padded.items():
        assert torch.allclose(packed[name], grad, rtol=1e-3, atol=1e-5 * float(grad.abs().max())), (
            name
        )


def test_packing_leaves_no_padding(tmp_path: Path) -> None:
    model, frames = learning(tmp_path, "llama"), frames_of([3, 9, 21, 6])
    padded, packed = (output_of(model, frames, TEXTS, is_packed=value) for value in (False, True))
    assert packed.num_padding == 0 < padded.num_padding
    assert packed.num_tokens == padded.num_tokens
    assert (packed.num_targets, packed.num_correct) == (padded.num_targets, padded.num_correct)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_rounding_of_half_precision_is_no_reason_to_refuse(
    dtype: torch.dtype, tmp_path: Path
) -> None:
    check_packing(joined(tmp_path, "llama", num_hidden_layers=6).llm.to(dtype))


def test_a_family_without_positions_is_refused(tmp_path: Path) -> None:
    with refused(None, "Bloom", "train.packing"):
        check_packing(joined(tmp_path, "bloom").llm)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_network_whose_sequences_see_each_other_is_refused(
    dtype: torch.dtype, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With a mask of ones attention goes on over the border, and no error says so."""
    known, llm = causal.compute_hidden_states, joined(tmp_path, "llama").llm.to(dtype)

    def leaking(llm, embeddings, mask, positions) -> torch.Tensor:
        ones = torch.ones(embeddings.shape[:2], dtype=torch.long)
        return known(llm, embeddings, mask if positions is None else ones, positions)

    monkeypatch.setattr(causal, "compute_hidden_states", leaking)
    with refused(None, "train.packing"):
        check_packing(llm)


def test_replaced_tokens_are_read_and_the_transcript_stays_the_target(tmp_path: Path) -> None:
    model, frames = joined(tmp_path), frames_of([4, 8])
    texts = ["amber birch", "cedar"]
    own = [model.builder.encode(text) for text in texts]
    other = [[(token + 3) % 200 + 20 for token in ids] for ids in own]
    plain = output_of(model, frames, texts)
    same = output_of(model, frames, texts, input_tokens=own)
    assert torch.equal(plain.loss, same.loss)
    replaced = output_of(model, frames, texts, input_tokens=other)
    assert (replaced.num_targets, replaced.num_tokens) == (plain.num_targets, plain.num_tokens)
    assert replaced.loss.item() != pytest.approx(plain.loss.item(), rel=1e-4)


def test_a_transcript_beyond_the_vocabulary_of_the_llm_stops_with_its_text(tmp_path: Path) -> None:
    model = joined(tmp_path)
    model.tokenizer.add_tokens(["zebra"])
    with refused(None, "'amber zebra'", str(len(model.tokenizer) - 1)):
        output_of(model, frames_of([4]), ["amber zebra"])
