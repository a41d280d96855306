"""A language model in the format GGUF → a folder that transformers loads: weights, configuration,
tokenizer with its chat template.

In: ``model.gguf`` of a LLaMA with a byte-level BPE, whole, in any quantisation that ``gguf`` reads.
Out: the values that the weights stand for, in float16. transformers' own way from a GGUF to a model
leaves out tensors that it does not know, draws missing ones at random, and does not read how
numbers are split into tokens; so names, shapes and tokenizer are converted here. Cost: the weights
in float16 in memory, and one forward pass; 15 s for 135 M parameters.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from components.model.folders.converted import try_forward, write_weights
from components.model.folders.gguf import GgufFile, gguf_error, read_gguf

ARCHITECTURE = "llama"
TOKENS, MERGES = "tokenizer.ggml.tokens", "tokenizer.ggml.merges"
CONTROL, USER_DEFINED = 3, 4  # of tokenizer.ggml.token_type
# Of byte-level BPE, by tokenizer.ggml.pre: whether each digit is a token of its own
# (src/llama-vocab.cpp of llama.cpp).
DIGITS_ALONE = {"smollm": True, "gpt-2": False}
MAX_LAYERS = 1_000
# Tensors by transformers' names.
NAMES = {
    "model.embed_tokens": "token_embd",
    "model.norm": "output_norm",
    "lm_head": "output",
    "input_layernorm": "attn_norm",
    "post_attention_layernorm": "ffn_norm",
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
}
LAYERED = re.compile(r"model\.layers\.(\d+)\.(.+)\.weight")


def convert_gguf(files: Mapping[str, Path], unit: Path, where: str) -> None:
    """Writes the checkpoint of ``model.gguf`` in ``files`` to the folder ``unit``.

    Raises InputError, which names ``where``, for a file that is damaged or cut short, for another
    architecture, an unknown quantisation or tokenizer, tensors that are missing or that the network
    does not have, and weights whose output is not finite.
    """
    file = read_gguf(files["model.gguf"], (TOKENS, MERGES), where)
    try:
        config = _read_config(file)
        tokenizer = _read_tokenizer(file.metadata)
    except Exception as error:  # transformers and tokenizers raise errors of any type
        raise gguf_error(where, f"metadata: {error!r}") from None
    tensors = _read_tensors(file, config, where)
    write_weights(tensors, config, unit)
    del tensors
    tokenizer.save_pretrained(unit)
    try_forward(unit, LlamaForCausalLM, _trial_inputs, where)


def _trial_inputs(config: LlamaConfig) -> dict[str, torch.Tensor]:
    """A few tokens, shape (1, tokens)."""
    return {"input_ids": torch.arange(8)[None] % config.vocab_size}


def _read_config(file: GgufFile) -> LlamaConfig:
    """The configuration; raises KeyError or ValueError where the metadata do not describe a plain
    LLaMA.
    """
    metadata = file.metadata
    if (architecture := metadata["general.architecture"]) != ARCHITECTURE:
        raise ValueError(f"the architecture '{architecture}' is not converted")
    values = {
        key.removeprefix(f"{ARCHITECTURE}."): value
        for key, value in metadata.items()
        if key.startswith(f"{ARCHITECTURE}.")
    }
    if values.get("rope.scaling.type", "none") != "none" or values.get("expert_count"):
        raise ValueError("scaled positions and mixtures of experts are not converted")
    width, num_heads = int(values["embedding_length"]), int(values["attention.head_count"])
    if not 0 < int(values["block_count"]) <= MAX_LAYERS or width < 1 or num_heads < 1:
        raise ValueError("the network has no layers, no width or no heads")
    return LlamaConfig(
        architectures=["LlamaForCausalLM"],
        dtype=torch.float16,
        vocab_size=len(metadata[TOKENS]),
        hidden_size=width,
        intermediate_size=int(values["feed_forward_length"]),
        num_hidden_layers=int(values["block_count"]),
        num_attention_heads=num_heads,
        num_key_value_heads=int(values.get("attention.head_count_kv", num_heads)),
        head_dim=int(values.get("attention.key_length", width // num_heads)),
        max_position_embeddings=int(values["context_length"]),
        rms_norm_eps=_shortest(values["attention.layer_norm_rms_epsilon"]),
        rope_parameters={
            "rope_type": "default",
            "rope_theta": _shortest(values.get("rope.freq_base", 10_000.0)),
        },
        bos_token_id=metadata.get("tokenizer.ggml.bos_token_id"),
        eos_token_id=metadata.get("tokenizer.ggml.eos_token_id"),
        pad_token_id=metadata.get("tokenizer.ggml.padding_token_id"),
        tie_word_embeddings="output.weight" not in file.shapes,
    )


def _shortest(value: float) -> float:
    """A value of the file, which is in fp32, as it was written in a ``config.json``."""
    return float(f"{float(value):.7g}")


def _read_tensors(file: GgufFile, config: LlamaConfig, where: str) -> dict[str, torch.Tensor]:
    """Each tensor of the network of ``config`` by its name, in float16; raises InputError for one
    that is missing, has another shape or values that float16 does not have, and for one that the
    network does not have.
    """
    try:
        with torch.device("meta"):
            network = LlamaForCausalLM(config)
    except Exception as error:  # transformers raises errors of any type for a wrong configuration
        raise gguf_error(where, f"no network has its metadata: {error}") from None
    unused, tensors = set(file.shapes), {}
    for name, expected in network.state_dict().items():
        if name == "lm_head.weight" and config.tie_word_embeddings:
            continue
        source = _source(name)
        if file.shapes.get(source) != tuple(expected.shape):
            shape = file.shapes.get(source, "missing")
            raise gguf_error(where, f"'{source}' is {shape}, not {tuple(expected.shape)}")
        unused.discard(source)
        values = file.tensor(source)
        if source.endswith("attn_q.weight"):
            values = _order_for_halves(values, config.num_attention_heads)
        elif source.endswith("attn_k.weight"):
            values = _order_for_halves(values, config.num_key_value_heads)
        tensors[name] = values.to(torch.float16).contiguous()
        if not torch.isfinite(tensors[name]).all():
            raise gguf_error(where, f"'{source}' has values that float16 does not have")
    if unused:
        raise gguf_error(where, f"the network has no tensor '{min(unused)}'")
    return tensors


def _source(name: str) -> str:
    """The name in GGUF of the tensor ``name`` of transformers."""
    if layered := LAYERED.fullmatch(name):
        return f"blk.{layered[1]}.{NAMES[layered[2]]}.weight"
    return f"{NAMES[name.removesuffix('.weight')]}.weight"


def _order_for_halves(values: torch.Tensor, num_heads: int) -> torch.Tensor:
    """Rows of queries or keys, shape (heads * width, hidden), in transformers' order.

    llama.cpp turns neighbouring rows of a head as a pair; transformers turns a row of the first
    half with one of the second.
    """
    width = values.shape[0] // num_heads
    pairs = values.reshape(num_heads, width // 2, 2, -1)  # (heads, width / 2, 2, hidden)
    return pairs.transpose(1, 2).reshape(values.shape)


def _read_tokenizer(metadata: Mapping[str, Any]) -> PreTrainedTokenizerFast:
    """The tokenizer with its special tokens and its chat template; raises KeyError or ValueError
    for one of another kind than byte-level BPE, or that splits text in an unknown way first.
    """
    kind = (metadata["tokenizer.ggml.model"], metadata.get("tokenizer.ggml.pre", "gpt-2"))
    if kind[0] != "gpt2" or kind[1] not in DIGITS_ALONE:
        raise ValueError(f"the tokenizer '{kind[0]}' with '{kind[1]}' is not converted")
    if metadata.get("tokenizer.ggml.add_bos_token"):
        raise ValueError("a tokenizer that begins each text with a token is not converted")
    tokens, types = metadata[TOKENS], metadata["tokenizer.ggml.token_type"]
    vocabulary = {token: index for index, token in enumerate(tokens)}
    merges = [tuple(merge.split(" ")) for merge in metadata[MERGES]]
    if len(vocabulary) != len(tokens) or any(len(merge) != 2 for merge in merges):
        raise ValueError("tokens come twice, or a merge is no pair")
    tokenizer = Tokenizer(models.BPE(vocabulary, merges))
    splits: list[pre_tokenizers.PreTokenizer] = [pre_tokenizers.ByteLevel(add_prefix_space=False)]
    if DIGITS_ALONE[kind[1]]:
        splits.insert(0, pre_tokenizers.Digits(individual_digits=True))
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(splits)
    tokenizer.decoder = decoders.ByteLevel()
    for token, token_type in zip(tokens, types, strict=True):
        if token_type in (CONTROL, USER_DEFINED):
            is_control = token_type == CONTROL
            tokenizer.add_tokens([AddedToken(token, normalized=False, special=is_control)])
    roles = {"bos": "bos", "eos": "eos", "unk": "unknown", "pad": "padding"}
    special = {
        f"{role}_token": tokens[metadata[f"tokenizer.ggml.{name}_token_id"]]
        for role, name in roles.items()
        if f"tokenizer.ggml.{name}_token_id" in metadata
    }
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        chat_template=metadata.get("tokenizer.chat_template"),
        model_max_length=int(metadata[f"{ARCHITECTURE}.context_length"]),
        clean_up_tokenization_spaces=False,
        **special,
    )
