"""The flow over recordings: the results of the command, its progress and its end in the server; it
continues after it was killed.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pyarrow.parquet as pq
import pytest
import soundfile
from prefect.client.orchestration import get_client

from components.audio.sound import RATE
from components.config.errors import InputError
from flows.transcribe_batch import transcribe_batch
from tests import world as tones
from tests.conftest import REPOSITORY
from tests.transcribe.test_transcriber import save_bridge

from .conftest import processes

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("prefect_home")]


@pytest.fixture
def talks(world: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("PYTHONPATH", str(REPOSITORY))
    save_bridge()
    folder = tmp_path / "talks"
    folder.mkdir()
    for number in range(30):
        soundfile.write(
            folder / f"{number:02d}.flac", tones.tone("amber birch cedar amber birch", number), RATE
        )
    return folder


def texts(out: Path) -> dict[str, str]:
    return {
        row["file"]: row["text"]
        for path in out.glob("part-*.parquet")
        for row in pq.read_table(path).to_pylist()
    }


def test_a_killed_flow_leaves_no_process_and_continues_where_it_stopped(
    talks: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    command = [
        sys.executable,
        "-m",
        "flows.transcribe_batch",
        str(talks),
        str(out),
        "--set",
        "greedy",
        "--shard",
        "2",
    ]
    environment = {**os.environ, "PREFECT_HOME": str(tmp_path / "home")}
    flow = subprocess.Popen(
        command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    end = time.monotonic() + 180
    while not list(out.glob("part-*.parquet")):
        assert flow.poll() is None and time.monotonic() < end
        time.sleep(0.05)
    flow.send_signal(signal.SIGKILL)
    flow.wait()
    while processes("components.transcribe", str(tmp_path)):
        assert time.monotonic() < end, "the command outlived its flow"
        time.sleep(0.1)
    for process_id in processes("prefect", str(tmp_path / "home")):
        os.kill(process_id, signal.SIGKILL)  # the server that Prefect had started for the run
    times = {path.name: path.stat().st_mtime_ns for path in out.glob("part-*.parquet")}
    assert len(times) < 15

    state = transcribe_batch(str(talks), str(out), constraints="greedy", shard=2, return_state=True)
    assert state.is_completed()
    assert len(texts(out)) == 30
    assert {name: (out / name).stat().st_mtime_ns for name in times} == times
    with get_client(sync_client=True) as client:
        data = {artifact.key: artifact.data for artifact in client.read_artifacts()}
    assert (
        "30 recordings, 30 with a transcript, 0 without"
        in json.loads(data["transcribed"])[0]["result"]
    )


def test_a_wrong_parameter_fails_the_flow_with_the_error_of_the_command(
    talks: Path, tmp_path: Path
) -> None:
    with pytest.raises(InputError, match=r"'gredy'.*'greedy'"):
        transcribe_batch(str(talks), str(tmp_path / "out"), constraints="gredy")
    assert not (tmp_path / "out").exists(), "nothing was started"
