"""The bridge of discrete units: which units frames become, what is trained of it, and what comes of
it through training, saving, search and export.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from dataclasses import replace
from itertools import groupby
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from components.config.projector import DiscreteUnits
from components.decode.hypotheses import read_hypotheses
from components.model.bridges.discrete import DiscreteUnitsBridge
from components.model.bridges.registry import build_projector
from components.model.model_folder import read_model_config
from components.model.speech_llm import SpeechLLM
from components.runtime.artifact import RECORD
from components.shards.reader import list_utterances, read_payload
from components.train.warm_start import StartedModel, check_start
from components.transcribe.export import export
from tests import world as tones
from tests.checkpoints import frames_of, save_encoder
from tests.conftest import REPOSITORY
from tests.errors import refused

ENTRY: dict[str, Any] = {
    "kind": "discrete-units",
    "units": 9,
    "hours": 1.0,
    "iterations": 6,
    "seed": 1,
}
BRIDGE = Path("models/bridge")


def built(units: int = 9) -> DiscreteUnitsBridge:
    """A bridge whose centroid u is value u alone."""
    torch.manual_seed(3)
    bridge = build_projector(DiscreteUnits(**{**ENTRY, "units": units}), 12, 10)
    assert isinstance(bridge, DiscreteUnitsBridge)
    bridge.set_centroids(torch.eye(12)[:units])
    return bridge


def speaking(units: list[int]) -> torch.Tensor:
    """Frames (frames, 12) that are nearest to these units."""
    frames = 0.1 * frames_of([len(units)])[0]
    frames[range(len(units)), units] += 1.0
    return frames


@pytest.mark.parametrize(
    "units", [[4], [0, 0, 0], [1, 1, 2, 2, 2, 1, 8], [5, 5, 3, 3, 5, 5, 0, 1, 1, 1, 1, 6]]
)
def test_runs_of_a_unit_are_one_between_start_and_end(units: list[int]) -> None:
    bridge, frames = built(), speaking(units)
    expected = [9, *(unit for unit, _ in groupby(units)), 10]  # 9: start, 10: end
    assert bridge.read_units(frames).tolist() == expected[1:-1]
    assert torch.equal(bridge([frames])[0], bridge.embedding.weight[expected])
    assert len(expected) <= bridge.count_tokens(len(frames))


def test_embeddings_are_trained_where_a_unit_is_spoken_and_centroids_never() -> None:
    bridge = built()
    assert [name for name, _ in bridge.named_parameters()] == ["embedding.weight"]
    bridge([speaking([2, 2, 7])])[0].sum().backward()
    gradient = bridge.embedding.weight.grad
    assert gradient is not None
    assert gradient.any(1).nonzero().flatten().tolist() == [2, 7, 9, 10]


def test_units_do_not_depend_on_the_precision_of_the_training() -> None:
    bridge, frames = built(), frames_of([200])[0]
    bridge.set_centroids(frames_of([9], seed=4)[0])
    units = bridge.read_units(frames)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(bridge.read_units(frames), units)


def test_a_bridge_without_centroids_says_so() -> None:
    bridge = build_projector(DiscreteUnits(**ENTRY), 12, 10)
    with pytest.raises(RuntimeError, match="set_centroids"):
        bridge(frames_of([4]))


def use_units(*tunes: list[str]) -> None:
    """The projector of the workspace becomes one of discrete units; a short stage for each
    of ``tunes``.
    """
    Path("catalogue/projector.yaml").write_text(json.dumps({"small": ENTRY}))
    stage = tones.read_params().raw["train"]["curriculum"][0]
    stages = [
        {**stage, "name": f"stage-{index}", "tune": tune, "steps": 2}
        for index, tune in enumerate(tunes)
    ]
    tones.change("params.yaml", {"train.curriculum": stages})


SCRIPT = """
import sys
from components.transcribe import Transcriber
t = Transcriber.load(sys.argv[1], constraints="free")
for name in sys.argv[2:]:
    print(t(name).text)
"""


@pytest.fixture
def checkpoints(world: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of local checkpoints, from which the stages link encoder and LLM of the world."""
    for name in ("encoder", "llm"):
        shutil.copytree(
            Path("models") / name,
            world / "checkpoints" / name,
            ignore=shutil.ignore_patterns(RECORD),
        )
    monkeypatch.setenv("LIBRETTO_MODELS", str(world / "checkpoints"))
    for stage in ("encoder", "llm"):
        tones.run(stage)
    tones.run_features()
    return world / "checkpoints"


