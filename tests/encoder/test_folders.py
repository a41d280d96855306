"""Encoder folders that the stage writes without training: log-mel, joined encoders, the encoder
inside Qwen-Audio.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from transformers import WhisperConfig
from transformers.models.whisper.modeling_whisper import WhisperEncoder

from components.config.errors import InputError
from components.model.encoders.encoder import SpeechEncoder
from components.model.folders.linked_checkpoint import open_checkpoint
from components.model.folders.qwen_audio import whisper_tensors
from components.runtime.artifact import recorded_digests
from components.runtime.hashing import folder_digests
from components.shards.reader import list_utterances, read_audio, read_frames
from tests import world as tones
from tests.checkpoints import WHISPER, save_encoder

SOURCE = "tiny.source"


def built_encoder(source: dict[str, Any]) -> SpeechEncoder:
    tones.change("catalogue/encoder.yaml", {SOURCE: source})
    tones.run("encoder")
    folder = open_checkpoint(tones.ENCODER)
    assert recorded_digests(tones.ENCODER) == {
        name: digest for name, digest in folder_digests(folder).items() if name != "inputs.json"
    }
    return SpeechEncoder(folder)


@pytest.fixture
def local(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of local checkpoints."""
    monkeypatch.setenv("LIBRETTO_MODELS", str(tmp_path))
    return tmp_path


def test_without_an_encoder_features_are_log_mel(world: Path) -> None:
    encoder = built_encoder({"kind": "fbank", "config": {"feature_size": 80}})
    assert (encoder.width, encoder.frame_rate, encoder.has_ctc) == (80, 100, False)
    tones.run("features", "dev")
    for utterance in list_utterances(Path("data/features/dev")):
        frames = read_frames(utterance).astype("float32")
        assert frames.shape == (utterance.entry.samples // 160, 80)
        assert abs(frames.mean(0)).max() < 0.01  # normalised per utterance and band
        assert frames.std(0) == pytest.approx(1, abs=0.05)


def test_unknown_settings_of_log_mel_are_refused(world: Path) -> None:
    with pytest.raises(InputError, match=r"encoder 'tiny'.*feature_size.*mels") as refused:
        built_encoder({"kind": "fbank", "config": {"mels": 80}})
    assert refused.value.hint
    with pytest.raises(InputError, match="encoder 'tiny'") as refused:
        built_encoder({"kind": "fbank", "config": {"feature_size": 0}})
    assert (refused.value.subject, bool(refused.value.hint)) == ("feature_size", True)
    with pytest.raises(InputError, match=r"tiny: 'source\.config'"):
        built_encoder({"kind": "fbank"})


def test_joined_encoders_are_one_folder(world: Path, local: Path) -> None:
    for family in ("whisper", "ast"):
        save_encoder(local / family, family)
    folders = {
        "speech": {"kind": "folder", "folder": "whisper"},
        "events": {"kind": "folder", "folder": "ast"},
    }
    encoder = built_encoder({"kind": "joined", "parts": folders})
    assert (encoder.width, encoder.frame_rate) == (64, 50)
    sound = [read_audio(utterance) for utterance in list_utterances(Path("data/shards/dev"))]
    for frames, speech in zip(encoder(sound), SpeechEncoder(local / "whisper")(sound), strict=True):
        assert torch.equal(frames[:, :32], speech)
    tones.run("features", "dev")
    assert {
        read_frames(utterance).shape[1] for utterance in list_utterances(Path("data/features/dev"))
    } == {64}
    with pytest.raises(InputError, match=r"tiny: 'source\.parts\.events\.folder'"):
        built_encoder({"kind": "joined", "parts": {**folders, "events": {"kind": "folder"}}})


def openai(name: str) -> str:
    """The name of a tensor in OpenAI's Whisper, independent of the code under test."""
    if name == "embed_positions.weight":
        return "positional_embedding"
    parts = name.split(".")
    if parts[0] == "layer_norm":
        return f"ln_post.{parts[1]}"
    if parts[0] != "layers":
        return name
    openai_name = {
        "self_attn.q_proj": "attn.query",
        "self_attn.k_proj": "attn.key",
        "self_attn.v_proj": "attn.value",
        "self_attn.out_proj": "attn.out",
        "self_attn_layer_norm": "attn_ln",
        "fc1": "mlp.0",
        "fc2": "mlp.2",
        "final_layer_norm": "mlp_ln",
    }[".".join(parts[2:-1])]
    return f"blocks.{parts[1]}.{openai_name}.{parts[-1]}"


def qwen_audio() -> tuple[WhisperEncoder, dict[str, torch.Tensor]]:
    """A random encoder, and a checkpoint in the form of Qwen-Audio that contains it."""
    torch.manual_seed(3)
    network = WhisperEncoder(
        WhisperConfig(**{**WHISPER, "encoder_ffn_dim": 128, "encoder_layers": 12})
    ).eval()
    tensors = {
        f"transformer.audio.{openai(name)}": tensor for name, tensor in network.state_dict().items()
    }
    tensors |= {
        f"transformer.audio.{name}": torch.randn(4, 4)
        for name in ("proj.weight", "proj.bias", "audio_bos_eos_token.weight")
    }
    return network, {
        **tensors,
        "transformer.wte.weight": torch.randn(4, 4),
        "transformer.h.0.mlp.w1.weight": torch.randn(4, 4),
    }


def test_the_tensors_of_qwen_audio_get_the_names_of_whisper() -> None:
    network, tensors = qwen_audio()
    tensors_by_name, expected = whisper_tensors(tensors), network.state_dict()
    assert tensors_by_name.keys() == expected.keys()
    assert all(torch.equal(tensors_by_name[name], expected[name]) for name in expected)


def test_the_encoder_of_a_qwen_audio_is_extracted(world: Path, local: Path) -> None:
    network, tensors = qwen_audio()
    (local / "qwen").mkdir()
    names = sorted(tensors)
    for part, chosen in enumerate((names[::2], names[1::2])):
        save_file(
            {name: tensors[name].bfloat16().contiguous() for name in chosen},
            local / f"qwen/model-{part}.safetensors",
        )
    shape = {"n_state": 32, "n_layer": 12, "n_head": 2, "n_ctx": 1500, "n_mels": 20}
    config = {
        "model_type": "qwen",
        "audio": shape,
        "auto_map": {"AutoConfig": "configuration_qwen.QWenConfig"},
    }
    (local / "qwen/config.json").write_text(json.dumps(config))
    encoder = built_encoder({"kind": "folder", "folder": "qwen"})
    assert (encoder.width, encoder.frame_rate, encoder.has_ctc) == (32, 50, False)
    for name, tensor in network.state_dict().items():
        torch.testing.assert_close(encoder.model.state_dict()[name], tensor.bfloat16().float())
    (local / "qwen/config.json").write_text(
        json.dumps({**config, "audio": {**shape, "n_layer": 11}})
    )
    with pytest.raises(InputError, match=r"encoder 'tiny'.*layers\.11"):
        built_encoder({"kind": "folder", "folder": "qwen"})
    (local / "qwen/config.json").write_text(json.dumps({"model_type": "qwen"}))
    with pytest.raises(InputError, match="encoder 'tiny'") as refused:
        built_encoder({"kind": "folder", "folder": "qwen"})
    assert refused.value.hint
