"""Whisper's encoder: windows of 30 s or the true length, against transformers' own; audio past 30
s; whose weights.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import AutoModel, WhisperFeatureExtractor
from transformers.models.whisper.modeling_whisper import WhisperEncoder

from components.model.encoders import family as families
from components.model.encoders.encoder import SpeechEncoder
from tests.checkpoints import save_encoder
from tests.model.test_encoder import close, wave

RATE, WINDOW = 16_000, 480_000


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_encoder(tmp_path_factory.mktemp("whisper") / "encoder", "whisper")


def theirs(folder: Path, sound: np.ndarray, layer: int | str = "last") -> torch.Tensor:
    """The 1,500 frames that transformers gives for up to 30 s."""
    mel = WhisperFeatureExtractor.from_pretrained(folder)(
        sound, sampling_rate=RATE, return_tensors="pt"
    ).input_features
    network = AutoModel.from_pretrained(folder, local_files_only=True).eval().get_encoder()
    with torch.no_grad():
        output = network(mel, output_hidden_states=True)
    return (output.last_hidden_state if layer == "last" else output.hidden_states[int(layer)])[0]


@pytest.mark.parametrize("padding", ["window", "none"])
@pytest.mark.parametrize("layer", ["last", 0, 1, 2])
def test_thirty_seconds_are_those_of_transformers(
    padding: str, layer: int | str, folder: Path
) -> None:
    """The weights are the checkpoint's too: the plain way to load the encoder gives random ones."""
    sound = wave(WINDOW)
    frames = SpeechEncoder(folder, layer=layer, padding=padding)([sound])[0]
    assert len(frames) == 1500
    assert close(frames, theirs(folder, sound, layer))


