"""Blocks of gated cross-attention in the layers of an LLM."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch.nn.functional import layer_norm

from components.config.bridge_rules import check_llm_fit
from components.config.errors import InputError
from components.config.projector import GatedCrossAttention
from components.model.bridges.gated_cross_attention import GatedBlock
from components.model.lora import check_gradients
from components.model.speech_llm import SpeechLLM
from components.optim import recomputation
from components.search.beam import search
from components.search.constraints import GREEDY
from tests.checkpoints import LLMS, LORA, frames_of, joined, learn, output_of

ENTRY = GatedCrossAttention(
    kind="gated-cross-attention", stack=2, layers=2, width=16, heads=2, hidden=24
)
TEXTS = ["amber birch", "delta"]
SECONDS = [0.5, 0.8]


def open_gates(model: SpeechLLM) -> SpeechLLM:
    """The model with gates that are open, and keys that tell utterances apart."""
    torch.manual_seed(1)
    with torch.no_grad():
        for block in model.projector.blocks:
            block.attention_gate.fill_(1.5)
            block.feed_forward_gate.fill_(0.5)
            for linear in (block.query, block.key, block.value, block.output):
                linear.weight.normal_(0, 0.4)
    return model


def built(folder: Path, family: str = "llama", **fields: int) -> SpeechLLM:
    return joined(folder, family, projector=replace(ENTRY, **fields))


def test_a_block_is_the_formula_of_the_paper() -> None:
    """y = x + tanh(a) attention(norm(x), speech); y + tanh(b) feed-forward(norm(y)): by hand, one
    position after the other.
    """
    torch.manual_seed(0)
    block = GatedBlock(ENTRY, 10).eval()
    with torch.no_grad():
        block.attention_gate.fill_(0.7)
        block.feed_forward_gate.fill_(-0.4)
        hidden, speech = torch.randn(1, 3, 10), torch.randn(5, 10)
        memory = block.read_speech(speech[None], torch.ones(1, 5, dtype=torch.bool))
        output = block(hidden, memory)[0]
        for position in range(3):
            x = hidden[0, position]
            query = block.query.weight @ layer_norm(x, (10,))  # (16,)
            heads = []
            for part in (slice(0, 8), slice(8, 16)):
                keys = (speech @ block.key.weight.T)[:, part]  # (5, 8)
                shares = torch.softmax(keys @ query[part] / math.sqrt(8), 0)
                heads.append(shares @ (speech @ block.value.weight.T)[:, part])
            y = x + math.tanh(0.7) * (block.output.weight @ torch.cat(heads))
            inner = (block.linear1.weight @ layer_norm(y, (10,))).clamp(min=0) ** 2
            y = y + math.tanh(-0.4) * (block.linear2.weight @ inner)
            torch.testing.assert_close(output[position], y)


@pytest.mark.parametrize("family", LLMS)
def test_new_blocks_leave_the_llm_as_it_is_and_open_ones_do_not(
    family: str, tmp_path: Path
) -> None:
    model, frames = built(tmp_path, family), frames_of([20, 9])

    def log_probs() -> torch.Tensor:
        with torch.no_grad():
            return output_of(model.eval(), frames, TEXTS).token_log_probs

    before = log_probs()
    frames = frames_of([20, 9], seed=1)
    assert torch.equal(log_probs(), before), "closed gates: no speech comes through"
    open_gates(model)
    opened = log_probs()
    assert not torch.allclose(opened, before, atol=1e-2)
    frames = frames_of([20, 9])
    assert not torch.allclose(log_probs(), opened, atol=1e-3), "another speech, another text"


def test_the_prompt_has_no_speech_and_the_llm_alone_is_unchanged_after_a_search(
    tmp_path: Path,
) -> None:
    model = open_gates(built(tmp_path)).eval()
    frames = frames_of([20, 9])
    ids = torch.tensor([[5, 6, 7]])
    with torch.no_grad():
        alone = model.llm(ids).logits
    search(model, frames, SECONDS, replace(GREEDY, max_tokens=3))
    with torch.no_grad():
        assert torch.equal(model.llm(ids).logits, alone)
    prompt = len(model.builder.before) + len(model.builder.after)
    text = [len(model.builder.encode(each)) + 1 for each in TEXTS]
    assert output_of(model, frames, TEXTS).num_tokens == 2 * prompt + sum(text)
    assert model.projector.count_tokens(20) == 10
    assert model.projector.count_prompt_tokens(20) == 0


def test_every_weight_of_open_blocks_gets_a_gradient_that_is_not_zero(tmp_path: Path) -> None:
    model = open_gates(built(tmp_path))
    model.tune(["projector"])
    output_of(model, frames_of([20, 9]), TEXTS).loss.backward()
    check_gradients(model.projector, "projector")
    for name, parameter in model.projector.named_parameters():
        assert parameter.grad.abs().sum() > 0, name
    assert all(parameter.grad is None for parameter in model.llm.parameters())


def test_recomputed_layers_give_the_same_gradient(tmp_path: Path) -> None:
    """The backward pass runs after the forward pass has let go of the speech."""
    model, frames = open_gates(built(tmp_path)), frames_of([20, 9])
    parameters = model.tune(["projector"])["projector"]
    gradients = []
    for is_recomputed in (False, True):
        if is_recomputed:
            recomputation.enable(model.llm)
            recomputation.activate(model.llm)
            assert all(layer.training for layer in model.llm.model.layers)
        model.zero_grad()
        output_of(model, frames, TEXTS).loss.backward()
        matched = [each for each in parameters if each.grad is not None]  # not the matching head
        gradients.append(torch.cat([each.grad.flatten() for each in matched]))
    torch.testing.assert_close(gradients[1], gradients[0], rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("family", LLMS)
def test_a_text_is_scored_alone_as_in_any_batch(family: str, tmp_path: Path) -> None:
    model, frames = open_gates(built(tmp_path, family)).eval(), frames_of([20, 9, 44])
    texts = [*TEXTS, "heron inlet juniper"]
    with torch.no_grad():
        together = output_of(model, frames, texts).token_log_probs
        alone = [
            output_of(model, [each], [text]).token_log_probs
            for each, text in zip(frames, texts, strict=True)
        ]
    torch.testing.assert_close(together, torch.cat(alone), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("beams", [1, 3])
def test_search_finds_in_a_batch_what_it_finds_alone(beams: int, tmp_path: Path) -> None:
    """With the cache of keys and values, and beams of an utterance as rows."""
    model, frames = open_gates(built(tmp_path)).eval(), frames_of([20, 9])
    rules = replace(GREEDY, beams=beams, max_tokens=6)
    together = search(model, frames, SECONDS, rules)
    for each, own, seconds in zip(together, frames, SECONDS, strict=True):
        [alone] = search(model, [own], [seconds], rules)
        assert each.tokens == alone.tokens
        assert each.score == pytest.approx(alone.score, abs=1e-3)


def test_what_is_heard_decides_what_is_learnt(tmp_path: Path) -> None:
    model, frames = open_gates(built(tmp_path)), frames_of([20, 9])
    learn(model, "llama", frames, TEXTS)
    found = search(model.eval(), frames, SECONDS, replace(GREEDY, max_tokens=12))
    assert [each.text for each in found] == TEXTS


def test_lora_in_the_same_layers_is_tuned_beside_the_blocks_and_loads_again(
    tmp_path: Path,
) -> None:
    model, frames = open_gates(built(tmp_path)), frames_of([20, 9])
    model.add_lora(2, 4, 0.0, LORA["llama"], 0)
    parts = model.tune(["projector", "lora"])
    optimiser = torch.optim.AdamW([each for part in parts.values() for each in part], lr=1e-2)
    for _ in range(2):  # LoRA's first matrix starts to move after the second one has
        optimiser.zero_grad()
        output_of(model, frames, TEXTS).loss.backward()
        optimiser.step()
    assert all(each.grad.abs().sum() > 0 for each in parts["lora"])
    model.save(tmp_path / "bridge")
    again = SpeechLLM.load(tmp_path / "bridge", tmp_path / "encoder", tmp_path / "llm", "cpu")
    with torch.no_grad():
        before, after = (
            output_of(each.eval(), frames, TEXTS).token_log_probs for each in (model, again)
        )
    torch.testing.assert_close(after, before)


def test_an_llm_in_half_precision_reads_blocks_in_single_precision(tmp_path: Path) -> None:
    model, frames = open_gates(built(tmp_path)).eval(), frames_of([20, 9])
    with torch.no_grad():
        single = output_of(model, frames, TEXTS).token_log_probs
        model.llm.to(torch.bfloat16)
        half = output_of(model, frames, TEXTS).token_log_probs
    assert (half - single).abs().mean() < 0.1
    assert model.projector.linear.weight.dtype == torch.float32


def test_blocks_are_spread_over_the_layers_and_no_more_than_those() -> None:
    entry = replace(ENTRY, layers=8)
    assert entry.layer_indices(32) == [0, 4, 8, 12, 16, 20, 24, 28]
    assert replace(ENTRY, layers=3).layer_indices(4) == [0, 1, 2]
    with pytest.raises(InputError) as caught:
        check_llm_fit(entry, 6, is_packed=False)
    assert caught.value.subject == "projector"


def test_packed_utterances_are_refused() -> None:
    check_llm_fit(ENTRY, 2, is_packed=False)
    with pytest.raises(InputError) as caught:
        check_llm_fit(ENTRY, 2, is_packed=True)
    assert caught.value.subject == "train.packing"
