"""Parakeet-CTC as NVIDIA publishes it: subwords with the blank behind them, frames of 80 ms, a
configuration one level down; read as an entry of the catalogue.
"""

from __future__ import annotations

import json
from itertools import groupby
from pathlib import Path

import numpy as np
import pytest
import torch

from components.model.encoders.ctc import CtcHead
from components.model.encoders.ctc_head import read_ctc_head
from components.model.encoders.encoder import SpeechEncoder
from components.model.encoders.registry import read_traits
from components.runtime.artifact import recorded_digests
from tests import world as tones
from tests.checkpoints import SUBWORDS, save_encoder


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("published") / "parakeet"
    save_encoder(folder, "parakeet-published")
    (folder / "inputs.json").unlink()
    return folder


def wave(seconds: float) -> np.ndarray:
    random = np.random.default_rng(1)
    return (0.1 * random.standard_normal(int(16_000 * seconds))).astype(np.float32)


def test_frames_are_those_of_the_encoder_below_the_head(folder: Path) -> None:
    encoder = SpeechEncoder(folder)
    assert (encoder.frame_rate, encoder.width, encoder.has_ctc) == (12.5, 32, True)
    assert read_traits(folder) == encoder.traits
    waveforms = [wave(seconds) for seconds in (1.0, 2.3)]
    frames = encoder(waveforms)
    assert [len(item) for item in frames] == [13, 29]
    inputs = encoder.family.extractor([waveforms[1]], sampling_rate=16_000, return_tensors="pt")
    with torch.no_grad():
        expected = encoder.model.encoder(**inputs).last_hidden_state[0]
    assert torch.allclose(frames[1], expected[:29], atol=1e-4)


@pytest.mark.parametrize("tokenizer_class", ["ParakeetTokenizerFast", "ParakeetTokenizer"])
def test_the_text_is_the_best_path_without_blanks(tokenizer_class: str, tmp_path: Path) -> None:
    folder = save_encoder(tmp_path / "parakeet", "parakeet-published")
    path = folder / "tokenizer_config.json"
    settings = json.loads(path.read_text())
    assert settings["tokenizer_class"] == "ParakeetTokenizerFast"
    path.write_text(json.dumps({**settings, "tokenizer_class": tokenizer_class}))
    encoder = SpeechEncoder(folder)
    frames = encoder([wave(3.0)])
    pieces = []
    with torch.no_grad():
        best = encoder.head(frames[0][None])[0].argmax(-1).tolist()
    vocabulary = {index: unit for unit, index in encoder.tokenizer.get_vocab().items()}
    for unit, _ in groupby(best):
        if unit != SUBWORDS:
            pieces.append(vocabulary[unit])
    text = " ".join("".join(pieces).replace("▁", " ").split())
    assert len(set(best)) > 2
    assert encoder.decode_ctc(frames) == [text]


def test_units_and_blank_are_those_of_the_head(folder: Path) -> None:
    encoder = SpeechEncoder(folder)
    head = CtcHead(encoder)
    assert head.blank == read_ctc_head(folder).blank == SUBWORDS
    units = head.encode("AMBER Birch")
    assert units is not None and SUBWORDS not in units
    # As in frames: every unit in two of them, then the blank.
    path = [frame for unit in units for frame in (unit, unit, SUBWORDS)]
    assert encoder.tokenizer.decode(path) == "amber birch"
    assert head.encode("") == []
    assert head.encode("ÄÖ") is None  # no such units
    frames = encoder([wave(2.0)])
    assert float(head.loss(frames, [units])) > 0


def test_the_folder_is_an_entry_of_the_catalogue(
    world: Path, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its shape is compared one level down, and its weights pass through the stages."""
    monkeypatch.setenv("LIBRETTO_MODELS", str(folder.parent))
    shape = {
        "model_type": "parakeet_ctc",
        "architectures": ["ParakeetForCTC"],
        "vocab_size": SUBWORDS + 1,
        "pad_token_id": SUBWORDS,
        "encoder_config": {"hidden_size": 32, "num_hidden_layers": 2, "subsampling_factor": 8},
    }
    source = {"kind": "folder", "folder": folder.name, "shape": shape}
    tones.change("catalogue/encoder.yaml", {"tiny.source": source})
    tones.run("encoder")
    assert "tokenizer.json" in recorded_digests(tones.ENCODER)
    tones.run("features", "dev")
    frames = tones.frame_source("dev")
    assert all(
        frames.num_frames(utterance, 0) == pytest.approx(utterance.duration_s * 12.5, abs=1)
        for utterance in frames.utterances
    )
