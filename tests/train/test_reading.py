"""A training whose frames lie in a bucket: the weights of one whose frames lie here, also where the
bucket stumbles.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from components.config.errors import TransientError
from components.runtime.artifact import read_record
from components.shards.prefetch import tar_prefetcher
from tests import world as tones
from tests.bucket import KEY, SECRET, Bucket
from tests.conftest import REPOSITORY
from tests.train.test_train import trained

pytestmark = pytest.mark.slow


@pytest.mark.parametrize("fault", ["", "503", "cut", "wrong"])
def test_weights_from_a_bucket_are_those_from_the_disk(
    fault: str, world: Path, bucket: Bucket, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    local = trained()
    frames = {role: read_record(Path("data/features") / role)["outputs"] for role in tones.LAYOUT}
    tones.change("params.yaml", {"features.remote": True})
    monkeypatch.setenv("LIBRETTO_STORE", f"s3://recordings/frames-{fault}")
    monkeypatch.setenv("LIBRETTO_WORK", str(tmp_path / "other work"))
    tones.run_features()
    assert {
        role: read_record(Path("data/features") / role)["outputs"] for role in tones.LAYOUT
    } == frames
    assert not list(Path("data/features").rglob("*.tar"))
    tar_prefetcher.cache_clear()
    bucket.first(fault, 1, ".tar")
    bucket.requests.clear()
    assert trained() == local
    of_training = {record.split("/")[1] for record in frames["train"] if record.endswith(".tar")}
    tar_reads = [
        count
        for (method, path), count in bucket.requests.items()
        if method == "GET" and path.endswith(".tar")
    ]
    assert len(tar_reads) >= len(of_training)
    assert fault or set(tar_reads) == {1}, "each tar came once"


def test_two_workers_write_and_two_ranks_read_one_bucket(
    world: Path, bucket: Bucket, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    local = trained()
    frames = {role: read_record(Path("data/features") / role)["outputs"] for role in tones.LAYOUT}
    tones.change("params.yaml", {"features.remote": True})
    for name, value in (
        ("STORE", "s3://recordings/two"),
        ("WORK", str(tmp_path / "other work")),
        ("WORKERS", "2"),
    ):
        monkeypatch.setenv(f"LIBRETTO_{name}", value)
    tones.run_features()
    assert {
        role: read_record(Path("data/features") / role)["outputs"] for role in tones.LAYOUT
    } == frames
    tar_prefetcher.cache_clear()
    bucket.requests.clear()
    assert trained() == local
    of_training = {record for record in frames["train"] if record.endswith(".tar")}
    read = {
        path: count
        for (method, path), count in bucket.requests.items()
        if method == "GET" and path.endswith(".tar")
    }
    assert sum(read.values()) >= 2 * len(of_training), "each rank reads for itself"


def test_a_bucket_that_stays_away_ends_the_training_so_that_it_is_tried_again(
    world: Path, bucket: Bucket, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tones.change("params.yaml", {"features.remote": True})
    monkeypatch.setenv("LIBRETTO_STORE", "s3://recordings/away")
    monkeypatch.setenv("LIBRETTO_WORK", str(tmp_path / "other work"))
    tones.run_features()
    tar_prefetcher.cache_clear()
    bucket.always("500", ".tar")
    with pytest.raises(TransientError, match="4 tries"):
        tones.run("train")
    tar_prefetcher.cache_clear()
    bucket.fault = lambda method, path: ""
    tones.run("train")


def test_an_error_has_a_hint_and_no_secret(world: Path, bucket: Bucket, tmp_path: Path) -> None:
    tones.change("params.yaml", {"features.remote": True})
    bucket.fault = lambda method, path: "expired"
    environment = {
        **os.environ,
        "LIBRETTO_STORE": "s3://recordings/refused",
        "LIBRETTO_WORK": str(tmp_path / "other work"),
        "PYTHONPATH": str(REPOSITORY),
    }
    command = [sys.executable, "-m", "components.features", "--encoder", "tiny", "--role", "train"]
    done = subprocess.run(
        command, env=environment, capture_output=True, text=True, timeout=180, check=False
    )
    assert done.returncode == 2
    assert "Renew the keys or the token" in done.stderr
    written = {str(path): path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    assert [name for name in written if name.endswith("error.json")]
    outputs = {**written, "output": (done.stdout + done.stderr).encode()}
    assert not [
        name for name, data in outputs.items() if KEY.encode() in data or SECRET.encode() in data
    ]
