"""The stage ``units``: the same bytes from run to run, from cached and from live frames; what it
samples; the record alone for other bridges; what it refuses.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from components.runtime.artifact import RECORD, recorded_digests
from components.units.fit import choose_utterances
from tests import world as tones
from tests.errors import refused

ENTRY = {"kind": "discrete-units", "units": 6, "hours": 1, "iterations": 5, "seed": 1}
UNITS = Path("models/units")


def fit(**changes: Any) -> bytes:
    """The centroids that the stage writes for the entry with ``changes``."""
    Path("catalogue/projector.yaml").write_text(json.dumps({"small": {**ENTRY, **changes}}))
    tones.run("units")
    return (UNITS / "centroids.safetensors").read_bytes()


def read_centroids() -> torch.Tensor:
    return load_file(UNITS / "centroids.safetensors")["centroids"]


def test_two_runs_with_any_workers_give_the_same_bytes(
    world: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = fit()
    centroids = read_centroids()
    assert centroids.shape == (6, 32)
    assert len(centroids.unique(dim=0)) == 6
    monkeypatch.setenv("LIBRETTO_WORK", str(world / "other-work"))
    monkeypatch.setenv("LIBRETTO_WORKERS", "2")
    assert fit() == first
    assert fit(seed=2) != first


def test_live_frames_give_the_same_bytes_in_any_layout_and_nearly_the_cached_units(
    world: Path,
) -> None:
    fit()
    cached = read_centroids()
    tones.change("params.yaml", {"features.mode": "live"})
    tones.run("features", "train")
    first = fit()
    # Stored frames are rounded, so that a few of them go to another centroid.
    assert float((torch.isclose(read_centroids(), cached, atol=1e-2)).float().mean()) > 0.8
    tones.write_shards("train", {"tones": [2, 9, 1]})  # the same utterances in other tars
    tones.run("features", "train")
    assert fit() == first


def test_a_finished_fit_is_linked_again(world: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = fit()
    shutil.rmtree(UNITS)
    monkeypatch.setattr("components.units.fit.fit_units", lambda *_: pytest.fail("a fit began"))
    assert fit() == first


def test_a_bridge_of_another_kind_has_a_record_alone(world: Path) -> None:
    fit()
    Path("catalogue/projector.yaml").write_text(
        json.dumps({"small": {"kind": "linear", "stack": 3, "hidden": 32}})
    )
    tones.run("units")
    assert [path.name for path in UNITS.iterdir()] == [RECORD]
    assert recorded_digests(UNITS) == {}


def test_more_units_than_frames_are_refused(world: Path) -> None:
    with refused("projector", "100000"):
        fit(units=100_000)


def test_a_sample_is_drawn_by_ids_up_to_its_hours(world: Path) -> None:
    utterances = tones.frame_source("train").utterances
    everything = choose_utterances(utterances, 1.0, 1)
    assert [utterance.id for utterance in everything] == sorted(
        utterance.id for utterance in utterances
    )
    part = choose_utterances(utterances[::-1], 3.0 / 3600, 1)
    durations = [utterance.duration_s for utterance in part]
    assert 0 < sum(durations) <= 3.0
    assert part == choose_utterances(utterances, 3.0 / 3600, 1)
    assert part != choose_utterances(utterances, 3.0 / 3600, 2)
