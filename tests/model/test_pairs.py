"""Every encoder family before every LLM family: from a waveform to a loss, a gradient, a saved
bridge and new text.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from components.config.projector import Linear
from components.model.encoders.encoder import SpeechEncoder
from components.model.llms.causal import load_llm
from components.model.model_folder import ModelConfig, folder_digest
from components.model.speech_llm import SpeechLLM
from components.search.beam import search
from components.search.constraints import GREEDY
from components.text.hypothesis import drop_cut_letter
from tests.checkpoints import BOTH, ENCODERS, LLMS, PROMPT, learn, output_of, save_encoder, save_llm
from tests.model.test_encoder import wave

RATE = 16_000
SECONDS = [0.4, 1.0]
TEXTS = ["amber birch", "delta"]
SEARCH = replace(GREEDY, max_tokens=12)


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An encoder folder and an LLM folder of each family, as the stages leave them."""
    folder = tmp_path_factory.mktemp("pairs")
    for family in ENCODERS:
        save_encoder(folder / "encoder" / family, family)
    for family in LLMS:
        save_llm(folder / "llm" / family, family)
    return folder


@pytest.fixture(scope="module")
def heard(folders: Path) -> dict[str, list[torch.Tensor]]:
    """Frames of two utterances by each encoder."""
    found = {}
    for family in ENCODERS:
        encoder = SpeechEncoder(folders / "encoder" / family)
        found[family] = [encoder([wave(int(seconds * RATE), 1)])[0].clone() for seconds in SECONDS]
    return found


def bridge(folders: Path, encoder: str, llm: str, frames: list[torch.Tensor]) -> SpeechLLM:
    """A new model between two folders."""
    one, other = folders / "encoder" / encoder, folders / "llm" / llm
    shape = ModelConfig(
        folder_digest(one),
        frames[0].shape[1],
        folder_digest(other),
        "float32",
        Linear("linear", 2, 24),
        PROMPT,
        "lower",
    )
    torch.manual_seed(7)
    return SpeechLLM(shape, *load_llm(other, "float32", "cpu"))


@pytest.mark.parametrize("encoder", ENCODERS)
@pytest.mark.parametrize("llm", LLMS)
def test_a_waveform_becomes_text_through_every_pair(
    encoder: str, llm: str, folders: Path, heard: dict[str, list[torch.Tensor]], tmp_path: Path
) -> None:
    frames = heard[encoder]
    model = bridge(folders, encoder, llm, frames)
    trained = model.tune(["projector"])["projector"]
    output = output_of(model, frames, TEXTS, BOTH)
    assert output.num_targets == sum(len(model.builder.encode(text)) + 1 for text in TEXTS)
    (output.loss + output.matching_loss).backward()
    assert all(
        parameter.grad is not None and parameter.grad.abs().sum() > 0
        for parameter in model.projector.parameters()
    )
    assert all(parameter.grad is None for parameter in model.llm.parameters())
    length = torch.cat([parameter.grad.flatten() for parameter in trained]).norm()
    with torch.no_grad():  # a short step down the slope
        for parameter in trained:
            parameter -= 1e-3 * parameter.grad / length
        after = output_of(model, frames, TEXTS, BOTH)
    before = (output.loss + output.matching_loss).detach()
    assert float(after.loss + after.matching_loss) < float(before)
    model.save(tmp_path / "bridge")
    again = SpeechLLM.load(
        tmp_path / "bridge", folders / "encoder" / encoder, folders / "llm" / llm, "cpu"
    )
    found = search(again, frames, SECONDS, SEARCH)
    assert found == search(model.eval(), frames, SECONDS, SEARCH)
    for each in found:
        assert len(each.tokens) <= SEARCH.max_tokens
        assert model.builder.eos not in each.tokens
        text = model.builder.decode(each.tokens)
        assert each.text == (drop_cut_letter(text) if each.at_limit else text)


@pytest.mark.parametrize("encoder", ENCODERS)
def test_an_utterance_of_every_encoder_is_learnt_to_the_letter(
    encoder: str, folders: Path, heard: dict[str, list[torch.Tensor]]
) -> None:
    frames = heard[encoder]
    model = bridge(folders, encoder, "llama", frames)
    found = search(learn(model, "llama", frames, TEXTS), frames, SECONDS, SEARCH)
    assert [each.text for each in found] == TEXTS, "two sounds, two texts: what is heard decides"
    assert [each.tokens for each in found] == [model.builder.encode(text) for text in TEXTS], (
        "it stops at the end of the turn"
    )
