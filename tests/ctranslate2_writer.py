"""Writes a Whisper in CTranslate2's binary format, by the published description of it and not by
the code that reads it.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

import numpy as np
import torch

TYPES = {"float32": 0, "int8": 1, "int16": 2, "int32": 3, "float16": 4}
Variables = dict[str, np.ndarray]


@dataclass
class ModelFile:
    """The parts of a ``model.bin``."""

    variables: Variables
    aliases: dict[str, str] = field(default_factory=dict)
    version: int = 6
    specification: str = "WhisperSpec"
    revision: int = 3

    def to_bytes(self) -> bytes:
        """The file."""
        head = struct.pack("<I", self.version) + _text(self.specification)
        head += struct.pack("<II", self.revision, len(self.variables))
        parts = [head]
        for name, values in sorted(self.variables.items()):
            sizes = struct.pack(f"<B{values.ndim}I", values.ndim, *values.shape)
            data = values.tobytes()
            kind = struct.pack("<BI", TYPES[str(values.dtype)], len(data))
            parts += [_text(name), sizes, kind, data]
        parts.append(struct.pack("<I", len(self.aliases)))
        parts += [_text(alias) + _text(name) for alias, name in self.aliases.items()]
        return b"".join(parts)


def _text(text: str) -> bytes:
    data = text.encode() + b"\0"
    return struct.pack("<H", len(data)) + data


def whisper_file(tensors: Mapping[str, torch.Tensor], num_heads: int) -> ModelFile:
    """A Whisper of transformers, by its tensors, as CTranslate2's converter stores it."""

    def values(names: Iterable[str]) -> np.ndarray:
        found = [tensors[name].numpy() for name in names]
        return np.concatenate(found).astype(np.float16)

    def linear(target: str, *sources: str) -> None:
        variables[f"{target}/weight"] = values(f"{source}.weight" for source in sources)
        biases = []
        for source in sources:
            bias = tensors.get(f"{source}.bias")
            width = len(tensors[f"{source}.weight"])
            biases.append(np.zeros(width) if bias is None else bias.numpy())
        variables[f"{target}/bias"] = np.concatenate(biases).astype(np.float16)

    def norm(target: str, source: str) -> None:
        variables[f"{target}/gamma"] = values([f"{source}.weight"])
        variables[f"{target}/beta"] = values([f"{source}.bias"])

    variables: Variables = {}
    for side in ("encoder", "decoder"):
        variables[f"{side}/num_heads"] = np.array(num_heads, np.int16)
        positions = values([f"model.{side}.embed_positions.weight"])
        variables[f"{side}/position_encodings/encodings"] = positions
        norm(f"{side}/layer_norm", f"model.{side}.layer_norm")
        layers = {name.split(".")[3] for name in tensors if name.startswith(f"model.{side}.layers")}
        for layer in layers:
            target, source = f"{side}/layer_{layer}", f"model.{side}.layers.{layer}"
            own = f"{source}.self_attn"
            joined = (f"{own}.q_proj", f"{own}.k_proj", f"{own}.v_proj")
            linear(f"{target}/self_attention/linear_0", *joined)
            linear(f"{target}/self_attention/linear_1", f"{own}.out_proj")
            norm(f"{target}/self_attention/layer_norm", f"{source}.self_attn_layer_norm")
            linear(f"{target}/ffn/linear_0", f"{source}.fc1")
            linear(f"{target}/ffn/linear_1", f"{source}.fc2")
            norm(f"{target}/ffn/layer_norm", f"{source}.final_layer_norm")
            if side == "decoder":
                cross = f"{source}.encoder_attn"
                linear(f"{target}/attention/linear_0", f"{cross}.q_proj")
                linear(f"{target}/attention/linear_1", f"{cross}.k_proj", f"{cross}.v_proj")
                linear(f"{target}/attention/linear_2", f"{cross}.out_proj")
                norm(f"{target}/attention/layer_norm", f"{source}.encoder_attn_layer_norm")
    for convolution in ("conv1", "conv2"):
        linear(f"encoder/{convolution}", f"model.encoder.{convolution}")
    variables["decoder/embeddings/weight"] = values(["model.decoder.embed_tokens.weight"])
    for name, setting, kind in (
        ("activation", 3, np.int8),
        ("alibi", 0, np.int8),
        ("alignment_heads", 1, np.int16),
        ("alignment_layer", -1, np.int16),
        ("pre_norm", 1, np.int8),
        ("scale_embeddings", 0, np.int8),
        ("start_from_zero_embedding", 0, np.int8),
    ):
        variables[f"decoder/{name}"] = np.array(setting, kind)
    return ModelFile(variables, {"decoder/projection/weight": "decoder/embeddings/weight"})
