"""The first values of a CTC head over tokens, from the decoder of the same Whisper checkpoint.

A decoder adds to its state what its last cross-attention reads of the frames, and the product of
the state with the token embeddings tells the next token. Of one frame alone this attention reads
``out_proj(v_proj(frame))``, whose product with the embeddings is near to the tokens that are heard
there: a head that begins with these matrices already spells many words, and its training teaches it
where a word is written once. After the "logit lens" (nostalgebraist 2020), which reads the states
between the layers of a language model by its output matrix.

In: the head, the folder of the checkpoint, the units. Out: the head's values; the decoder itself is
never run. Cost: a second.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, cast

import torch
from transformers import AutoTokenizer

from components.config.errors import InputError
from components.model.encoders.trained_head import ConvolutionBlock, FrameClassifier
from components.model.folders.description import has_own_decoder, read_config
from components.model.folders.tensor_digests import read_tensor, tensor_files

# What the attention reads where no word is: the blank begins as their mean.
PAUSES = (",", "-", ".")
FIRST_UNIT = 2  # after the blank and the unknown unit


@torch.no_grad()
def start_from_decoder(
    head: FrameClassifier, encoder: Path, layer: int | str, units: Sequence[str]
) -> None:
    """Gives ``head`` its first values; ``layer`` is that of its frames, ``units`` are the texts of
    its units from the third on, with a space before those that begin a word.

    Raises InputError where the folder is no complete Whisper, where the frames are not those that
    its decoder reads, and where the head is not as wide as they are.
    """
    width = len(head.norm.weight)
    if layer != "last":
        raise _refuse(f"the decoder reads the last layer, and the frames are of layer {layer}")
    if not has_own_decoder(encoder) or head.hidden is None or head.blocks is None:
        raise _refuse(f"{encoder} is no Whisper with its decoder, or the head has no blocks")
    if head.hidden.out_features != width:
        raise _refuse(f"the head is {head.hidden.out_features} wide, and its frames {width}")
    read = _TensorReader(encoder)
    attention = f"model.decoder.layers.{read_config(encoder)['decoder_layers'] - 1}.encoder_attn"
    out, value = (read(f"{attention}.{name}.weight") for name in ("out_proj", "v_proj"))
    head.hidden.weight.copy_((out @ value).repeat(1, head.stride) / head.stride)
    out_bias, value_bias = (read(f"{attention}.{name}.bias") for name in ("out_proj", "v_proj"))
    head.hidden.bias.copy_(out @ value_bias + out_bias)
    _undo_norm(head.norm, read)
    head.last_norm.weight.copy_(read("model.decoder.layer_norm.weight"))
    head.last_norm.bias.copy_(read("model.decoder.layer_norm.bias"))
    embeddings = read("model.decoder.embed_tokens.weight")  # (vocabulary, width)
    head.output.weight.copy_(_choose_rows(embeddings, encoder, units))
    head.output.bias.zero_()
    for block in head.blocks:  # the identity
        for parameter in cast("ConvolutionBlock", block).list_output_parameters():
            parameter.zero_()


class _TensorReader:
    """Tensors of a checkpoint by their names, in fp32."""

    def __init__(self, folder: Path) -> None:
        self._files = tensor_files(folder)

    def __call__(self, name: str) -> torch.Tensor:
        if name not in self._files:
            raise _refuse(f"its encoder has no tensor {name}")
        return read_tensor(self._files[name], name).float()


def _undo_norm(norm: Any, read: _TensorReader) -> None:
    """The layer norm of the head gives frames back as they are, up to how much a frame's mean and
    variance differ from those of all: frames leave the encoder with its own layer norm.
    """
    weight, bias = read("model.encoder.layer_norm.weight"), read("model.encoder.layer_norm.bias")
    mean = bias.mean()
    norm.weight.fill_(float((weight.square() + bias.square()).mean().sub(mean.square()).sqrt()))
    norm.bias.fill_(float(mean))


def _choose_rows(embeddings: torch.Tensor, encoder: Path, units: Sequence[str]) -> torch.Tensor:
    """The embedding of each unit, (units + 2, width): of the Whisper token with its text, or the
    mean of those that spell it.
    """
    tokenizer = AutoTokenizer.from_pretrained(
        encoder, local_files_only=True, trust_remote_code=False
    )

    def mean_of(texts: Sequence[str]) -> torch.Tensor:
        ids = [index for text in texts for index in _spell(tokenizer, text)]
        return embeddings[ids].mean(0) if ids else embeddings.mean(0)

    return torch.stack([mean_of(PAUSES), embeddings.mean(0), *(mean_of([unit]) for unit in units)])


def _spell(tokenizer: Any, text: str) -> list[int]:
    return list(tokenizer(text, add_special_tokens=False).input_ids)


def _refuse(reason: str) -> InputError:
    return InputError(
        f"ctc: the head cannot start from the decoder of its encoder: {reason}.",
        subject="projector",
        hint="Set 'start' of the projector's entry to random, or 'hidden' to the encoder's width.",
    )