def test_a_short_clip_in_a_window_is_that_of_transformers_cut_to_its_length(folder: Path) -> None:
    for samples in (400, RATE, 5 * RATE + 1):
        frames = SpeechEncoder(folder)([wave(samples)])[0]
        assert len(frames) == -(-samples // 320)
        assert close(frames, theirs(folder, wave(samples))[: len(frames)])


@pytest.mark.parametrize("samples", [400, RATE, 12 * RATE + 7, WINDOW])
@pytest.mark.parametrize("layer", ["last", 1])
def test_a_full_window_has_all_frames_of_transformers(
    samples: int, layer: int | str, folder: Path
) -> None:
    encoder = SpeechEncoder(folder, layer=layer, padding="full-window")
    frames = encoder([wave(samples)])[0]
    assert len(frames) == encoder.count_frames(samples) == 1500
    assert close(frames, theirs(folder, wave(samples), layer))


def test_full_windows_are_joined_with_their_padding(folder: Path) -> None:
    encoder, sounds = SpeechEncoder(folder, padding="full-window"), [wave(35 * RATE), wave(RATE)]
    frames = encoder(sounds)
    assert [len(each) for each in frames] == [3000, 1500]
    assert [encoder.count_frames(len(sound)) for sound in sounds] == [3000, 1500]
    assert close(frames[0][:1500], theirs(folder, sounds[0][:WINDOW]))
    assert close(frames[0][1500:], theirs(folder, sounds[0][WINDOW:]))
    assert encoder.count_frames(399) == 0


@pytest.mark.parametrize("padding", ["window", "none"])
def test_past_thirty_seconds_windows_are_joined(padding: str, folder: Path) -> None:
    encoder, sound = SpeechEncoder(folder, padding=padding), wave(75 * RATE + 1)
    parts = [sound[:WINDOW], sound[WINDOW : 2 * WINDOW], sound[2 * WINDOW :]]
    frames = encoder([sound])[0]
    assert len(frames) == encoder.count_frames(len(sound)) == 3751
    assert close(frames, torch.cat([encoder([part])[0] for part in parts]))
    assert close(frames[:1500], theirs(folder, parts[0]))


@pytest.mark.parametrize("padding", ["window", "none"])
def test_a_long_recording_runs_in_passes_and_has_the_frames_of_its_windows(
    padding: str, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(families, "PASS_SECONDS", 60)
    encoder, sounds = (
        SpeechEncoder(folder, padding=padding),
        [wave(215 * RATE + 77), wave(RATE), wave(31 * RATE)],
    )
    sizes: list[int] = []
    encoder.model.conv1.register_forward_hook(
        lambda module, given, mel: sizes.append(mel.shape[0] * mel.shape[2])
    )
    together = encoder(sounds)
    assert max(sizes) == 2 * 3000  # of the spectrum's steps of 10 ms: two windows at once
    assert [len(frames) for frames in together] == [
        encoder.count_frames(len(sound)) for sound in sounds
    ]
    for sound, frames in zip(sounds, together, strict=True):
        parts = [sound[start : start + WINDOW] for start in range(0, len(sound), WINDOW)]
        assert close(frames, torch.cat([encoder([part])[0] for part in parts]))


def test_a_pass_holds_as_much_as_fits_padding_counted() -> None:
    most = families.PASS_SECONDS * RATE
    assert list(families.split_passes([])) == []
    assert list(families.split_passes([1] * 1000)) == [slice(0, 1000)]
    assert list(families.split_passes([most // 4] * 9)) == [slice(0, 4), slice(4, 8), slice(8, 9)]
    assert list(families.split_passes([1, 1, most // 2, 1, most + 1, 1])) == [
        slice(0, 2),
        slice(2, 4),
        slice(4, 5),
        slice(5, 6),
    ]


@pytest.mark.parametrize("samples", [1, 100, 399])
@pytest.mark.parametrize("padding", ["window", "none"])
def test_what_is_left_behind_a_window_may_be_short(
    samples: int, padding: str, folder: Path
) -> None:
    frames = SpeechEncoder(folder, padding=padding)([wave(WINDOW + samples)])[0]
    assert len(frames) == 1500 + -(-samples // 320)
    assert torch.isfinite(frames).all()


@pytest.mark.parametrize("layer", ["last", 0, 1])
def test_without_padding_frames_do_not_hang_on_the_batch(layer: int | str, folder: Path) -> None:
    encoder = SpeechEncoder(folder, padding="none", layer=layer)
    lengths = [
        RATE,
        400,
        7 * RATE + 13,
        WINDOW,
        WINDOW - 1,
        WINDOW - 321,
        WINDOW - 399,
        3 * RATE,
        33 * RATE,
    ]
    waves = [wave(samples, samples) for samples in lengths]
    for sound, together in zip(waves, encoder(waves), strict=True):
        assert close(together, encoder([sound])[0]), len(sound)


def test_without_padding_no_silence_is_heard(folder: Path) -> None:
    sound = [wave(2 * RATE)]
    whole, cut = SpeechEncoder(folder)(sound)[0], SpeechEncoder(folder, padding="none")(sound)[0]
    assert whole.shape == cut.shape
    assert not close(whole, cut)
    # What enters the first layer is the same but for the last frame, behind which a window goes on
    # with silence.
    whole, cut = (
        SpeechEncoder(folder, layer=0)(sound)[0],
        SpeechEncoder(folder, layer=0, padding="none")(sound)[0],
    )
    assert close(whole[:-1], cut[:-1])


def test_seconds_that_are_computed_are_told(folder: Path) -> None:
    windows, true = SpeechEncoder(folder), SpeechEncoder(folder, padding="none")
    assert [windows.computed_duration_s(samples) for samples in (RATE, WINDOW, WINDOW + 1)] == [
        30,
        30,
        60,
    ]
    assert [true.computed_duration_s(samples) for samples in (RATE, WINDOW, WINDOW + 1)] == [
        1,
        30,
        30 + 1 / RATE,
    ]


def test_an_encoder_saved_alone_is_read(folder: Path, tmp_path: Path) -> None:
    alone = tmp_path / "alone"
    AutoModel.from_pretrained(folder, local_files_only=True).get_encoder().save_pretrained(alone)
    WhisperFeatureExtractor.from_pretrained(folder).save_pretrained(alone)
    assert close(SpeechEncoder(alone)([wave(RATE)])[0], SpeechEncoder(folder)([wave(RATE)])[0])


def test_the_trap_is_still_there(folder: Path) -> None:
    """Why the encoder is taken out of the whole model: read alone from a whole checkpoint, its
    weights are random.
    """
    alone = WhisperEncoder.from_pretrained(folder, local_files_only=True)
    whole = AutoModel.from_pretrained(folder, local_files_only=True).get_encoder()
    assert not torch.equal(alone.conv1.weight, whole.conv1.weight), (
        "transformers reads it rightly now: the detour can go"
    )
