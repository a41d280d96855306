"""Tiny checkpoints under the names of real ones: a hub that serves them, and the project whose
catalogue points to it.

Everything that a user would get from the catalogue (repository, prompt, LoRA targets, dtype) is
taken from there; changed are only the commit, the list of files and the shape, as somebody would
who keeps a copy of a model elsewhere.
"""

from __future__ import annotations

import copy
import json
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import yaml
from safetensors.torch import load_file

from tests.checkpoints import save_encoder, save_llm
from tests.model.hub_server import REVISION

from .project import Project

UTTERANCES = {"train": 50, "dev": 8, "test": 8}
CLIPS = 8
TOKENS = 6  # most in a hypothesis: random weights seldom end a sentence


@dataclass(frozen=True)
class Llm:
    """A catalogue name, and what the tiny checkpoint under it is."""

    name: str
    family: str
    tokenizer: str
    parts: int = 0  # of torch's own weights; 0: safetensors


@dataclass(frozen=True)
class Encoder:
    name: str
    family: str
    model_type: str
    width: int  # each its own: a folder of another encoder shows
    pickled: bool = False
    ctc: bool = False

    @property
    def config(self) -> dict[str, int]:
        return {"d_model" if self.family == "whisper" else "hidden_size": self.width}


PHI = Llm("phi-2", "phi", "phi")
VICUNA = Llm("vicuna-7b", "llama", "sentencepiece", parts=2)
QWEN = Llm("qwen2-5-0-5b", "qwen2", "qwen")
WHISPER = Encoder("whisper-tiny", "whisper", "whisper", 48)
HUBERT = Encoder("hubert-base", "hubert-group-norm", "hubert", 32, pickled=True)
HUBERT_CTC = Encoder(
    "hubert-large-ls960-ft", "hubert-layer-norm", "hubert", 40, pickled=True, ctc=True
)


def publish(folder: Path, each: Llm | Encoder) -> Path:
    """The checkpoint as its repository would hold it."""
    if isinstance(each, Encoder):
        save_encoder(folder, each.family, **each.config)
    else:
        save_llm(folder, each.family, form=each.tokenizer)
    (folder / "inputs.json").unlink()
    _pickle(folder, int(each.pickled) if isinstance(each, Encoder) else each.parts)
    return folder


def _pickle(folder: Path, parts: int) -> None:
    """Puts torch's own weights, whole or in parts, in the place of safetensors."""
    if not parts:
        return
    weights = folder / "model.safetensors"
    tensors = load_file(weights)
    weights.unlink()
    if parts == 1:
        torch.save(tensors, folder / "pytorch_model.bin")
        return
    places = {
        name: f"pytorch_model-{place % parts + 1:05d}-of-{parts:05d}.bin"
        for place, name in enumerate(sorted(tensors))
    }
    for file in set(places.values()):
        torch.save({name: tensors[name] for name in tensors if places[name] == file}, folder / file)
    (folder / "pytorch_model.bin.index.json").write_text(
        json.dumps({"metadata": {}, "weight_map": places})
    )


def offer(project: Project, each: Llm | Encoder, folder: Path) -> str:
    """Points the real catalogue entry to the tiny checkpoint; returns the repository
    that it names.
    """
    path = project.folder / f"catalogue/{type(each).__name__.lower()}.yaml"
    entries = copy.deepcopy(yaml.safe_load(path.read_text()))
    source = entries[each.name]["source"]
    config = json.loads((folder / "config.json").read_text())
    described = {
        key: config[key]
        for key in ("model_type", "architectures", *source.get("shape", ()))
        if key in config
    }
    files = sorted(file.name for file in folder.iterdir())
    source.update(revision=REVISION, files=files, shape=described)
    path.write_text(yaml.safe_dump(entries, sort_keys=False))
    return source["repo"]


def shrink(project: Project) -> None:
    """The smoke corpus and its training at the least size at which every stage has
    something to do.
    """
    path = project.folder / "catalogue/corpus.yaml"
    corpora = copy.deepcopy(yaml.safe_load(path.read_text()))
    for role, sources in corpora["spoken-smoke"].items():
        for settings in sources.values():
            settings.update(
                {"utterances": UTTERANCES[role]} if role in UTTERANCES else {"clips": CLIPS}
            )
    path.write_text(yaml.safe_dump(corpora, sort_keys=False))
    project.run(sys.executable, "-m", "components.corpus", "scan")
    project.set(train__batch_seconds=15, train__selection__every=2, train__selection__utterances=2)
    for number in range(2):
        project.set(**{f"train__curriculum__{number}__steps": 2})


def try_out(project: Project, name: str, *overrides: str, **extra: str) -> str:
    """``dvc exp run`` of the overrides under the experiment's name, hypotheses kept short; its
    output.
    """
    short = [f"decode.sets.{each}.max_tokens={TOKENS}" for each in ("free", "constrained")]
    return project.dvc(
        "exp",
        "run",
        "-n",
        name,
        *(word for each in (*overrides, *short) for word in ("-S", each)),
        **extra,
    )


def experiments(project: Project) -> dict[str, Any]:
    """Parameters and metrics of each experiment by its name, as ``dvc exp show`` gives them."""
    found = {}
    for baseline in json.loads(project.dvc("exp", "show", "--json")):
        for each in baseline.get("experiments") or ():
            data = each["revs"][0]["data"]
            found[each["name"]] = {
                "params": data["params"]["params.yaml"]["data"],
                "metrics": data["metrics"]["metrics/score.json"]["data"],
            }
    return found
