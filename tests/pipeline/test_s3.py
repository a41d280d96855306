"""A DVC remote on S3: another clone pulls what was pushed, and ``status -c`` compares cache and
remote.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.bucket import Bucket

pytestmark = pytest.mark.slow
STAGES = """
stages:
  shards: {cmd: mkdir -p data && echo tars > data/tars, outs: [data]}
  train: {cmd: cp data/tars bridge, deps: [data/tars], outs: [bridge]}
"""


def run(folder: Path, *command: str) -> str:
    done = subprocess.run(
        command, cwd=folder, capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def dvc(folder: Path, *arguments: str) -> str:
    return run(folder, sys.executable, "-m", "dvc", *arguments)


def test_another_clone_pulls_what_was_pushed(
    bucket: Bucket, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    names = {
        "DVC_GLOBAL_CONFIG_DIR": "dvc",
        "DVC_SYSTEM_CONFIG_DIR": "dvc",
        "DVC_SITE_CACHE_DIR": "site",
    }
    for name, value in {
        **{key: str(tmp_path / folder) for key, folder in names.items()},
        "GIT_CONFIG_GLOBAL": os.devnull,
        "GIT_AUTHOR_NAME": "a",
        "GIT_AUTHOR_EMAIL": "a@b",
        "GIT_COMMITTER_NAME": "a",
        "GIT_COMMITTER_EMAIL": "a@b",
        "DVC_NO_ANALYTICS": "1",
    }.items():
        monkeypatch.setenv(name, value)
    first, second = tmp_path / "first", tmp_path / "second"
    first.mkdir()
    (first / "dvc.yaml").write_text(STAGES)
    run(first, "git", "init", "-q")
    dvc(first, "init", "-q")
    dvc(first, "remote", "add", "--default", "results", "s3://recordings/libretto")
    dvc(first, "remote", "modify", "results", "endpointurl", bucket.url)
    dvc(first, "repro", "-q")
    run(first, "git", "add", "-A")
    run(first, "git", "commit", "-qm", "a run")
    assert "new:" in dvc(first, "status", "-c"), "not pushed yet"
    dvc(first, "push", "-q")
    assert "in sync" in dvc(first, "status", "-c")

    run(tmp_path, "git", "clone", "-q", str(first), str(second))
    bucket.first("503", 1)
    dvc(second, "pull", "-q")
    assert (second / "bridge").read_text() == (second / "data/tars").read_text() == "tars\n"
    assert "up to date" in dvc(second, "status")

    for path in (tmp_path / "second").rglob("*"):
        assert not (path.is_file() and b"planted-secret" in path.read_bytes()), path
