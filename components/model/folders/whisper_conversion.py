"""A Whisper in CTranslate2's format → a folder that transformers loads: weights, configuration,
feature extractor, tokenizer.

In: ``model.bin``, its ``config.json`` (tokens that are never generated) and ``tokenizer.json``.
Values are not changed: float16 stays float16. Cost: the weights in memory, and one forward pass.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from transformers import (
    GenerationConfig,
    WhisperConfig,
    WhisperFeatureExtractor,
    WhisperForConditionalGeneration,
)
from transformers.models.whisper.tokenization_whisper import LANGUAGES

from components.model.folders.converted import try_forward, write_json, write_weights
from components.model.folders.ctranslate2 import read_model
from components.model.folders.whisper_tensors import read_shape, read_tensors, whisper_error

END, START = "<|endoftext|>", "<|startoftranscript|>"
NO_TIMESTAMPS, PREVIOUS = "<|notimestamps|>", "<|startofprev|>"
TASKS = ("transcribe", "translate")
# The vocabulary of English alone has 51,864 entries; a multilingual one has at least one more.
# OpenAI's whisper/model.py (is_multilingual) tells them apart by it.
ENGLISH_VOCABULARY = 51_864
MAX_FILE_BYTES = 64 << 20  # of the JSON files


def convert_whisper(files: Mapping[str, Path], unit: Path, where: str) -> None:
    """Writes the checkpoint of ``model.bin``, ``config.json`` and ``tokenizer.json`` in ``files``
    to the folder ``unit``.

    Raises InputError, which names ``where``, for files that are damaged or cut short, for another
    architecture, quantised weights, tensors that are missing or that Whisper does not have, and
    weights whose output is not finite.
    """
    model = read_model(files["model.bin"], where)
    config = read_shape(model, where)
    tensors = read_tensors(model, config, where)
    settings = _read_json(files["config.json"], where)
    token_ids = _read_token_ids(files["tokenizer.json"], config, where)
    config.dtype = tensors["model.decoder.embed_tokens.weight"].dtype
    config.pad_token_id = config.eos_token_id = config.bos_token_id = token_ids[END]
    config.decoder_start_token_id = token_ids[START]
    write_weights(tensors, config, unit)
    _generation(config, settings, token_ids).save_pretrained(unit)
    WhisperFeatureExtractor(feature_size=config.num_mel_bins).save_pretrained(unit)
    shutil.copyfile(files["tokenizer.json"], unit / "tokenizer.json")
    write_json(
        unit / "tokenizer_config.json",
        {
            "tokenizer_class": "WhisperTokenizer",
            "model_max_length": config.max_target_positions,
            **dict.fromkeys(("bos_token", "eos_token", "unk_token", "pad_token"), END),
        },
    )
    try_forward(unit, WhisperForConditionalGeneration, _trial_inputs, where)


def _trial_inputs(config: WhisperConfig) -> dict[str, torch.Tensor]:
    """Noise of a window as log-mel, shape (1, mel bins, mel frames), and the first token of a
    text, shape (1, 1).
    """
    num_frames = 2 * config.max_source_positions
    noise = torch.randn(
        1, config.num_mel_bins, num_frames, generator=torch.Generator().manual_seed(1)
    )
    return {
        "input_features": noise,
        "decoder_input_ids": torch.tensor([[config.decoder_start_token_id]]),
    }


def _read_json(path: Path, where: str) -> dict[str, Any]:
    try:
        if path.stat().st_size > MAX_FILE_BYTES:
            raise ValueError("it is too large")
        values = json.loads(path.read_text(encoding="utf-8"))
        if not isinstance(values, dict):
            raise ValueError("it is no mapping")
    except (ValueError, RecursionError) as error:
        raise whisper_error(where, f"{path.name} is not as expected: {error}") from None
    return values


def _read_token_ids(path: Path, config: WhisperConfig, where: str) -> dict[str, int]:
    """The ids of the special tokens by their text."""
    tokenizer = _read_json(path, where)
    try:
        token_ids = {str(token["content"]): int(token["id"]) for token in tokenizer["added_tokens"]}
    except (KeyError, TypeError, ValueError):
        raise whisper_error(where, f"{path.name} has no special tokens") from None
    tasks = [f"<|{task}|>" for task in TASKS] if _is_multilingual(config) else []
    for token in (END, START, NO_TIMESTAMPS, *tasks):
        if not 0 <= token_ids.get(token, -1) < config.vocab_size:
            raise whisper_error(where, f"{path.name} has no token {token} of its vocabulary")
    return token_ids


def _is_multilingual(config: WhisperConfig) -> bool:
    return int(config.vocab_size) > ENGLISH_VOCABULARY


def _generation(
    config: WhisperConfig, settings: Mapping[str, Any], token_ids: Mapping[str, int]
) -> GenerationConfig:
    """What transformers' ``generate`` reads: the tokens of language and task, and those that are
    never generated.
    """
    multilingual = {}
    if _is_multilingual(config):
        languages = {f"<|{code}|>" for code in LANGUAGES}
        multilingual = {
            "lang_to_id": {token: token_ids[token] for token in languages & token_ids.keys()},
            "task_to_id": {task: token_ids[f"<|{task}|>"] for task in TASKS},
        }
    return GenerationConfig(
        bos_token_id=config.bos_token_id,
        eos_token_id=config.eos_token_id,
        pad_token_id=config.pad_token_id,
        decoder_start_token_id=config.decoder_start_token_id,
        max_length=config.max_target_positions,
        suppress_tokens=settings.get("suppress_ids"),
        begin_suppress_tokens=settings.get("suppress_ids_begin"),
        alignment_heads=settings.get("alignment_heads"),
        no_timestamps_token_id=token_ids[NO_TIMESTAMPS],
        prev_sot_token_id=token_ids.get(PREVIOUS),
        is_multilingual=_is_multilingual(config),
        **multilingual,
    )
