"""Tiny checkpoints under the names of real ones: a hub that serves them, and the project whose
catalogue points to it.

All that a user would get from the catalogue (repository, prompt, LoRA targets, dtype) comes from
there; only the commit, the list of files and the shape are changed, as for a copy of a model in
another repository.
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
TOKENS = 6  # most in a hypothesis: random weights rarely end a sentence


@dataclass(frozen=True)
class TinyLlm:
    """A catalogue name, and the tiny checkpoint under it."""

    name: str
    family: str
    tokenizer: str
    parts: int = 0  # files of torch's own weights; 0: safetensors
    kind: str = "llm"  # of the catalogue


@dataclass(frozen=True)
class TinyEncoder:
    """A catalogue name, and the tiny checkpoint under it."""

    name: str
    family: str
    model_type: str
    width: int  # a different one for each, so that another encoder's folder is noticed
    pickled: bool = False
    kind: str = "encoder"  # of the catalogue

    @property
    def config(self) -> dict[str, int]:
        """What its ``config.json`` says besides the default."""
        return {"d_model" if self.family == "whisper" else "hidden_size": self.width}


PHI = TinyLlm("phi-2", "phi", "phi")
VICUNA = TinyLlm("vicuna-7b", "llama", "sentencepiece", parts=2)
QWEN = TinyLlm("qwen2-5-0-5b", "qwen2", "qwen")
WHISPER = TinyEncoder("whisper-tiny", "whisper", "whisper", 48)
HUBERT = TinyEncoder("hubert-base", "hubert-group-norm", "hubert", 32, pickled=True)
HUBERT_CTC = TinyEncoder("hubert-large-ls960-ft", "hubert-layer-norm", "hubert", 40, pickled=True)


def publish(folder: Path, model: TinyLlm | TinyEncoder) -> Path:
    """Writes the checkpoint as its repository would have it."""
    if isinstance(model, TinyEncoder):
        save_encoder(folder, model.family, **model.config)
    else:
        save_llm(folder, model.family, form=model.tokenizer)
    (folder / "inputs.json").unlink()
    _pickle(folder, int(model.pickled) if isinstance(model, TinyEncoder) else model.parts)
    return folder


def _pickle(folder: Path, parts: int) -> None:
    """Replaces safetensors by torch's own weights, in one file or in several."""
    if not parts:
        return
    weights = folder / "model.safetensors"
    tensors = load_file(weights)
    weights.unlink()
    if parts == 1:
        torch.save(tensors, folder / "pytorch_model.bin")
        return
    files = {
        name: f"pytorch_model-{index % parts + 1:05d}-of-{parts:05d}.bin"
        for index, name in enumerate(sorted(tensors))
    }
    for file in set(files.values()):
        torch.save({name: tensors[name] for name in tensors if files[name] == file}, folder / file)
    (folder / "pytorch_model.bin.index.json").write_text(
        json.dumps({"metadata": {}, "weight_map": files})
    )


def offer(project: Project, model: TinyLlm | TinyEncoder, folder: Path) -> str:
    """Points the real catalogue entry to the tiny checkpoint; returns its repository."""
    path = project.folder / f"catalogue/{model.kind}.yaml"
    entries = copy.deepcopy(yaml.safe_load(path.read_text()))
    source = entries[model.name]["source"]
    config = json.loads((folder / "config.json").read_text())
    shape = {
        key: config[key]
        for key in ("model_type", "architectures", "pad_token_id", *source.get("shape", ()))
        if key in config
    }
    files = sorted(file.name for file in folder.iterdir())
    source.update(revision=REVISION, files=files, shape=shape)
    path.write_text(yaml.safe_dump(entries, sort_keys=False))
    return source["repo"]


def shrink(project: Project) -> None:
    """Sets the smoke corpus and its training to the least size at which every stage has some
    work.
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
    for index in range(2):
        project.set(**{f"train__curriculum__{index}__steps": 2})


def run_experiment(project: Project, name: str, *overrides: str, **variables: str) -> str:
    """Runs the overrides as an experiment of that name, with short hypotheses; returns the output
    of ``dvc exp run``.
    """
    short = [f"decode.sets.{system}.max_tokens={TOKENS}" for system in ("free", "constrained")]
    return project.dvc(
        "exp",
        "run",
        "-n",
        name,
        *(part for override in (*overrides, *short) for part in ("-S", override)),
        **variables,
    )


def list_experiments(project: Project) -> dict[str, Any]:
    """Parameters and metrics of each experiment by its name, as ``dvc exp show`` gives them."""
    experiments = {}
    for baseline in json.loads(project.dvc("exp", "show", "--json")):
        for experiment in baseline.get("experiments") or ():
            data = experiment["revs"][0]["data"]
            experiments[experiment["name"]] = {
                "params": data["params"]["params.yaml"]["data"],
                "metrics": data["metrics"]["metrics/score.json"]["data"],
            }
    return experiments
