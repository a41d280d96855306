"""Checkpoints of a hub under ``dvc``: other training data bring them back as they are, without the
hub and with nothing behind.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.checkpoints import save_encoder, save_llm
from tests.corpus.clips import clip, put
from tests.model.hub_server import REVISION, Hub, serving

from .project import Project, make_project

SPEECH, SILENCE = ("train", "dev", "test"), ("nonspeech-train", "nonspeech-test")
OUTPUTS = ("models/encoder", "models/llm", "data/features/dev")


def record(root: Path, role: str, clips: int) -> None:
    """A table of so many clips of a role, each by a speaker of its own; the first ones are the same
    each time.
    """
    first = 100 * (*SPEECH, *SILENCE).index(role)
    lines = ["path\ttext\tspeaker"]
    for number in range(clips):
        put(root / role / f"{role}-{number}.flac", clip(seed=first + number, seconds=1.0))
        lines.append(f"{role}-{number}.flac\tamber birch\t{role}-{number}")
    (root / role / "table.tsv").write_text("\n".join(lines) + "\n")


def source(role: str) -> dict[str, Any]:
    columns = {} if role in SPEECH else {"columns": {"text": None, "speaker": None}}
    return {"kind": "table", "root": "few", "table": f"{role}/table.tsv", **columns}


def entries(project: Project, hub: Hub) -> None:
    """Adds the corpus of the tables and the hub's checkpoints to the catalogue, and names them."""
    corpus = {role: {f"few-{role}": source(role)} for role in (*SPEECH, *SILENCE)} | {"noise": {}}
    added: dict[str, Any] = {"corpus": corpus}
    for kind, like in (("encoder", "ctc-smoke"), ("llm", "llama-smoke")):
        (hub.repositories[f"acme/{kind}"] / "inputs.json").unlink()
        files = sorted(os.listdir(hub.repositories[f"acme/{kind}"]))
        known = yaml.safe_load((project.folder / f"catalogue/{kind}.yaml").read_text())[like]
        added[kind] = {
            **known,
            "source": {"kind": "hub", "repo": f"acme/{kind}", "revision": REVISION, "files": files},
        }
    for kind, entry in added.items():
        path = project.folder / f"catalogue/{kind}.yaml"
        path.write_text(
            yaml.safe_dump({**yaml.safe_load(path.read_text()), "few": entry}, sort_keys=False)
        )
    project.set(corpus="few", encoder="few", llm="few")


@pytest.mark.slow
def test_other_training_data_bring_a_hub_checkpoint_back_without_asking(tmp_path: Path) -> None:
    project = make_project(tmp_path / "project", tmp_path / "work")
    root = tmp_path / "recordings"
    for role in (*SPEECH, *SILENCE):
        record(root, role, 2)
    with serving() as hub:
        hub.repositories = {
            "acme/encoder": save_encoder(tmp_path / "remote/encoder"),
            "acme/llm": save_llm(tmp_path / "remote/llm"),
        }
        entries(project, hub)
        settings = {
            "LIBRETTO_ROOT_FEW": str(root),
            "HF_HOME": str(tmp_path / "hf"),
            "HF_ENDPOINT": hub.address,
            "NO_PROXY": "127.0.0.1",
        }
        project.run(sys.executable, "-m", "components.corpus", "scan", **settings)
        first = project.ran(project.dvc("repro", "llm", "features@dev", **settings))
        assert {"encoder", "llm", "shards@train", "features@dev"} <= first
        assert len(hub.bodies("model.safetensors")) == 2
    before = project.hashes()
    record(root, "train", 3)
    project.run(sys.executable, "-m", "components.corpus", "scan", **settings)
    # The hub is gone by now, and the HF cache is not needed either.
    output = project.dvc(
        "repro", "llm", "features@dev", **{**settings, "HF_HOME": str(tmp_path / "another")}
    )
    assert project.ran(output) == {"corpus@train", "splits", "shards@train", "encoder", "llm"}
    after = project.hashes()
    assert after["data/shards/train"] != before["data/shards/train"]
    assert {name: after[name] for name in OUTPUTS} == {name: before[name] for name in OUTPUTS}
