"""The speech encoder, in each family: how many frames, whose frames, and what it refuses to read."""

from __future__ import annotations

import json
from itertools import groupby
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import AutoModel, AutoModelForCTC, AutoTokenizer

from components.config.errors import InputError
from components.model.encoder import SpeechEncoder
from tests.checkpoints import ENCODERS, save_encoder

# Shortest clip that gives a frame whose values are numbers: two of 10 ms for Parakeet, whose extractor takes a variance
# over them, and the reach of the seven convolutions (400 samples) for the others.
SHORTEST = {"parakeet": 320, "hubert-layer-norm": 400, "hubert-group-norm": 400}
RATE = 16_000


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("encoders")
    return {family: save_encoder(folder / family, family) for family in ENCODERS}


def wave(samples: int, seed: int = 0) -> np.ndarray:
    random = np.random.default_rng(seed)
    return (0.2 * np.sin(np.arange(samples) * random.uniform(0.05, 0.5)) + 0.05 * random.standard_normal(samples)).astype(np.float32)


def close(one: torch.Tensor, other: torch.Tensor) -> bool:
    return one.shape == other.shape and float((one - other).norm() / other.norm()) < 1e-5


@pytest.mark.parametrize("family", ENCODERS)
def test_as_many_frames_come_as_are_told(family: str, folders: dict[str, Path]) -> None:
    """Told from the mask of the inputs, against what the network itself gives for the clip without padding."""
    encoder = SpeechEncoder(folders[family])
    start = SHORTEST[family]
    for samples in [*range(start, start + 1400, 37), *range(RATE - 330, RATE + 330, 53), 2 * RATE + 1, 5 * RATE + 159, 7 * RATE + 160]:
        inputs = encoder.inputs([wave(samples)])
        told = int(encoder.frame_counts(inputs["attention_mask"])[0])
        frames = encoder([wave(samples)])[0]
        assert frames.shape == (told, encoder.width) == (told, 32)
        assert told >= 1
        assert torch.isfinite(frames).all()
        with torch.no_grad():
            given = encoder.body(**inputs).last_hidden_state.shape[1]
        assert 0 <= given - told <= (family == "parakeet")  # its extractor hands over one more frame at times, masked


