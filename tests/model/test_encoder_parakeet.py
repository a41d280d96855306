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
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import ParakeetCTCConfig, ParakeetForCTC, ParakeetTokenizer
from transformers.models.parakeet.feature_extraction_parakeet import ParakeetFeatureExtractor

from components.model.encoders.ctc import CtcHead
from components.model.encoders.ctc_head import read_ctc_head
from components.model.encoders.encoder import SpeechEncoder
from components.model.encoders.registry import read_traits
from components.runtime.artifact import recorded_digests
from tests import world as tones
from tests.checkpoints import PARAKEET, TEXTS

NUM_UNITS = 60  # subwords; the blank is the next one
LAYER_DROP = {"layerdrop": 0.1, "dropout": 0.1}  # in the published configuration


def save_published(folder: Path, tokenizer_class: str = "ParakeetTokenizerFast") -> Path:
    """Random weights with the files of the hub's repository."""
    folder.mkdir(parents=True)
    bpe = Tokenizer(models.BPE(unk_token="<unk>"))
    bpe.pre_tokenizer, bpe.decoder = pre_tokenizers.Metaspace(), decoders.Metaspace()
    trainer = trainers.BpeTrainer(
        vocab_size=NUM_UNITS, special_tokens=["<unk>"], show_progress=False
    )
    bpe.train_from_iterator(TEXTS, trainer)
    bpe.add_special_tokens(["<pad>"])
    assert bpe.token_to_id("<pad>") == NUM_UNITS
    units = ParakeetTokenizer(tokenizer_object=bpe, unk_token="<unk>", pad_token="<pad>")
    units.save_pretrained(folder)
    path = folder / "tokenizer_config.json"
    settings = json.loads(path.read_text())
    path.write_text(json.dumps({**settings, "tokenizer_class": tokenizer_class}))
    shape = {**PARAKEET, **LAYER_DROP, "subsampling_factor": 8, "initializer_range": 0.3}
    torch.manual_seed(1)
    config = ParakeetCTCConfig(
        vocab_size=NUM_UNITS + 1, pad_token_id=NUM_UNITS, encoder_config=shape
    )
    ParakeetForCTC(config).save_pretrained(folder)
    extractor = ParakeetFeatureExtractor(feature_size=PARAKEET["num_mel_bins"])
    extractor.save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_published(tmp_path_factory.mktemp("published") / "parakeet")


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
    encoder = SpeechEncoder(save_published(tmp_path / "parakeet", tokenizer_class))
    frames = encoder([wave(3.0)])
    pieces = []
    with torch.no_grad():
        best = encoder.head(frames[0][None])[0].argmax(-1).tolist()
    vocabulary = {index: unit for unit, index in encoder.tokenizer.get_vocab().items()}
    for unit, _ in groupby(best):
        if unit != NUM_UNITS:
            pieces.append(vocabulary[unit])
    text = " ".join("".join(pieces).replace("▁", " ").split())
    assert len(set(best)) > 2
    assert encoder.decode_ctc(frames) == [text]


def test_units_and_blank_are_those_of_the_head(folder: Path) -> None:
    encoder = SpeechEncoder(folder)
    head = CtcHead(encoder)
    assert head.blank == read_ctc_head(folder).blank == NUM_UNITS
    units = head.encode("AMBER Birch")
    assert units is not None and NUM_UNITS not in units
    # As in frames: every unit in two of them, then the blank.
    path = [frame for unit in units for frame in (unit, unit, NUM_UNITS)]
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
        "vocab_size": NUM_UNITS + 1,
        "pad_token_id": NUM_UNITS,
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
