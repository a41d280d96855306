"""The event encoder and encoders side by side: frames of one rate, joined along the width, however
long the audio.
"""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from transformers import ASTFeatureExtractor, AutoModel
from transformers.models.audio_spectrogram_transformer import (
    feature_extraction_audio_spectrogram_transformer as extraction,
)

from components.model.encoders import family as families
from components.model.encoders.encoder import SpeechEncoder
from tests.checkpoints import save_encoder
from tests.model.test_encoder import close, wave

RATE, WINDOW = 16_000, 160_000


@pytest.fixture(scope="module")
def both(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_encoder(tmp_path_factory.mktemp("joined") / "encoder", "whisper-ast")


def test_a_frame_is_the_mean_of_its_patches(both: Path) -> None:
    sound = wave(WINDOW)
    mel = ASTFeatureExtractor.from_pretrained(both / "events")(
        sound, sampling_rate=RATE, return_tensors="pt"
    )["input_values"]
    network = AutoModel.from_pretrained(both / "events", local_files_only=True).eval()
    with torch.no_grad():
        tokens = network(mel).last_hidden_state[0, 2:]
    # Patches come band by band: 101 steps of each.
    wanted = torch.stack([tokens[step::101].mean(0) for step in range(100)])
    assert len(tokens) == 2 * 101
    assert close(SpeechEncoder(both / "events")([sound])[0], wanted)


@pytest.mark.parametrize("samples", [400, RATE + 37, WINDOW])
def test_the_filterbank_is_torchaudios(
    samples: int, both: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Kaldi's; against the one in NumPy that transformers computes without torchaudio. Values lie
    within 1.3 (measured: 3.4e-5 apart at most, with 128 bands).
    """
    sound = wave(samples)
    features = {}
    for has_torchaudio in (True, False):
        monkeypatch.setattr(extraction, "is_speech_available", lambda: has_torchaudio)  # noqa: B023
        extractor = ASTFeatureExtractor.from_pretrained(both / "events")
        features[has_torchaudio] = extractor(sound, sampling_rate=RATE, return_tensors="pt")[
            "input_values"
        ]
    assert features[True][0, 0].std() > 0.1  # over the bands of the first frame
    torch.testing.assert_close(features[True], features[False], atol=1e-4, rtol=0)


def test_past_ten_seconds_windows_are_joined(both: Path) -> None:
    encoder, sound = SpeechEncoder(both / "events"), wave(25 * RATE + 1)
    parts = [sound[:WINDOW], sound[WINDOW : 2 * WINDOW], sound[2 * WINDOW :]]
    frames = encoder([sound])[0]
    assert len(frames) == 251
    assert close(frames, torch.cat([encoder([part])[0] for part in parts]))
    assert len(encoder([wave(WINDOW + 1)])[0]) == 101  # one sample is left behind the window


def test_a_long_recording_runs_in_passes(both: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sound = wave(65 * RATE + 1)
    whole = SpeechEncoder(both / "events")([sound])[0]
    monkeypatch.setattr(families, "PASS_SECONDS", 30)
    encoder, sizes = SpeechEncoder(both / "events"), []
    encoder.model.register_forward_pre_hook(lambda module, given: sizes.append(len(given[0])))
    assert close(encoder([sound])[0], whole)
    assert sizes == [3, 3, 1]


@pytest.mark.parametrize("samples", [400, RATE, 2 * RATE + 1601, 31 * RATE])
def test_an_event_frame_stands_beside_five_of_speech(samples: int, both: Path) -> None:
    sound = [wave(samples)]
    speech, events = (
        SpeechEncoder(both / "speech")(sound)[0],
        SpeechEncoder(both / "events")(sound)[0],
    )
    joined = SpeechEncoder(both)(sound)[0]
    assert joined.shape == (len(speech), 64)
    assert torch.equal(joined[:, :32], speech)
    for place, frame in enumerate(joined[:, 32:]):
        assert torch.equal(frame, events[place // 5])


def test_the_layer_is_that_of_the_first_encoder(both: Path) -> None:
    sound = [wave(RATE)]
    joined = SpeechEncoder(both, layer=1)(sound)[0]
    assert torch.equal(joined[:, :32], SpeechEncoder(both / "speech", layer=1)(sound)[0])
    assert torch.equal(joined[:, 32:], SpeechEncoder(both)(sound)[0][:, 32:])


def test_padding_reaches_whisper_inside(both: Path) -> None:
    sound = [wave(RATE)]
    assert torch.equal(
        SpeechEncoder(both, padding="none")(sound)[0][:, :32],
        SpeechEncoder(both / "speech", padding="none")(sound)[0],
    )


@pytest.mark.parametrize("samples", [RATE, 2 * RATE + 1601, 31 * RATE])
def test_behind_the_audio_of_a_full_window_events_are_zero(samples: int, both: Path) -> None:
    sound = [wave(samples)]
    joined = SpeechEncoder(both, padding="full-window")(sound)[0]
    cut = SpeechEncoder(both)(sound)[0]
    assert len(joined) == SpeechEncoder(both, padding="full-window").count_frames(samples)
    assert len(joined) == -(-samples // 480_000) * 1500
    speech = SpeechEncoder(both / "speech", padding="full-window")(sound)[0]
    assert torch.equal(joined[:, :32], speech)
    assert torch.equal(joined[: len(cut), 32:], cut[:, 32:])
    assert not joined[len(cut) :, 32:].any()