def test_speech_becomes_units_and_the_exported_model_transcribes_as_decode_does(
    checkpoints: Path, tmp_path: Path
) -> None:
    """Embeddings alone, then all of the LLM, then LoRA; decode, save, load, export, transcribe."""
    use_units(["projector"], ["projector", "llm"], ["projector", "lora"])
    for stage in ("ctc", "units", "train", "decode"):
        tones.run(stage)
    saved = load_file(BRIDGE / "projector.safetensors")
    fitted = load_file("models/units/centroids.safetensors")["centroids"]
    assert torch.equal(saved["centroids"], fitted)
    assert (BRIDGE / "llm.safetensors").is_file() and (BRIDGE / "lora").is_dir()
    shutil.rmtree("models/units")  # the bridge has its centroids
    model = SpeechLLM.load(BRIDGE, tones.ENCODER, tones.LLM, "cpu")
    model.save(Path("again"))
    for name in ("projector.safetensors", "llm.safetensors"):
        assert (Path("again") / name).read_bytes() == (BRIDGE / name).read_bytes()
    rows = {
        row.utterance_id: row.text
        for row in read_hypotheses(Path("data/decode/dev/tones-dev.parquet"))
        if row.system == "free"
    }
    export(tmp_path / "exported", True)
    for utterance in list_utterances(Path("data/shards/dev")):
        (tmp_path / f"{utterance.id}.flac").write_bytes(read_payload(utterance))
    environment = {**os.environ, "PYTHONPATH": str(REPOSITORY), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT, "exported", *(f"{name}.flac" for name in rows)],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
    )
    assert done.stdout.splitlines() == list(rows.values()), done.stderr


def test_a_training_starts_from_a_bridge_with_its_centroids(
    world: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    use_units(["projector"])
    for stage in ("units", "train"):
        tones.run(stage)
    before = load_file(BRIDGE / "projector.safetensors")["centroids"]
    shutil.copytree(BRIDGE, world / "starts/first")
    monkeypatch.setenv("LIBRETTO_MODELS", str(world / "starts"))
    tones.write_shards("train", {"tones": [9]})  # other frames, so other centroids
    tones.run("features", "train")
    tones.run("units")
    assert not torch.equal(load_file("models/units/centroids.safetensors")["centroids"], before)
    tones.change("params.yaml", {"train.start": "first"})
    tones.run("train")
    assert torch.equal(load_file(BRIDGE / "projector.safetensors")["centroids"], before)


def start_from_units(world: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A bridge of discrete units of the last layer, and a training that is to start from it."""
    use_units(["projector"])
    for stage in ("units", "train"):
        tones.run(stage)
    shutil.copytree(BRIDGE, world / "starts/first")
    monkeypatch.setenv("LIBRETTO_MODELS", str(world / "starts"))
    tones.change("params.yaml", {"train.start": "first"})
    return world / "starts/first"


def test_a_start_with_units_of_another_layer_is_refused(
    world: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In the training, and by the plan, which knows of no encoder's files."""
    start = start_from_units(world, monkeypatch)
    config = read_model_config(start)
    assert config.units_layer == "last"
    planned = StartedModel(
        config.projector, 32, 32, config.vocabulary_size, config.text_case, layer="last"
    )
    check_start(start, planned)
    with refused("train.start", "last", "1"):
        check_start(start, replace(planned, layer=1))
    tones.change("params.yaml", {"features.layer": 1})
    tones.run_features()
    tones.run("units")
    with refused("train.start", "last", "1"):
        tones.run("train")


def test_a_start_with_units_of_another_encoder_is_refused(
    world: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    start = start_from_units(world, monkeypatch)
    save_encoder(tones.ENCODER, seed=2)
    tones.run_features()
    tones.run("units")
    with refused("train.start", read_model_config(start).encoder):
        tones.run("train")


def test_a_start_that_does_not_say_its_layer_has_to_have_the_same_centroids(
    world: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    start = start_from_units(world, monkeypatch)
    config = json.loads((start / "config.json").read_text())
    del config["units_layer"]
    (start / "config.json").write_text(json.dumps(config))
    tones.run("train")
    tones.change("params.yaml", {"features.layer": 1})
    tones.run_features()
    tones.run("units")
    with refused("train.start", "units_layer"):
        tones.run("train")


def test_what_can_not_be_trained_through_units_stops_before_the_training(
    world: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    use_units(["projector"])
    Path("models/units").mkdir()
    with refused("models/units"):  # no stage has run
        tones.run("train")
    tones.change("params.yaml", {"features.mode": "live"})
    tones.run("features", "train")
    use_units(["projector", "encoder"])
    tones.run("units")
    monkeypatch.setattr(
        "components.train.build.cached_unit", lambda *_: pytest.fail("a training began")
    )
    with refused("encoder"):
        tones.run("train")
