"""Encoders, LLMs and joined models in the shapes of the catalogue, with random weights drawn on the
device.

In: names of the catalogue. Out: what the stages load from folders. Weights are drawn as their
architecture initialises them (a standard deviation of 0.02), small enough for half precision. Cost:
an encoder is written to a temporary folder (HuBERT X-Large: 4 GB), since the stages load it from
one; an LLM stays on the device.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from transformers import Wav2Vec2FeatureExtractor, WhisperFeatureExtractor

from components.config import catalogue
from components.config.model_sources import shape_of
from components.llm.copying import build_tokenizer
from components.model.encoders.encoder import SpeechEncoder
from components.model.folders.architecture import build_network
from components.model.folders.pretrained import DTYPES
from components.model.model_folder import ModelConfig
from components.model.speech_llm import SpeechLLM

TEXT = "the quick brown fox jumps over the lazy dog and runs along the river until the night falls"
UNITS = 300  # of the tokenizer; the LLM's own vocabulary has its size
_LAYERS = {
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 64,
}
_WAVEFORM = {
    **_LAYERS,
    "conv_dim": (16,) * 7,
    "num_conv_pos_embeddings": 16,
    "num_conv_pos_embedding_groups": 2,
}
# More variance than the default: the order of the hypotheses then does not depend on rounding.
_CAUSAL = {**_LAYERS, "num_key_value_heads": 2, "vocab_size": 320, "initializer_range": 0.4}
# By model_type: values that make a shape small enough for a test on a processor.
TINY: dict[str, dict[str, Any]] = {
    "hubert": _WAVEFORM,
    "wavlm": _WAVEFORM,
    "whisper": {
        "d_model": 32,
        "encoder_layers": 2,
        "encoder_attention_heads": 2,
        "encoder_ffn_dim": 64,
        "decoder_layers": 1,
        "decoder_attention_heads": 2,
        "decoder_ffn_dim": 64,
    },
    "llama": _CAUSAL,
    "phi": _CAUSAL,
}


def draw_network(
    shape: dict[str, Any], dtype: torch.dtype, device: str, causal: bool, tiny: bool, seed: int
) -> Any:
    """A network of the shape, frozen, its weights drawn from ``seed`` in ``dtype``; those of tiny
    networks are the same for every device.
    """
    torch.manual_seed(seed)
    template = build_network({**shape, **(TINY[shape["model_type"]] if tiny else {})}, causal)
    default_dtype = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        with torch.device("cpu" if tiny else device):
            network = type(template)(template.config)
    finally:
        torch.set_default_dtype(default_dtype)
    return network.eval().requires_grad_(False).to(device)


@contextmanager
def build_encoder(
    name: str, device: str, tiny: bool, seed: int = 1, arithmetic: str = "float32"
) -> Iterator[SpeechEncoder]:
    """The encoder of a catalogue entry, in the entry's dtype, as the stages load it."""
    entry = catalogue.encoder(name)
    network = draw_network(
        shape_of(entry.source), DTYPES[entry.numerics.dtype], device, False, tiny, seed
    )
    with TemporaryDirectory() as scratch:
        if network.config.model_type == "whisper":
            network = network.get_encoder()  # the decoder is not needed
            WhisperFeatureExtractor(feature_size=network.config.num_mel_bins).save_pretrained(
                scratch
            )
        else:
            Wav2Vec2FeatureExtractor(do_normalize=True, return_attention_mask=True).save_pretrained(
                scratch
            )
        network.save_pretrained(scratch)
        del network
        yield SpeechEncoder(
            Path(scratch), device, entry.numerics.dtype, "last", entry.numerics.padding, arithmetic
        )


def build_speech_llm(
    name: str, projector: str, width: int, device: str, tiny: bool, dtype: str = "", seed: int = 1
) -> SpeechLLM:
    """The LLM of a catalogue entry, in the entry's dtype or ``dtype``, behind a projector for
    frames ``width`` wide.
    """
    entry = catalogue.llm(name)
    dtype = dtype or entry.numerics.dtype
    llm = draw_network(shape_of(entry.source), DTYPES[dtype], device, True, tiny, seed)
    torch.manual_seed(seed)  # of the bridge, which is drawn on the processor
    shape = ModelConfig("", width, "", dtype, catalogue.projector(projector), entry.prompt, "lower")
    return (
        SpeechLLM(shape, llm, build_tokenizer([TEXT, entry.prompt.template], UNITS))
        .to(device)
        .eval()
    )
