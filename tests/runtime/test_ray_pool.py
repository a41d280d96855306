"""Units on a real Ray cluster of two nodes on loopback: the bytes of a local run, also if a node is
killed.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from components.runtime.artifact import read_record
from components.runtime.hashing import folder_digests
from tests import world as toy
from tests.bucket import Bucket
from tests.conftest import REPOSITORY

pytestmark = pytest.mark.slow
SHARDS = 16
STORE = 80_000_000  # bytes of a node's object store


@pytest.fixture
def cluster(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """A head without a core of its own, and two nodes of one core each."""
    pytest.importorskip("ray", reason="the extra 'cluster' is not installed")
    monkeypatch.setenv("RAY_USAGE_STATS_ENABLED", "0")
    monkeypatch.setenv("PYTHONPATH", str(REPOSITORY))
    from ray.cluster_utils import Cluster

    # Another address of loopback: for 127.0.0.1 Ray's clients use the machine's outer address, on
    # which nothing listens.
    node = {
        "object_store_memory": STORE,
        "include_dashboard": False,
        "node_ip_address": "127.0.0.2",
    }
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 0, **node})
    cluster.nodes = [cluster.add_node(num_cpus=1, **node) for _ in range(2)]
    yield cluster
    cluster.shutdown()


def stage(name: str, work: Path, **settings: str) -> subprocess.Popen[str]:
    environment = {
        **os.environ,
        "LIBRETTO_WORK": str(work),
        "PYTHONPATH": str(REPOSITORY),
        **settings,
    }
    command = [sys.executable, "-m", f"components.{name}", "--encoder", "tiny", "--role", "train"]
    return subprocess.Popen(
        command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )


def wait_for_end(process: subprocess.Popen[str]) -> tuple[int, str]:
    output, errors = process.communicate(timeout=180)
    return process.returncode, output + errors


def units(work: Path) -> list[Path]:
    return list((work / "features").glob("??/*/unit.json"))


def test_a_node_that_is_killed_during_features_leaves_the_hashes_of_the_local_run(
    world: Path, cluster: Any, tmp_path: Path
) -> None:
    toy.write_shards("train", {"tones": [40] * SHARDS})
    code, output = wait_for_end(stage("features", tmp_path / "local"))
    assert code == 0, output
    local = folder_digests(Path("data/features/train"))
    assert len([name for name in local if name.endswith(".tar")]) == SHARDS

    process = stage(
        "features", tmp_path / "cluster", LIBRETTO_FANOUT="ray", LIBRETTO_RAY=cluster.address
    )
    partial_units: set[str] = set()

    def kill() -> None:
        while len(units(tmp_path / "cluster")) < SHARDS and (
            len(units(tmp_path / "cluster")) < 3 or len(partial_units) < 2
        ):
            time.sleep(0.01)
            partial_units.clear()
            partial_units.update(
                path.name for path in (tmp_path / "cluster/features").glob("??/*.partial")
            )
        cluster.remove_node(cluster.nodes[1], allow_graceful=False)

    killer = threading.Thread(target=kill)
    killer.start()
    code, output = wait_for_end(process)
    killer.join()
    assert code == 0, output
    assert len(partial_units) == 2, "both nodes computed a unit"
    assert folder_digests(Path("data/features/train")) == local


def test_a_cluster_writes_the_same_into_a_bucket_as_into_a_folder(
    world: Path, bucket: Bucket, cluster: Any, tmp_path: Path
) -> None:
    code, output = wait_for_end(stage("features", tmp_path / "local"))
    assert code == 0, output
    local = read_record(Path("data/features/train"))["outputs"]
    toy.change("params.yaml", {"features.remote": True})
    settings = {
        "LIBRETTO_FANOUT": "ray",
        "LIBRETTO_RAY": cluster.address,
        "LIBRETTO_STORE": "s3://recordings/cluster",
    }
    code, output = wait_for_end(stage("features", tmp_path / "cluster", **settings))
    assert code == 0, output
    assert read_record(Path("data/features/train"))["outputs"] == local
    assert not list(Path("data/features/train").rglob("*.tar"))
    assert len(bucket.names()) == len([name for name in local if name.endswith(".tar")])


def test_an_error_of_a_unit_ends_the_stage_as_in_a_local_run(
    world: Path, cluster: Any, tmp_path: Path
) -> None:
    tar = Path("data/shards/train/tones/tones-000001.tar")
    tar.write_bytes(tar.read_bytes()[:3000])
    results = [
        wait_for_end(stage("features", tmp_path / name, **settings))
        for name, settings in (
            ("local", {}),
            ("cluster", {"LIBRETTO_FANOUT": "ray", "LIBRETTO_RAY": cluster.address}),
        )
    ]
    assert results[0][0] == results[1][0] == 2
    assert "tones-000001.tar" in results[1][1]
    errors = [
        json.loads(next((tmp_path / name / "errors").glob("*/features/error.json")).read_text())
        for name in ("local", "cluster")
    ]
    assert errors[0] == errors[1]


def test_a_missing_cluster_or_gpu_stops_at_once(world: Path, cluster: Any, tmp_path: Path) -> None:
    code, output = wait_for_end(
        stage(
            "features",
            tmp_path / "a",
            LIBRETTO_FANOUT="ray",
            LIBRETTO_RAY=cluster.address,
            LIBRETTO_GPUS="2",
        )
    )
    assert code == 2
    assert "LIBRETTO_GPUS" in output
    code, output = wait_for_end(
        stage("features", tmp_path / "b", LIBRETTO_FANOUT="ray", LIBRETTO_RAY="127.0.0.1:1")
    )
    assert code == 75
    assert "127.0.0.1:1" in output
