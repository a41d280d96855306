"""A complete workspace in seconds: tones for words, tiny checkpoints, parameters and catalogue,
computed features.

Stages run in it by their work function, as ``python -m components.<stage>`` runs them.
"""

from __future__ import annotations

import importlib
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml

from components.audio.sound import RATE, encode_flac
from components.config import catalogue
from components.config.params import read_params
from components.decode.decoder import HEAD, WORKSPACE
from components.features.frames import FrameSource
from components.model.folders.description import has_ctc_for_layer
from components.model.folders.linked_checkpoint import open_checkpoint
from components.model.model_folder import ModelConfig, folder_digest
from components.model.speech_llm import SpeechLLM
from components.runtime.artifact import empty_folder, recorded_digests, write_record
from components.runtime.stage import Stage
from components.search.constraints import GREEDY
from components.shards.index import INDEX, write_index
from components.shards.writer import TarMember, write_tar
from tests.checkpoints import ENCODER_LORA, LORA, WORDS, save_encoder, save_llm

REPOSITORY = Path(__file__).resolve().parents[1]
# Utterances of each shard, by role and source.
LAYOUT: dict[str, dict[str, list[int]]] = {
    "train": {"tones": [5, 4, 3]},
    "dev": {"tones-dev": [3]},
    "test": {"tones-test": [3, 2], "more-test": [2]},
    "nonspeech-train": {"hiss": [4]},
    "nonspeech-test": {"hiss-test": [2]},
}
ENCODER, LLM = Path("models/encoder"), Path("models/llm")


def tone(text: str, seed: int) -> np.ndarray:
    """A tone of 0.3 s for each word, its pitch by the word, in a little noise; mono float32 at 16
    kHz.
    """
    random = np.random.default_rng(seed)
    time = np.arange(int(0.3 * RATE)) / RATE
    parts = [
        0.3 * np.sin(2 * np.pi * (200 + 150 * WORDS.index(word)) * time) for word in text.split()
    ]
    edge = np.zeros(int(random.integers(400, 2400)))
    samples = np.concatenate([*parts, edge])
    return (samples + 0.01 * random.standard_normal(len(samples))).astype(np.float32)


def hiss(seed: int) -> np.ndarray:
    """Noise of 0.3 to 1 s; mono float32 at 16 kHz."""
    random = np.random.default_rng(seed)
    return (0.1 * random.standard_normal(int(random.integers(4_800, 16_000)))).astype(np.float32)


def utterances(role: str, source: str, count: int, first: int) -> list[TarMember]:
    """Synthetic utterances, the same each time; speech has one to five words."""
    members = []
    for number in range(first, first + count):
        random = np.random.default_rng([number, *role.encode(), *source.encode()])
        seed = int(random.integers(2**31))
        text = (
            ""
            if role.startswith("nonspeech")
            else " ".join(random.choice(WORDS, int(random.integers(1, 6))))
        )
        samples = tone(text, seed) if text else hiss(seed)
        members.append(
            TarMember(
                f"{source}-{number:03d}",
                encode_flac(samples),
                len(samples),
                0,
                text,
                f"speaker-{number % 2}",
                "en",
            )
        )
    return members


def write_shards(role: str, layout: dict[str, list[int]]) -> None:
    """``data/shards/<role>`` as the stage ``shards`` leaves it."""
    out = empty_folder(Path("data/shards") / role)
    for source, counts in layout.items():
        (out / source).mkdir()
        entries, first = [], 0
        for number, count in enumerate(counts):
            entries += write_tar(
                out / source / f"{source}-{number:06d}.tar",
                utterances(role, source, count, first),
                "flac",
            )
            first += count
        write_index(out / source / INDEX, entries)
    write_record(out, "shards", parameters=None, inputs={})


