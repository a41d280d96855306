"""What an exported bridge knows of the bases it does not contain, so that a checkpoint with the
same weights in another rounding can be told from any other.

In: folders of an encoder and an LLM. Out: ``bases.json`` beside the bridge, with samples of the
weights, the settings that a forward pass depends on, and a digest of the LLM's tokenizer; and how
far a checkpoint is from it. A bridge that was trained over 4-bit weights of a package also loads
over those of the hub. Cost: a second for a small LLM, whose tokenizer is loaded.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from components.model.folders.pretrained import read_extractor, read_settings
from components.model.folders.weight_samples import measure_deviation, read_samples
from components.model.llms.causal import load_tokenizer
from components.runtime.hashing import data_digest
from components.runtime.json_files import read_json

BASES_FILE = "bases.json"
# Settings without effect on the frames or the logits of a frozen network: how it was stored, and
# what a search of transformers' own would use. Token ids are part of the tokenizer.
STORED = ("architectures", "dtype", "torch_dtype", "transformers_version", "processor_class")
SEARCHED = ("begin_suppress_tokens", "forced_decoder_ids", "max_length", "suppress_tokens")
TRAINED = ("apply_spec_augment", "classifier_proj_size", "init_std", "initializer_range")
# Words, numbers, marks and other scripts: two tokenizers with one vocabulary that divide all of
# these alike have the same merges.
PROBE = (
    "The quick brown fox jumps over the lazy dog. THEY'RE thirty-two, or 32.5 %; isn't it?\n"
    "Unbelievably, nineteenth-century physicians prescribed mercury (and arsenic)!  "
    "naïve façade Ærøskøbing Строка 東京 def f(x): return x ** 2"
)


def write_bases(folder: Path, bases: Mapping[str, Path]) -> None:
    """Writes ``bases.json`` of the checkpoints of a bridge, by their side (encoder, llm)."""
    record = {side: _describe(side, checkpoint) for side, checkpoint in bases.items()}
    (folder / BASES_FILE).write_text(json.dumps(record, sort_keys=True) + "\n")


def measure_base_deviation(bridge: Path, side: str, checkpoint: Path) -> float:
    """How far the weights of ``checkpoint`` are from those of the base of the bridge in the folder
    ``bridge``, as ``measure_deviation`` says. Infinite where the bridge has no record of it, and
    where settings or tokenizer differ.
    """
    if not (bridge / BASES_FILE).is_file():
        return math.inf
    expected = read_json(bridge / BASES_FILE, dict[str, dict[str, Any]]).get(side)
    if expected is None or "weights" not in expected:
        return math.inf
    weights, own = expected.pop("weights"), _traits(side, checkpoint)
    return measure_deviation(weights, checkpoint) if own == expected else math.inf


def _describe(side: str, checkpoint: Path) -> dict[str, Any]:
    return {**_traits(side, checkpoint), "weights": read_samples(checkpoint)}


def _traits(side: str, checkpoint: Path) -> dict[str, Any]:
    """What two equal bases share exactly, as plain data."""
    settings = read_settings(checkpoint)
    # Published files also have keys that no code of transformers reads.
    fields = type(settings)().to_dict().keys()
    values = {name: value for name, value in settings.to_dict().items() if name in fields}
    traits: dict[str, Any] = {"settings": _plain_settings(values)}
    if side == "encoder":
        traits["extractor"] = _plain_settings(read_extractor(checkpoint).to_dict())
    else:
        traits["tokenizer"] = _digest_tokenizer(load_tokenizer(checkpoint))
    return traits


def _plain_settings(settings: Mapping[str, Any]) -> dict[str, Any]:
    """The settings that a forward pass depends on, as JSON gives them back."""
    plain = {
        name: value
        for name, value in settings.items()
        if not name.startswith("_")
        and not name.endswith(("_token_id", "_token_ids", "dropout", "layerdrop"))
        and not name.startswith(("use_cache", "mask_", "mel_filters", "return_"))
        and name not in (*STORED, *SEARCHED, *TRAINED)
    }
    data: dict[str, Any] = json.loads(json.dumps(plain, default=str))
    return data


def _digest_tokenizer(tokenizer: Any) -> str:
    """Of the ids of all tokens, the end of text, and how the probe is divided."""
    content = {
        "vocabulary": sorted(tokenizer.get_vocab().items()),
        "eos": tokenizer.eos_token_id,
        "probe": list(tokenizer(PROBE, add_special_tokens=False).input_ids),
    }
    return data_digest(content)