@pytest.mark.parametrize("family", ["parakeet", "hubert-layer-norm"])
@pytest.mark.parametrize("layer", ["last", 0, 1])
def test_an_utterance_has_the_same_frames_alone_and_in_a_batch(family: str, layer: int | str, folders: dict[str, Path]) -> None:
    encoder = SpeechEncoder(folders[family], layer=layer)
    waves = [wave(samples, samples) for samples in (RATE // 2, 3 * RATE + 7, 800, RATE + 1, 3 * RATE)]
    for samples, together in zip(waves, encoder(waves), strict=True):
        assert close(together, encoder([samples])[0])
    for samples, together in zip(waves, reversed(encoder(waves[::-1])), strict=True):
        assert close(together, encoder([samples])[0])


def test_group_norm_holds_that_for_equal_lengths_alone(folders: dict[str, Path]) -> None:
    encoder = SpeechEncoder(folders["hubert-group-norm"])
    waves = [wave(RATE, seed) for seed in range(3)]
    for samples, together in zip(waves, encoder(waves), strict=True):
        assert close(together, encoder([samples])[0])
    assert not close(encoder([waves[0], wave(3 * RATE)])[0], encoder([waves[0]])[0])


@pytest.mark.parametrize("family", ENCODERS)
def test_weights_are_those_of_the_folder(family: str, folders: dict[str, Path]) -> None:
    encoder = SpeechEncoder(folders[family])
    auto = AutoModel if family == "hubert-group-norm" else AutoModelForCTC
    plain = auto.from_pretrained(folders[family], local_files_only=True).eval()
    assert encoder.has_ctc == (family != "hubert-group-norm")
    inputs, frames = encoder.inputs([wave(RATE)]), encoder([wave(RATE)])[0]
    with torch.no_grad():
        if family == "hubert-group-norm":
            wanted, got = plain(inputs["input_values"]).last_hidden_state[0], frames
        else:
            head = encoder.model.ctc_head if family == "parakeet" else encoder.model.lm_head
            wanted, got = plain(**inputs).logits[0], head(frames[None])[0]
    torch.testing.assert_close(got, wanted[: len(frames)], rtol=1e-4, atol=1e-5)
    assert not any(parameter.requires_grad for parameter in encoder.model.parameters())
    assert not encoder.model.training


@pytest.mark.parametrize("family", ["parakeet", "hubert-layer-norm"])
def test_ctc_text_is_the_best_unit_of_each_frame_joined(family: str, folders: dict[str, Path]) -> None:
    encoder = SpeechEncoder(folders[family])
    plain = AutoModelForCTC.from_pretrained(folders[family], local_files_only=True).eval()
    units = {place: unit for unit, place in json.loads((folders[family] / "vocab.json").read_text()).items()}
    waves = [wave(samples, samples) for samples in (800, RATE, 2 * RATE + 99)]
    frames = encoder(waves)
    texts = encoder.ctc_text(frames)
    for samples, each, text in zip(waves, frames, texts, strict=True):
        with torch.no_grad():
            best = plain(**encoder.inputs([samples])).logits[0, : len(each)].argmax(-1).tolist()
        spelt = "".join(units[unit] for unit, _ in groupby(best) if units[unit] != "<pad>")
        assert text == " ".join(spelt.replace("|", " ").split())
    assert len(set(texts)) > 1
    assert encoder.ctc_text([torch.zeros(0, 32)]) == [""]


def test_known_units_give_their_words(folders: dict[str, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    encoder = SpeechEncoder(folders["parakeet"])
    vocabulary = json.loads((folders["parakeet"] / "vocab.json").read_text())
    head = torch.nn.Identity()
    monkeypatch.setattr(encoder.model, "ctc_head", head)
    path = ["<pad>", "a", "a", "<pad>", "m", "|", "|", "b", "b", "<pad>", "b", "<pad>", "|", "e", "<pad>"]
    frames = torch.nn.functional.one_hot(torch.tensor([vocabulary[unit] for unit in path]), len(vocabulary)).float()
    assert encoder.ctc_text([frames]) == ["am bb e"]
    assert encoder.ctc_text([frames[:1]]) == [""]


def test_an_encoder_without_a_head_has_no_text(folders: dict[str, Path]) -> None:
    encoder = SpeechEncoder(folders["hubert-group-norm"])
    with pytest.raises(InputError, match="no CTC head"):
        encoder.ctc_text(encoder([wave(RATE)]))


@pytest.mark.parametrize("family", ENCODERS)
def test_weights_that_are_pickled_alone_are_refused(family: str, tmp_path: Path) -> None:
    folder = save_encoder(tmp_path / family, family)
    (folder / "model.safetensors").unlink()
    torch.save(SpeechEncoder(save_encoder(tmp_path / "other", family)).model.state_dict(), folder / "pytorch_model.bin")
    with pytest.raises(InputError, match=r"does not load as an encoder.*safetensors is needed"):
        SpeechEncoder(folder)


def test_code_of_a_checkpoint_is_not_run(tmp_path: Path) -> None:
    folder = save_encoder(tmp_path / "encoder")
    trap = tmp_path / "ran"
    (folder / "modeling_own.py").write_text(f"open({str(trap)!r}, 'w')\nclass Own: pass\n")
    config = json.loads((folder / "config.json").read_text())
    names = ("AutoConfig", "AutoModel", "AutoModelForCTC", "AutoFeatureExtractor", "AutoTokenizer")
    remote = {"auto_map": {name: "modeling_own.Own" for name in names}, "model_type": "own"}
    (folder / "config.json").write_text(json.dumps({**config, **remote}))
    with pytest.raises(InputError, match="does not load as an encoder"):
        SpeechEncoder(folder)
    assert not trap.exists()


@pytest.mark.parametrize("missing", ["config.json", "preprocessor_config.json", "model.safetensors"])
def test_a_folder_that_lacks_a_file_is_refused(missing: str, tmp_path: Path) -> None:
    folder = save_encoder(tmp_path / "encoder")
    (folder / missing).unlink()
    with pytest.raises(InputError, match="does not load as an encoder"):
        SpeechEncoder(folder)
    with pytest.raises(InputError, match="does not load as an encoder"):
        SpeechEncoder(tmp_path / "nothing here")


def test_the_tokenizer_spells_what_it_was_given(folders: dict[str, Path]) -> None:
    units = AutoTokenizer.from_pretrained(folders["parakeet"], local_files_only=True)
    assert units.decode(units("amber juniper").input_ids, group_tokens=False) == "amber juniper"
