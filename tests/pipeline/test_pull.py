"""What was trained travels with ``dvc push`` and is used in another clone, on another type of CPU,
where a training would give other bits.
"""

from __future__ import annotations

import sys
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from .project import Project

OTHER_CPU = {"ATEN_CPU_CAPABILITY": "default"}  # torch then takes no vector instructions
MODELS = ("models/encoder", "models/llm", "models/bridge")


@pytest.fixture(scope="module")
def pushed(smoke: Project, tmp_path_factory: pytest.TempPathFactory) -> Project:
    """The workspace of the smoke run with its result committed, tagged as a promoted bridge, and
    pushed to a DVC remote.
    """
    folder = tmp_path_factory.mktemp("pushed")
    project = smoke.copy(folder / "project")
    project.dvc("remote", "add", "--default", "storage", str(folder / "remote"))
    project.run("git", "add", "-A")
    project.run("git", "commit", "-qm", "run")
    project.run("git", "tag", "--annotate", "-m", "promoted", "bridge@v1.0.0")
    project.dvc("push")
    return project


def clone(project: Project, folder: Path) -> Project:
    """A clone without any data, and with an empty work cache."""
    project.run("git", "clone", "-q", str(project.folder), str(folder / "clone"))
    return Project(folder / "clone", folder / "work")


def write_recording(project: Project, target: Path) -> Path:
    """The first test utterance of a workspace as a file of its own."""
    source = project.folder / "data/shards/test/smoke-test"
    first = pq.read_table(source / "index.parquet").to_pylist()[0]
    tar = (source / first["shard"]).read_bytes()
    target.write_bytes(tar[first["offset"] : first["offset"] + first["size"]])
    return target


def transcribe(project: Project, *arguments: str, check: bool = True) -> str:
    command = (sys.executable, "-m", "components.transcribe", *arguments)
    done = project.run(*command, check=check, **OTHER_CPU)
    return done.stdout if check else done.stderr


@pytest.mark.slow
def test_a_pulled_result_is_used_on_another_cpu_and_nothing_is_trained(
    pushed: Project, tmp_path: Path
) -> None:
    other = clone(pushed, tmp_path)
    other.dvc("pull", **OTHER_CPU)
    assert "up to date" in other.dvc("status", **OTHER_CPU)
    assert other.ran(other.dvc("repro", **OTHER_CPU)) == set()
    assert other.hashes() == pushed.hashes()
    recording = str(write_recording(pushed, tmp_path / "recording.flac"))
    text = transcribe(other, recording)
    assert text.strip() and text == transcribe(pushed, recording)
    other.set(decode__batch_seconds=other.params()["decode"]["batch_seconds"] / 2)
    assert other.ran(other.dvc("repro", **OTHER_CPU)) == {"decode", "score", "report"}
    assert {name: other.hashes()[name] for name in MODELS} == {
        name: pushed.hashes()[name] for name in MODELS
    }


@pytest.mark.slow
def test_a_promoted_bridge_says_what_brings_its_encoder_and_llm(
    pushed: Project, tmp_path: Path
) -> None:
    other = clone(pushed, tmp_path)
    recording = str(write_recording(pushed, tmp_path / "recording.flac"))
    other.dvc("artifacts", "get", ".", "bridge", "--rev", "v1.0.0", "-o", "promoted")
    error = transcribe(other, "--model", "promoted", recording, check=False)
    command = next(part for part in error.split("'") if part.startswith("git checkout"))
    other.run("sh", "-c", command.replace("vN.0.0", "v1.0.0"))
    assert transcribe(other, recording) == transcribe(pushed, recording)
