"""Writes a LLaMA as llama.cpp's converter does, with the package ``gguf``."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import torch
from transformers import PreTrainedTokenizerFast

NAMES = {
    "model.embed_tokens": "token_embd",
    "model.norm": "output_norm",
    "lm_head": "output",
    "input_layernorm": "attn_norm",
    "post_attention_layernorm": "ffn_norm",
    **{f"self_attn.{part}_proj": f"attn_{part}" for part in "qkv"},
    "self_attn.o_proj": "attn_output",
    **{f"mlp.{part}_proj": f"ffn_{part}" for part in ("gate", "up", "down")},
}
Quantisation = gguf.GGMLQuantizationType


def write_gguf(
    path: Path,
    tensors: Mapping[str, torch.Tensor],
    config: Any,
    tokenizer: PreTrainedTokenizerFast,
    quantisation: Quantisation = Quantisation.F32,
    architecture: str = "llama",
    pre_tokenizer: str = "smollm",
    added: Mapping[str, np.ndarray] | None = None,
) -> dict[str, torch.Tensor]:
    """Writes tensors of transformers, matrices in ``quantisation``, and ``added`` ones as they are;
    returns the values that they stand for, by transformers' names.
    """
    writer = gguf.GGUFWriter(path, architecture)
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_block_count(config.num_hidden_layers)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_rope_freq_base(config.rope_parameters["rope_theta"])
    _add_tokenizer(writer, tokenizer, pre_tokenizer)
    meant = {}
    for name, tensor in tensors.items():
        values, target = tensor.numpy().astype(np.float32), _name(name)
        for kind, heads in (
            ("attn_q", config.num_attention_heads),
            ("attn_k", config.num_key_value_heads),
        ):
            if kind in target:  # row i of the first half beside row i of the second
                halves = values.reshape(heads, 2, len(values) // heads // 2, -1)
                values = halves.swapaxes(1, 2).reshape(values.shape)
        kind = quantisation if values.ndim == 2 else Quantisation.F32
        data = gguf.quantize(values, kind)
        writer.add_tensor(target, data, raw_dtype=kind)
        # Quantisation goes along rows, so it does not matter in which order they are.
        row_order = gguf.dequantize(gguf.quantize(tensor.numpy().astype(np.float32), kind), kind)
        meant[name] = torch.from_numpy(np.array(row_order))
    for name, values in (added or {}).items():
        writer.add_tensor(name, values)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return meant


def _name(name: str) -> str:
    *path, kind = name.split(".")
    if path[:2] == ["model", "layers"]:
        return f"blk.{path[2]}.{NAMES['.'.join(path[3:])]}.{kind}"
    return f"{NAMES['.'.join(path)]}.{kind}"


def _add_tokenizer(writer: gguf.GGUFWriter, tokenizer: PreTrainedTokenizerFast, pre: str) -> None:
    import json

    model = json.loads(tokenizer.backend_tokenizer.to_str())["model"]
    special = set(tokenizer.added_tokens_encoder)
    tokens = tokenizer.convert_ids_to_tokens(range(len(tokenizer)))
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre(pre)
    writer.add_token_list(tokens)
    writer.add_token_types([3 if token in special else 1 for token in tokens])
    writer.add_token_merges([" ".join(merge) for merge in model["merges"]])
    writer.add_bos_token_id(tokenizer.bos_token_id)
    writer.add_eos_token_id(tokenizer.eos_token_id)
    writer.add_pad_token_id(tokenizer.pad_token_id)
    writer.add_add_bos_token(False)
    writer.add_chat_template("{{ messages[0]['content'] }}")
