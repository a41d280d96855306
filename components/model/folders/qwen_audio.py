"""The audio encoder inside a Qwen-Audio checkpoint (arXiv 2311.07919) → a folder with a Whisper
encoder.

Its tensors ``transformer.audio.*`` have the names of OpenAI's Whisper; here they get those of
transformers. What follows the last layer norm (pooling by two, the projection to the LLM, marks of
begin and end) is skipped, since the bridge replaces it. Only safetensors files are read, and of
them only these tensors. Cost: the encoder in memory once.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open

from components.config.errors import InputError
from components.runtime.json_files import read_json

PREFIX = "transformer.audio."
SKIPPED_PREFIXES = ("proj.", "audio_bos_eos_token.")
NAMES = (
    (r"^positional_embedding$", "embed_positions.weight"),
    (r"^ln_post\.", "layer_norm."),
    (r"^blocks\.", "layers."),
    (r"\.attn\.query\.", ".self_attn.q_proj."),
    (r"\.attn\.key\.", ".self_attn.k_proj."),
    (r"\.attn\.value\.", ".self_attn.v_proj."),
    (r"\.attn\.out\.", ".self_attn.out_proj."),
    (r"\.attn_ln\.", ".self_attn_layer_norm."),
    (r"\.mlp\.0\.", ".fc1."),
    (r"\.mlp\.2\.", ".fc2."),
    (r"\.mlp_ln\.", ".final_layer_norm."),
)


def whisper_name(name: str) -> str | None:
    """The name of a Qwen-Audio tensor in transformers' WhisperEncoder; None for one that is
    skipped.
    """
    whisper = name.removeprefix(PREFIX)
    if whisper == name or whisper.startswith(SKIPPED_PREFIXES):
        return None
    for pattern, replacement in NAMES:
        whisper = re.sub(pattern, replacement, whisper)
    return whisper


def whisper_tensors(tensors: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """The encoder's tensors under the names of transformers' WhisperEncoder."""
    return {whisper: tensor for name, tensor in tensors.items() if (whisper := whisper_name(name))}


def whisper_shape(audio: Mapping[str, Any]) -> dict[str, int]:
    """``audio`` of a Qwen-Audio ``config.json`` as the encoder's part of a Whisper
    configuration.
    """
    width, layers, heads, positions, mel = (
        int(audio[name]) for name in ("n_state", "n_layer", "n_head", "n_ctx", "n_mels")
    )
    return {
        "d_model": width,
        "encoder_layers": layers,
        "encoder_attention_heads": heads,
        "encoder_ffn_dim": 4 * width,
        "max_source_positions": positions,
        "num_mel_bins": mel,
    }


def write_encoder(where: str, checkpoint: Path, folder: Path) -> None:
    """Writes the encoder of ``checkpoint`` to ``folder``.

    Raises InputError, which names the catalogue entry ``where``, for a Qwen without an audio
    encoder and where the tensors are not those of a Whisper.
    """
    from transformers import WhisperConfig, WhisperFeatureExtractor
    from transformers.models.whisper.modeling_whisper import WhisperEncoder

    audio = read_json(checkpoint / "config.json").get("audio")
    if not audio:
        raise InputError(
            f"{where}: the checkpoint is a Qwen without an audio encoder.",
            subject=where,
            hint="Name a Qwen-Audio.",
        )
    config = WhisperConfig(**whisper_shape(audio))
    network, tensors = WhisperEncoder(config), whisper_tensors(_read(checkpoint))
    try:
        network.load_state_dict({name: tensor.float() for name, tensor in tensors.items()})
    except RuntimeError as error:
        reason = " ".join(str(error).split())
        raise InputError(
            f"{where}: the audio encoder is not a Whisper encoder: {reason}",
            subject=where,
            hint="Take the checkpoint as published.",
        ) from None
    network.save_pretrained(folder)
    WhisperFeatureExtractor(feature_size=config.num_mel_bins).save_pretrained(folder)


def _read(checkpoint: Path) -> dict[str, torch.Tensor]:
    """The tensors of the audio encoder from all weight files."""
    tensors: dict[str, torch.Tensor] = {}
    for path in sorted(checkpoint.glob("*.safetensors")):
        with safe_open(path, framework="pt") as weights:
            tensors |= {
                name: weights.get_tensor(name)
                for name in weights.keys()  # noqa: SIM118
                if name.startswith(PREFIX)
            }
    return tensors
