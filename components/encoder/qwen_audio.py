"""The audio encoder inside a Qwen-Audio checkpoint (arXiv 2311.07919) → a folder that holds a
Whisper encoder alone.

Its tensors ``transformer.audio.*`` carry the names of OpenAI's Whisper; here they get those of
transformers. What comes behind the last layer norm (pooling by two, the projection to the LLM,
marks of begin and end) is left out: the projector here does that work. Only safetensors are read,
and of them only these tensors.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open

from components.config.errors import InputError

PREFIX = "transformer.audio."
LEFT_OUT = ("proj.", "audio_bos_eos_token.")
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
    """The name in transformers' WhisperEncoder of a Qwen-Audio tensor; None for one that is left
    out.
    """
    rest = name.removeprefix(PREFIX)
    if rest == name or rest.startswith(LEFT_OUT):
        return None
    for pattern, wanted in NAMES:
        rest = re.sub(pattern, wanted, rest)
    return rest


def whisper_tensors(tensors: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """The encoder's tensors under the names of transformers' WhisperEncoder."""
    return {wanted: tensor for name, tensor in tensors.items() if (wanted := whisper_name(name))}


def whisper_shape(audio: Mapping[str, Any]) -> dict[str, int]:
    """``audio`` of a Qwen-Audio ``config.json`` in the words of Whisper's, as far as the encoder
    goes.
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
    """Writes the encoder of ``checkpoint`` to ``folder``; raises InputError, which names the
    catalogue entry ``where``, for a Qwen that does not hear and where the tensors are not those of
    a Whisper.
    """
    from transformers import WhisperConfig, WhisperFeatureExtractor
    from transformers.models.whisper.modeling_whisper import WhisperEncoder

    audio = json.loads((checkpoint / "config.json").read_text()).get("audio")
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
            f"{where}: the audio encoder is not of Whisper's form: {reason}",
            subject=where,
            hint="Take the checkpoint as published.",
        ) from None
    network.save_pretrained(folder)
    WhisperFeatureExtractor(feature_size=config.num_mel_bins).save_pretrained(folder)


def _read(checkpoint: Path) -> dict[str, torch.Tensor]:
    """The tensors of the audio encoder, out of all weight files."""
    found: dict[str, torch.Tensor] = {}
    for path in sorted(checkpoint.glob("*.safetensors")):
        with safe_open(path, framework="pt") as weights:
            found |= {
                name: weights.get_tensor(name)
                for name in weights.keys()  # noqa: SIM118
                if name.startswith(PREFIX)
            }
    return found