def settings() -> tuple[dict[str, Any], dict[str, Any]]:
    """``params.yaml`` of the repository made small, and the catalogue that goes with it."""
    params = yaml.safe_load((REPOSITORY / "params.yaml").read_text())
    params |= {"corpus": "tones", "encoder": "tiny", "projector": "small", "llm": "tiny"}
    params["features"]["batch_seconds"] = 4
    params["decode"] = {
        "batch_seconds": 3,
        "threads": 1,
        "exact": False,
        "perplexity": False,
        "sets": {"free": _set(2, 8, 1.0), "greedy": _set(1, 6, 1.0)},
    }
    stage = {"steps": 6, "learning_rate": 0.01, "warmup": 2, "decay": "cosine"}
    params["train"] |= {
        "batch_seconds": 5,
        "window_shards": 2,
        "weight_decay": 0.01,
        "matching": {"weight": 0.3, "mse": 1.0, "cosine": 1.0},
        "lora": {"rank": 2, "alpha": 4, "dropout": 0.1, "learning_rate": 0.005},
        "curriculum": [
            {
                "name": "projector",
                "tune": ["projector"],
                "nonspeech_share": 0.0,
                "freeze": [],
                **stage,
            },
            {
                "name": "lora",
                "tune": ["projector", "lora"],
                "nonspeech_share": 0.25,
                "freeze": [],
                **stage,
            },
        ],
        "selection": {"every": 2, "patience": 0, "utterances": 2},
    }
    numerics = {"dtype": "float32", "features": "float16", "batching": "padded"}
    prompt = {"template": "USER: {speech} Transcribe speech to text. ASSISTANT: "}
    catalogue = {
        "corpus": {
            "tones": {
                role: {source: {"kind": "made"} for source in LAYOUT.get(role, {})}
                for role in [*LAYOUT, "noise"]
            }
        },
        "encoder": {
            "tiny": {
                "source": {"kind": "folder", "folder": "encoder"},
                "numerics": numerics,
                "lora": None,
            }
        },
        "projector": {"small": {"kind": "linear", "stack": 3, "hidden": 32}},
        "llm": {
            "tiny": {
                "source": {"kind": "folder", "folder": "llm"},
                "prompt": prompt,
                "lora": {"targets": LORA["llama"]},
                "numerics": {"dtype": "float32"},
            }
        },
    }
    return params, catalogue


def _set(beams: int, max_tokens: int, length_penalty: float, **changed: float) -> dict[str, float]:
    return {
        **vars(GREEDY),
        "beams": beams,
        "max_tokens": max_tokens,
        "length_penalty": length_penalty,
        **changed,
    }


def build(encoder: str = "parakeet", llm: str = "llama") -> None:
    """Fills the current folder: shards of all roles, checkpoints, parameters, catalogue; no
    features yet.
    """
    for role, layout in LAYOUT.items():
        write_shards(role, layout)
    save_encoder(ENCODER, encoder)
    save_llm(LLM, llm)
    params, catalogue = settings()
    catalogue["llm"]["tiny"]["lora"]["targets"] = LORA[llm]
    catalogue["encoder"]["tiny"]["lora"] = (
        {"targets": ENCODER_LORA[encoder]} if encoder in ENCODER_LORA else None
    )
    Path("params.yaml").write_text(yaml.safe_dump(params, sort_keys=False))
    Path("catalogue").mkdir()
    for kind, entries in catalogue.items():
        Path(f"catalogue/{kind}.yaml").write_text(yaml.safe_dump(entries, sort_keys=False))


def change(path: str, changes: dict[str, Any]) -> None:
    """Sets values of a YAML file by dotted keys: ``change("params.yaml", {"train.seed": 2})``; a
    number is an index of a list.
    """
    data = yaml.safe_load(Path(path).read_text())
    for key, value in changes.items():
        *parents, last = key.split(".")
        node: Any = data
        for part in parents:
            node = node[int(part)] if isinstance(node, list) else node[part]
        node[last] = value
    Path(path).write_text(yaml.safe_dump(data, sort_keys=False))


def run(name: str, role: str = "") -> None:
    """One stage by its work function."""
    module = importlib.import_module(
        {"features": "components.features.extract", "decode": "components.decode.run"}.get(
            name, f"components.{name}.build"
        )
    )
    module.work(Stage(name, read_params(), role))


def run_features() -> None:
    """Features of all roles."""
    for role in LAYOUT:
        run("features", role)


def frame_source(role: str) -> FrameSource:
    """The frames of a role, as train and decode read them."""
    return FrameSource(role, open_checkpoint(ENCODER), "cpu")


def copy(template: Path, folder: Path) -> Path:
    """A workspace of its own with the files of ``template``."""
    shutil.copytree(template, folder)
    return folder


def save_bridge(seed: int = 1) -> None:
    """A bridge with random weights over the checkpoints of the current folder."""
    from components.model.llms.causal import load_llm

    shape = ModelConfig(
        folder_digest(ENCODER),
        32,
        folder_digest(LLM),
        "float32",
        catalogue.projector("small"),
        catalogue.llm("tiny").prompt,
        "lower",
    )
    torch.manual_seed(seed)
    model = SpeechLLM(shape, *load_llm(LLM, "float32", "cpu"))
    with torch.no_grad():
        model.projector.linear2.weight *= 6
    model.add_lora(2, 4, 0.0, LORA["llama"], seed)
    model.save(empty_folder(WORKSPACE.bridge))
    write_record(WORKSPACE.bridge, "train", parameters=None, inputs={})
    save_head_record()


def save_head_record() -> None:
    """``models/ctc`` of a stage that had nothing to train: the encoder has a head, or none."""
    has_own = has_ctc_for_layer(open_checkpoint(ENCODER), read_params().features.layer)
    write_record(
        empty_folder(HEAD),
        "ctc",
        parameters={},
        inputs={"encoder": recorded_digests(ENCODER)},
        head="own" if has_own else "none",
    )
