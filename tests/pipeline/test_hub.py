"""Checkpoints of a hub under ``dvc``: with other training data they are linked again unchanged,
without the hub, and no stage after them runs; ``dvc push`` leaves their files out.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.checkpoints import save_encoder, save_llm
from tests.corpus.clips import clip, put
from tests.model.hub_server import REVISION, Hub, serving

from .project import Project, create_project, digest

SPEECH, SILENCE = ("train", "dev", "test"), ("nonspeech-train", "nonspeech-test")
MODELS = ("models/encoder", "models/llm")
OUTPUTS = (*MODELS, "data/features/dev")
RECORDINGS = "recordings"


def record(root: Path, role: str, num_clips: int) -> None:
    """Writes a table of so many clips of a role, each by another speaker; the first clips are the
    same in every call.
    """
    first_seed = 100 * (*SPEECH, *SILENCE).index(role)
    lines = ["path\ttext\tspeaker"]
    for index in range(num_clips):
        put(root / role / f"{role}-{index}.flac", clip(seed=first_seed + index, seconds=1.0))
        lines.append(f"{role}-{index}.flac\tamber birch\t{role}-{index}")
    (root / role / "table.tsv").write_text("\n".join(lines) + "\n")


def source(role: str) -> dict[str, Any]:
    columns = {} if role in SPEECH else {"columns": {"text": None, "speaker": None}}
    return {"kind": "table", "root": "few", "table": f"{role}/table.tsv", **columns}


def add_entries(project: Project, hub: Hub) -> None:
    """Adds the corpus of the tables and the hub's checkpoints to the catalogue, and uses them."""
    corpus = {role: {f"few-{role}": source(role)} for role in (*SPEECH, *SILENCE)} | {"noise": {}}
    entries: dict[str, Any] = {"corpus": corpus}
    for kind, template in (("encoder", "ctc-smoke"), ("llm", "llama-smoke")):
        (hub.repositories[f"acme/{kind}"] / "inputs.json").unlink()
        files = sorted(os.listdir(hub.repositories[f"acme/{kind}"]))
        catalogue = yaml.safe_load((project.folder / f"catalogue/{kind}.yaml").read_text())
        entries[kind] = {
            **catalogue[template],
            "source": {"kind": "hub", "repo": f"acme/{kind}", "revision": REVISION, "files": files},
        }
    for kind, entry in entries.items():
        path = project.folder / f"catalogue/{kind}.yaml"
        path.write_text(
            yaml.safe_dump({**yaml.safe_load(path.read_text()), "few": entry}, sort_keys=False)
        )
    project.set(corpus="few", encoder="few", llm="few")


@contextmanager
def hub_project(folder: Path) -> Iterator[tuple[Project, Hub, dict[str, str]]]:
    """A project that uses recordings and the checkpoints of a hub, its corpus scanned; the hub,
    which serves within the context; and the settings of every command.
    """
    project = create_project(folder / "project", folder / "work")
    for role in (*SPEECH, *SILENCE):
        record(folder / RECORDINGS, role, 2)
    with serving() as hub:
        hub.repositories = {
            "acme/encoder": save_encoder(folder / "hub/encoder"),
            "acme/llm": save_llm(folder / "hub/llm"),
        }
        add_entries(project, hub)
        settings = {
            "LIBRETTO_ROOT_FEW": str(folder / RECORDINGS),
            "HF_HOME": str(folder / "hf"),
            "HF_ENDPOINT": hub.address,
            "NO_PROXY": "127.0.0.1",
        }
        project.run(sys.executable, "-m", "components.corpus", "scan", **settings)
        yield project, hub, settings


@pytest.mark.slow
def test_other_training_data_relink_a_hub_checkpoint_without_a_request(tmp_path: Path) -> None:
    with hub_project(tmp_path) as (project, hub, settings):
        first = project.ran(project.dvc("repro", "llm", "features@dev", **settings))
        assert {"encoder", "llm", "shards@train", "features@dev"} <= first
        assert len(hub.bodies("model.safetensors")) == 2
    before = project.hashes()
    record(tmp_path / RECORDINGS, "train", 3)
    project.run(sys.executable, "-m", "components.corpus", "scan", **settings)
    # The hub has stopped by now, and the HF cache is not needed either.
    output = project.dvc(
        "repro", "llm", "features@dev", **{**settings, "HF_HOME": str(tmp_path / "another")}
    )
    assert project.ran(output) == {"corpus@train", "splits", "shards@train", "encoder", "llm"}
    after = project.hashes()
    assert after["data/shards/train"] != before["data/shards/train"]
    assert {name: after[name] for name in OUTPUTS} == {name: before[name] for name in OUTPUTS}


@pytest.mark.slow
def test_files_of_a_hub_are_not_pushed_and_a_pulled_clone_fetches_them(tmp_path: Path) -> None:
    stages = ("llm", "features@dev")
    with hub_project(tmp_path) as (project, hub, settings):
        project.dvc("repro", *stages, **settings)
        project.dvc("remote", "add", "--default", "storage", str(tmp_path / "remote"))
        project.run("git", "add", "-A")
        project.run("git", "commit", "-qm", "run")
        project.dvc("push")
        published = {
            digest(path) for folder in hub.repositories.values() for path in folder.iterdir()
        }
        remote = {digest(path) for path in (tmp_path / "remote").rglob("*") if path.is_file()}
        assert digest(project.folder / "models/encoder/inputs.json") in remote
        assert not published & remote

        project.run("git", "clone", "-q", str(project.folder), str(tmp_path / "clone"))
        clone = Project(tmp_path / "clone", tmp_path / "clone-work")
        settings["HF_HOME"] = str(tmp_path / "clone-hf")
        clone.dvc("pull", "--with-deps", *stages, **settings)
        assert clone.ran(clone.dvc("repro", *stages, **settings)) == set()
        clone.set(features__batch_seconds=clone.params()["features"]["batch_seconds"] / 2)
        assert clone.ran(clone.dvc("repro", *stages, **settings)) == {"features@dev"}
        assert len(hub.bodies("model.safetensors")) == 3  # two of the first clone, the encoder
    assert {name: clone.hashes()[name] for name in MODELS} == {
        name: project.hashes()[name] for name in MODELS
    }
