"""LLMs and encoders of a model hub by their catalogue names, through the whole pipeline as ``dvc
exp run`` starts it.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import yaml

from components.shards.reader import list_utterances, read_frames
from tests.model.hub_server import Hub, serving

from .pairs import (
    HUBERT,
    HUBERT_CTC,
    PHI,
    QWEN,
    TOKENS,
    UTTERANCES,
    VICUNA,
    WHISPER,
    TinyEncoder,
    TinyLlm,
    list_experiments,
    offer,
    publish,
    run_experiment,
    shrink,
)
from .project import Project, create_project

pytestmark = pytest.mark.slow
PAIRS = [(PHI, WHISPER), (VICUNA, HUBERT), (QWEN, HUBERT_CTC)]


@pytest.fixture(scope="module")
def hub() -> Iterator[Hub]:
    with serving() as hub:
        yield hub


@pytest.fixture(scope="module")
def hub_settings(hub: Hub, tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Variables that point to the hub, with a HF cache of its own."""
    cache = str(tmp_path_factory.mktemp("hf"))
    return {
        "HF_ENDPOINT": hub.address,
        "HF_HOME": cache,
        "HF_HUB_CACHE": f"{cache}/hub",
        "HF_TOKEN": "",
        "HF_HUB_OFFLINE": "0",
        "NO_PROXY": "127.0.0.1,localhost",
        "LIBRETTO_WORKERS": "1",
    }


@pytest.fixture(scope="module")
def corpus_project(hub: Hub, tmp_path_factory: pytest.TempPathFactory) -> Project:
    """A workspace with a small corpus in shards, whose catalogue points to the hub's tiny
    checkpoints. Do not change it.
    """
    folder = tmp_path_factory.mktemp("pairs")
    project = create_project(folder / "project", folder / "work")
    shrink(project)
    for model in (model for pair in PAIRS for model in pair):
        checkpoint = publish(folder / "remote" / model.name, model)
        hub.repositories[offer(project, model, checkpoint)] = checkpoint
    project.dvc("repro", "splits", "shards")
    project.run("git", "add", "-A")
    project.run("git", "commit", "-qm", "corpus")
    return project


@pytest.fixture(scope="module")
def run_pair(
    corpus_project: Project, hub_settings: dict[str, str], tmp_path_factory: pytest.TempPathFactory
) -> Callable[[TinyLlm, TinyEncoder], Project]:
    """Returns a workspace in which a pair has run, once. Do not change it."""

    @cache
    def run(llm: TinyLlm, encoder: TinyEncoder) -> Project:
        project = corpus_project.copy(tmp_path_factory.mktemp(llm.name) / "project")
        output = run_experiment(
            project,
            "pair",
            f"llm={llm.name}",
            f"encoder={encoder.name}",
            "projector=linear",
            **hub_settings,
        )
        assert {"encoder", "llm", "features@train", "train", "decode", "score"} <= project.ran(
            output
        )
        return project

    return run


