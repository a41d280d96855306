"""A CTC head that begins with matrices of the decoder of its encoder: by the formula, and what is
refused.
"""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch.nn import functional
from transformers import WhisperForConditionalGeneration

from components.ctc.decoder_start import PAUSES, start_from_decoder
from components.model.encoders.trained_head import FrameClassifier
from tests.checkpoints import save_encoder, save_tokenizer
from tests.errors import refused

UNITS = [" amber", " b", "cedar", "e"]
WIDTH = 32


@pytest.fixture
def whisper(tmp_path: Path) -> Path:
    folder = save_encoder(tmp_path / "whisper", "whisper", vocab_size=400, decoder_layers=2)
    save_tokenizer(folder)
    return folder


def head(hidden: int = WIDTH, blocks: int = 2) -> FrameClassifier:
    torch.manual_seed(1)
    return FrameClassifier(WIDTH, hidden, len(UNITS) + 2, blocks, 2).eval()


@torch.no_grad()
def test_a_head_begins_with_what_the_last_attention_of_the_decoder_reads(whisper: Path) -> None:
    network = WhisperForConditionalGeneration.from_pretrained(whisper)
    tokenizer = save_tokenizer(whisper)
    # As a layer norm of weight 1 and bias 0 leaves them.
    frames = functional.layer_norm(torch.randn(1, 6, WIDTH), (WIDTH,))
    attention = network.model.decoder.layers[-1].encoder_attn
    read = attention.out_proj(attention.v_proj(frames))  # (1, 6, width)
    states = network.model.decoder.layer_norm((read[:, ::2] + read[:, 1::2]) / 2)
    embeddings = network.model.decoder.embed_tokens.weight

    def mean_of(*texts: str) -> torch.Tensor:
        ids = [
            index for text in texts for index in tokenizer(text, add_special_tokens=False).input_ids
        ]
        return embeddings[ids].mean(0)

    rows = torch.stack(
        [mean_of(*PAUSES), embeddings.mean(0), *(mean_of(unit) for unit in UNITS)]
    )  # (units, width)
    made = head()
    start_from_decoder(made, whisper, "last", UNITS)
    torch.testing.assert_close(made(frames), states @ rows.T, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize(
    ("made", "layer", "reason"),
    [
        (head(), 1, "layer"),
        (head(hidden=16), "last", "16"),
        (head(blocks=0), "last", "blocks"),
    ],
)
def test_frames_that_the_decoder_does_not_read_are_refused(
    whisper: Path, made: FrameClassifier, layer: int | str, reason: str
) -> None:
    with refused("projector", reason):
        start_from_decoder(made, whisper, layer, UNITS)


def test_an_encoder_without_a_decoder_is_refused(tmp_path: Path) -> None:
    folder = save_encoder(tmp_path / "encoder", "parakeet")
    with refused("projector", "Whisper"):
        start_from_decoder(head(), folder, "last", UNITS)
