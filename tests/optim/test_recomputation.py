"""Gradient checkpointing: layers are recomputed, gradients are the same, and the dropout of a
frozen LLM is off.
"""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch

from components.config.errors import InputError
from components.model.encoders.encoder import SpeechEncoder
from components.model.speech_llm import SpeechLLM
from components.optim import recomputation
from tests.checkpoints import BOTH, LLMS, LORA, frames_of, joined, output_of, save_encoder

DROPOUT = {
    "llama": "attention_dropout",
    "phi": "resid_pdrop",
    "bloom": "hidden_dropout",
    "gpt_neox": "hidden_dropout",
}


def gradients(model: SpeechLLM) -> tuple[dict[str, torch.Tensor], Counter[str]]:
    """Gradients of one step, and how often the computation of each layer's feed-forward part was
    started (torch stops it where it has all it needs).
    """
    calls: Counter[str] = Counter()
    hooks = [
        module.register_forward_pre_hook(lambda *_, name=name: calls.update([name]))
        for name, module in model.llm.named_modules()
        if name.endswith(".mlp")
    ]
    model.zero_grad()
    output = output_of(model, frames_of([4, 9]), ["amber birch", "cedar"], BOTH)
    (output.loss + output.matching_loss).backward()
    for hook in hooks:
        hook.remove()
    return {
        name: parameter.grad.clone()
        for name, parameter in model.named_parameters()
        if parameter.grad is not None
    }, calls


@pytest.mark.parametrize("family", LLMS)
def test_layers_are_recomputed_and_gradients_are_the_same(family: str, tmp_path: Path) -> None:
    config = {DROPOUT[family]: 0.5} if family in DROPOUT else {}
    model = joined(tmp_path, family, **config)
    model.add_lora(4, 8, 0.0, LORA[family], 1)
    model.tune(["projector", "lora"])
    plain, once = gradients(model.eval())
    recomputation.enable(model.llm)
    prepared, prepared_calls = gradients(model.eval())
    recomputation.activate(model.llm)
    again, twice = gradients(model)
    assert len(once) == 2
    assert set(once.values()) == set(prepared_calls.values()) == {1}
    assert set(twice.values()) == {2}
    assert plain.keys() == again.keys() == prepared.keys()
    assert all(torch.equal(grad, again[name]) for name, grad in plain.items())
    assert not any(
        module.training for module in model.modules() if isinstance(module, torch.nn.Dropout)
    )


@pytest.mark.parametrize("family", ["whisper", "parakeet", "hubert-layer-norm"])
def test_a_tuned_encoder_drops_nothing_either(family: str, tmp_path: Path) -> None:
    dropout = dict.fromkeys(
        ("dropout", "activation_dropout", "attention_dropout", "hidden_dropout"), 0.5
    )
    encoder = SpeechEncoder(save_encoder(tmp_path / "encoder", family, **dropout))
    sound = [np.sin(np.arange(16000) * 0.3).astype(np.float32)]
    encoder.eval().requires_grad_(True)
    plain = encoder(sound)[0]
    recomputation.enable(encoder.model)
    recomputation.activate(encoder.model)
    again = encoder(sound)[0]
    assert torch.equal(plain, again)
    again.sum().backward()
    assert any(parameter.grad is not None for parameter in encoder.parameters())


def test_search_recomputes_nothing(tmp_path: Path) -> None:
    model = joined(tmp_path)
    recomputation.enable(model.llm)
    recomputation.activate(model.llm)
    assert any(layer.training for layer in recomputation.checkpointed_layers(model.llm))
    model.eval()
    assert not any(layer.training for layer in recomputation.checkpointed_layers(model.llm))


def test_a_network_without_such_layers_is_refused() -> None:
    with pytest.raises(InputError, match="Linear") as refused:
        recomputation.enable(torch.nn.Linear(2, 2))
    assert refused.value.subject == "train.gradient_checkpointing"
    assert refused.value.hint
