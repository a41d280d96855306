"""A folder or bucket of recordings to parquet: each recording is one row of one part, also after a
kill or with new recordings.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
import soundfile

from components.audio.sound import RATE
from components.config.errors import TransientError
from components.transcribe import Transcriber, batch
from components.transcribe.__main__ import main
from components.transcribe.parts import LISTING
from components.transcribe.setup import model_keys
from tests import world as tones
from tests.bucket import Bucket
from tests.conftest import REPOSITORY
from tests.errors import refused
from tests.transcribe.test_transcriber import save_bridge

COUNT = 7


@pytest.fixture
def folder(world: Path, tmp_path: Path) -> Path:
    """A model, and recordings at some depth, the last one broken."""
    save_bridge()
    where = tmp_path / "talks"
    for number in range(COUNT):
        put(where, number)
    (where / "f" / "6.flac").write_bytes((where / "f" / "6.flac").read_bytes()[:700])
    (where / "notes.txt").write_text("not a recording")
    return where


def put(where: Path, number: int, words: str = "amber birch cedar") -> None:
    path = (
        where / "abcdefghij"[number % 10 - number % 2] / f"{number}.flac"
        if number < 6
        else where / "f" / f"{number}.flac"
    )
    path.parent.mkdir(parents=True, exist_ok=True)
    soundfile.write(path, tones.tone(words, number), RATE)


def rows(out: Path) -> list[dict[str, Any]]:
    return [
        row
        for path in sorted(out.glob("part-*.parquet"))
        for row in pq.read_table(path).to_pylist()
    ]


def data(out: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(out.iterdir())}


def run(folder: Path | str, out: Path | str, *more: str) -> int:
    return main(["batch", str(folder), str(out), "--set", "greedy", "--shard", "3", *more])


def test_every_recording_is_one_row(
    folder: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    out = tmp_path / "out"
    assert run(folder, out) == 1
    written = rows(out)
    assert len(list(out.glob("part-*"))) == 3
    names = sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*.flac"))
    assert [row["file"] for row in written] == names
    transcriber = Transcriber.load(constraints="greedy")
    assert [row["text"] for row in written[:-1]] == [
        transcriber(folder / name).text for name in names[:-1]
    ]
    assert "truncated" in written[-1]["failure"] or "unreadable" in written[-1]["failure"]
    assert written[0]["segments"][0]["words"], "with times"
    assert (
        f"{COUNT} recordings, {COUNT - 1} with a transcript, 1 without" in capsys.readouterr().out
    )

    before = data(out)
    assert run(folder, out) == 1
    assert data(out) == before, "nothing is done twice"
    other = tmp_path / "other"
    monkeypatch.setenv("LIBRETTO_WORKERS", "2")
    assert run(folder, other) == 1
    assert data(other) == before, "whatever the number of workers"


def test_new_recordings_are_new_parts_and_changed_ones_are_reported(
    folder: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    out = tmp_path / "out"
    run(folder, out)
    before = data(out)
    put(folder, 8)
    run(folder, out)
    assert {
        name: content for name, content in data(out).items() if name in before and name != LISTING
    } == {name: content for name, content in before.items() if name != LISTING}
    assert [row["file"] for row in pq.read_table(out / "part-000003.parquet").to_pylist()] == [
        "f/8.flac"
    ]

    put(folder, 6, "amber")  # mended
    caplog.clear()
    assert run(folder, out) == 1
    [warning] = [record.getMessage() for record in caplog.records if record.levelname == "WARNING"]
    assert "1 shards" in warning and "--again" in warning
    assert run(folder, out, "--again") == 0
    assert len(rows(out)) == COUNT + 1
    assert {row["failure"] for row in rows(out)} == {None}


def test_a_name_that_parquet_cannot_store_is_left_out_and_named(
    folder: Path, tmp_path: Path
) -> None:
    shutil.copy(folder / "a/0.flac", os.fsencode(folder) + b"/caf\xe9.flac")
    num_others = len(batch.list_files(folder)[0])
    summary = batch.run(str(folder), str(tmp_path / "out"))
    assert list(summary.left_out) == [f"{folder}/caf\\xe9.flac"]
    assert summary.num_recordings == num_others > 0


def test_another_model_set_or_run_is_refused(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "out"
    run(folder, out)
    with refused(str(out), "set"):
        batch.run(str(folder), str(out), constraints="ctc")
    tones.change("params.yaml", {"decode.batch_seconds": 2})
    with refused(str(out), "model"):
        batch.run(str(folder), str(out), constraints="greedy")
    with batch._locked(out), refused(str(out), error=TransientError):
        batch.run(str(folder), str(out))
    with refused(str(out)):
        batch.run(str(out), str(tmp_path / "new"))
    (out / "part-000000.parquet").write_bytes((out / "part-000001.parquet").read_bytes())
    tones.change("params.yaml", {"decode.batch_seconds": 3})
    with refused(str(out), LISTING):
        batch.run(str(folder), str(out), constraints="greedy")


def test_a_batch_of_an_earlier_version_is_continued(folder: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    run(folder, out)
    settings = json.loads((out / batch.BATCH).read_text())
    key, older_key = model_keys(None)
    assert settings["model"] == key
    (out / batch.BATCH).write_text(json.dumps({**settings, "model": older_key}))
    before = data(out)
    assert run(folder, out) == 1
    assert data(out) == before
    with refused(str(out), "set"):
        batch.run(str(folder), str(out), constraints="ctc")


@pytest.mark.slow
def test_a_killed_run_is_continued(folder: Path, tmp_path: Path) -> None:
    for number in range(10, 40):
        put(folder, number, "amber birch cedar amber birch")
    out, uninterrupted = tmp_path / "out", tmp_path / "whole"
    command = [
        sys.executable,
        "-m",
        "components.transcribe",
        "batch",
        str(folder),
        str(out),
        "--set",
        "greedy",
        "--shard",
        "3",
    ]
    environment = {**os.environ, "PYTHONPATH": str(REPOSITORY), "LIBRETTO_WORKERS": "2"}
    process = subprocess.Popen(
        command, env=environment, stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL
    )
    end = time.monotonic() + 120
    while len(list(out.glob("part-*.parquet"))) < 2:
        assert process.poll() is None and time.monotonic() < end
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.wait()
    times = {path.name: path.stat().st_mtime_ns for path in out.glob("part-*.parquet")}
    assert 2 <= len(times) < 12
    assert run(folder, out) == 1
    assert {name: (out / name).stat().st_mtime_ns for name in times} == times, "what was done stays"
    assert run(folder, uninterrupted) == 1
    assert data(out) == data(uninterrupted)


@pytest.mark.slow
def test_a_bucket_has_the_parts_of_a_folder(folder: Path, tmp_path: Path, bucket: Bucket) -> None:
    local = tmp_path / "here"
    run(folder, local)
    bucket.fill(folder, "talks")
    bucket.first("503", 1)
    assert run("s3://recordings/talks", "s3://recordings/texts/all") == 1
    stored = {
        Path(name).name: bucket.client.get_object(Bucket="recordings", Key=name)["Body"].read()
        for name in bucket.names()
        if name.startswith("texts/all/")
    }
    assert stored == data(local)
    bucket.requests.clear()
    shutil.rmtree(tmp_path / "talks")
    assert run("s3://recordings/talks", "s3://recordings/texts/all") == 1
    assert [path for method, path in bucket.requests if method == "PUT" and "part-" in path] == []