@pytest.mark.parametrize(("llm", "encoder"), PAIRS, ids=lambda model: model.name)
def test_a_pair_runs_by_its_names_from_end_to_end(
    llm: TinyLlm, encoder: TinyEncoder, run_pair: Callable[[TinyLlm, TinyEncoder], Project]
) -> None:
    """Checkpoint, width, prompt, LoRA and dtype follow from the names; every utterance is scored in
    every system.
    """
    project = run_pair(llm, encoder)
    models, data = project.folder / "models", project.folder / "data"
    for name, model_type in (("llm", llm.family), ("encoder", encoder.model_type)):
        checkpoint = models / "linked" / name
        assert json.loads((checkpoint / "config.json").read_text())["model_type"] == model_type
        assert not [path.name for path in checkpoint.iterdir() if path.suffix in (".bin", ".py")]
    for role in ("train", "dev", "test", "nonspeech-test"):
        frames = [read_frames(utterance) for utterance in list_utterances(data / "features" / role)]
        assert frames and all(
            array.shape[1] == encoder.width and np.isfinite(array).all() for array in frames
        )
    entry = yaml.safe_load((project.folder / "catalogue/llm.yaml").read_text())[llm.name]
    bridge = json.loads((models / "bridge/config.json").read_text())
    assert {key: bridge["prompt"][key] for key in entry["prompt"]} == entry["prompt"]
    assert (bridge["llm_dtype"], bridge["encoder_width"]) == ("bfloat16", encoder.width)
    assert set(
        json.loads((models / "bridge/lora/adapter_config.json").read_text())["target_modules"]
    ) == set(entry["lora"]["targets"])
    systems = {"free", "constrained", "ctc"}  # of the encoder's own head, or of a trained one
    rows = pq.read_table(data / "decode/test/smoke-test.parquet").to_pylist()
    assert len(rows) == len(systems) * UTTERANCES["test"] and all(
        len(row["tokens"] or ()) <= TOKENS for row in rows
    )
    scores = project.scores()
    assert set(scores) == {"smoke-dev", "smoke-test", "smoke-synthetic-test"}
    assert all(set(score) == systems for score in scores.values())
    experiment = list_experiments(project)["pair"]
    params = experiment["params"]
    assert (params["llm"], params["encoder"], experiment["metrics"]) == (
        llm.name,
        encoder.name,
        scores,
    )


def test_another_llm_of_the_hub_reuses_the_frames(
    run_pair: Callable[[TinyLlm, TinyEncoder], Project],
    hub: Hub,
    hub_settings: dict[str, str],
    tmp_path: Path,
) -> None:
    project = run_pair(PHI, WHISPER).copy(tmp_path / "project")
    before, num_requests = project.hashes(), len(hub.requests)
    output = run_experiment(project, "other", f"llm={QWEN.name}", **hub_settings)
    assert project.ran(output) == {"llm", "ctc", "train", "decode", "score", "report"}
    after = project.hashes()
    assert {name for name in after if after[name] != before[name]} == {
        "models/llm",
        "models/bridge",
        "data/decode",
        "data/score",
        "data/report",
        "metrics/curve.csv",
        "metrics/score.json",
        "metrics/train.json",
    }
    assert not [
        request.path for request in hub.requests[num_requests:] if "whisper" in request.path
    ]
    experiments = list_experiments(project)
    assert {name: experiments[name]["params"]["llm"] for name in ("pair", "other")} == {
        "pair": PHI.name,
        "other": QWEN.name,
    }


def test_other_training_data_need_no_hub(
    run_pair: Callable[[TinyLlm, TinyEncoder], Project],
    hub_settings: dict[str, str],
    tmp_path: Path,
) -> None:
    """Encoder and LLM are linked again from the work cache, without the hub and its cache; other
    frames stay.
    """
    project = run_pair(PHI, WHISPER).copy(tmp_path / "project")
    path = project.folder / "catalogue/corpus.yaml"
    corpora = yaml.safe_load(path.read_text())
    corpora["spoken-smoke"]["train"]["smoke-train"]["utterances"] += 10
    path.write_text(yaml.safe_dump(corpora, sort_keys=False))
    before = project.hashes()
    offline = {
        **hub_settings,
        "HF_ENDPOINT": "http://127.0.0.1:9",
        "HF_HOME": str(tmp_path / "hf"),
        "HF_HUB_CACHE": str(tmp_path / "hf/hub"),
    }
    ran = project.ran(project.dvc("repro", "encoder", "llm", **offline))
    assert ran == {"corpus@train", "splits", "shards@train", "encoder", "llm"}
    after = project.hashes()
    assert after["data/shards/train"] != before["data/shards/train"]
    assert [after[name] for name in ("models/encoder", "models/llm")] == [
        before[name] for name in ("models/encoder", "models/llm")
    ]
    assert "up to date" in project.dvc("status", "features@dev", "features@test")
