"""A cell of a recipe at tiny size: the same code on tiny checkpoints of the same families, in
seconds.

As in the cell: prompts, LoRA targets, dtypes, the kinds of its bridge, the tuned parts of small
stage, every loss, every way to change or to batch its data. Small: widths, ranks, steps, seconds.
Two cells that differ only in those are one miniature.
"""

from __future__ import annotations

import copy
import json
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import yaml

from components.config import catalogue
from components.config.model_sources import EncoderSource, LlmSource, shape_of
from components.config.params import read_overridden_params
from components.config.schema import non_default_fields
from components.model.bridges.registry import build_projector
from components.plan.recipe import RecipeCell
from components.runtime.artifact import write_record
from tests import world
from tests.checkpoints import save_encoder, save_llm, save_tokenizer

STEPS = 2  # of small stage of a curriculum
TOKENS = 4  # most in a hypothesis
WIDTH = 32  # of every network
WHISPER_TOKENS = 400  # of a Whisper with its tokenizer
# Parameters that have the same value in all miniatures, in whatever section.
SMALL = {
    "batch_seconds": 5,
    "micro_batches": 2,
    "threads": 1,
    "window_shards": 2,
    "max_seconds": 20,
    "steps": STEPS,
    "warmup": 1,
    "learning_rate": 0.001,
    "rank": 2,
    "alpha": 4,
    "every": STEPS,
    "utterances": 2,
    "max_tokens": TOKENS,
    "name": "stage",
    "seconds": 3,
    "seed": 1,
    "full": {"encoder": 0.0001, "llm": 0.0001},
}
NARROW = {"hidden": 24, "width": WIDTH, "heads": 2, "layers": 2, "stack": 3, "units": 12}
# Utterances of small shard, by role and source.
LAYOUT = {
    "train": {"tones": [4, 3]},
    "dev": {"tones-dev": [2]},
    "test": {"tones-test": [2]},
    "nonspeech-train": {"hiss": [2]},
    "nonspeech-test": {"hiss-test": [1]},
    "noise": {"hum": [2], "rooms": [2]},
}
SENTENCEPIECE = ("vicuna", "llama-2", "llama-7b", "tinyllama")
TOKENIZERS = {
    "tinyllama-chat": "chat-words",
    "phi-2": "phi",
    "qwen": "qwen",
    "smollm2": "smollm2",
    "llama-3": "llama-3",
}


@dataclass(frozen=True)
class Miniature:
    """Families, parameters and catalogue of a cell, without names."""

    encoder: str
    llm: str
    tokenizer: str
    params: dict[str, Any]
    entries: dict[str, dict[str, Any]]

    @property
    def key(self) -> str:
        """Equal for cells of one shape."""
        return json.dumps(
            [self.encoder, self.llm, self.tokenizer, self.params, self.entries], sort_keys=True
        )


def miniature(cell: RecipeCell) -> Miniature:
    """The cell at tiny size; ``params.yaml`` and ``catalogue/`` are those of the current folder."""
    params = read_overridden_params(cell.overrides, cell.name)
    encoder, llm = catalogue.encoder(params.encoder), catalogue.llm(params.llm)
    raw = copy.deepcopy(params.raw)
    for stage in raw["train"]["curriculum"]:  # some have epochs
        stage |= {"steps": STEPS, "epochs": None}
        stage.setdefault("decay_steps", None)
    # No loss, or a term without a weight, is another shape; another weight is not.
    for name, weight in raw["train"]["matching"].items():
        raw["train"]["matching"][name] = float(weight > 0)
    raw = _small(raw) | {
        "corpus": "tones",
        "encoder": "tiny",
        "projector": "small",
        "llm": "tiny",
    }
    if raw["features"]["layer"] != "last":
        raw["features"]["layer"] = 1  # the tiny encoders have few
    sources = {
        role: {name: {"kind": "clips", "rooms": name == "rooms"} for name in counts}
        for role, counts in LAYOUT.items()
    }
    parts = ("prompt", "lora", "numerics")
    entries = {
        "corpus": sources,
        "encoder": {
            "source": {"kind": "folder", "folder": "encoder"},
            "numerics": non_default_fields(encoder.numerics),
            "lora": non_default_fields(encoder.lora),
        },
        "projector": _narrow(non_default_fields(catalogue.projector(params.projector))),
        "llm": {
            "source": {"kind": "folder", "folder": "llm"},
            **{part: non_default_fields(getattr(llm, part)) for part in parts},
        },
    }
    return Miniature(
        encoder_family(encoder.source),
        llm_family(llm.source),
        _tokenizer(params.llm, llm.source),
        raw,
        entries,
    )


def _narrow(entry: dict[str, Any]) -> dict[str, Any]:
    """The entry of a bridge at tiny size."""
    released = (
        {"weights": {**entry["weights"], "file": "released.pt"}} if "weights" in entry else {}
    )
    narrow = {key: NARROW.get(key, value) for key, value in entry.items() if key != "card"}
    return narrow | released | ({"hidden": WIDTH} if starts_from_decoder(entry) else {})


def starts_from_decoder(entry: dict[str, Any]) -> bool:
    """Whether the head of a bridge begins with matrices of the encoder's own decoder, which is then
    as wide, and a system beside the LLM.
    """
    return entry.get("start") == "decoder"


def encoder_family(source: EncoderSource) -> str:
    """The family of ``tests.checkpoints`` that an encoder is of."""
    if source.kind in ("ctc", "fbank", "joined"):
        return {"ctc": "parakeet", "fbank": "fbank", "joined": "whisper-ast"}[source.kind]
    shape = shape_of(source)
    kind = shape["model_type"]
    if kind == "parakeet_ctc":
        return "parakeet-published"
    return "whisper" if kind in ("whisper", "qwen") else f"{kind}-{shape['feat_extract_norm']}-norm"


def llm_family(source: LlmSource) -> str:
    """The family of ``tests.checkpoints`` that an LLM is of."""
    return str(getattr(source, "model_type", "") or shape_of(source)["model_type"])


def _tokenizer(name: str, source: LlmSource) -> str:
    if source.kind == "copying":
        return "plain"
    forms = [form for prefix, form in TOKENIZERS.items() if name.startswith(prefix)]
    return (forms or ["sentencepiece" if name.startswith(SENTENCEPIECE) else "plain"])[0]


def _small(data: Any) -> Any:
    """Parameters with the values of SMALL in place of those that it names."""
    if isinstance(data, dict):
        return {key: SMALL[key] if key in SMALL else _small(value) for key, value in data.items()}
    return [_small(item) for item in data] if isinstance(data, list) else data


def write_shards() -> None:
    """``data/shards`` of all roles in the current folder, with a source of rooms."""
    for role, counts in LAYOUT.items():
        world.write_shards(role, counts)
    write_record(Path("data/shards/noise"), "shards", parameters=None, inputs={}, rooms=["rooms"])


def write_workspace(small: Miniature, shards: Path, folder: Path) -> None:
    """Fills ``folder`` with a workspace in which the stages from ``features`` on can run;
    ``LIBRETTO_MODELS`` is ``folder/models``.
    """
    shutil.copytree(shards, folder / "data/shards")
    if starts_from_decoder(small.entries["projector"]):
        save_encoder(folder / world.ENCODER, small.encoder, vocab_size=WHISPER_TOKENS)
        save_tokenizer(folder / world.ENCODER)
        write_record(folder / world.ENCODER, "encoder", parameters=None, inputs={})
    else:
        save_encoder(folder / world.ENCODER, small.encoder)
    save_llm(folder / world.LLM, small.llm, form=small.tokenizer)
    (folder / "params.yaml").write_text(yaml.safe_dump(small.params, sort_keys=False))
    (folder / "catalogue").mkdir()
    names = {kind: small.params[kind] for kind in small.entries}
    for kind, entry in small.entries.items():
        (folder / f"catalogue/{kind}.yaml").write_text(
            yaml.safe_dump({names[kind]: entry}, sort_keys=False)
        )
    if "weights" in small.entries["projector"]:
        _release(folder / "models" / small.entries["projector"]["weights"]["file"], small)


def _release(path: Path, small: Miniature) -> None:
    """Writes a projector as others release theirs, of random weights."""
    from components.config.projector import parse_projector

    bridge = build_projector(parse_projector(small.entries["projector"], "released"), WIDTH, WIDTH)
    path.parent.mkdir(parents=True, exist_ok=True)
    torch.save(
        {f"encoder_projector.{name}": tensor for name, tensor in bridge.state_dict().items()}, path
    )
