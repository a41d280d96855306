"""Full and read-only file systems end a stage with one line, and the same command goes on after."""

from __future__ import annotations

import errno
import json
import os
import resource
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pyarrow
import pytest
import soundfile
import torch
from pyarrow import parquet
from safetensors.torch import save_file
from tokenizers import Tokenizer, models

from components import clean
from components.runtime.file_systems import translate_os_errors
from components.runtime.stage import error_path
from libretto.commands import run_command
from tests.conftest import REPOSITORY
from tests.errors import refused
from tests.small_disk import mount_small_disk, remount

VALUES = np.random.default_rng(1).normal(0, 0.1, 200_000)
WRITERS: dict[str, Callable[[Path], object]] = {
    "python": lambda path: path.write_bytes(VALUES.tobytes()),
    "numpy": lambda path: np.save(path, VALUES),
    "soundfile": lambda path: soundfile.write(path, VALUES, 16_000, format="WAV"),
    "safetensors": lambda path: save_file({"a": torch.from_numpy(VALUES)}, path),
    "torch": lambda path: torch.save(torch.from_numpy(VALUES), path),
    "pyarrow": lambda path: parquet.write_table(pyarrow.table({"a": VALUES}), path),
    "tokenizers": lambda path: Tokenizer(
        models.WordLevel({f"{number:09}": number for number in range(30_000)}, "0")
    ).save(str(path)),
}
# A stage that writes a unit of the work cache, and then into the workspace.
STAGE = """
from pathlib import Path
from components.runtime.stage import run_stage
from components.runtime.unit_cache import cached_unit, link_files

def compute(folder):
    print("computed")
    (folder / "unit.bin").write_bytes(b"u" * 300_000)

def work(stage):
    unit = cached_unit("shards", {"a": 1}, compute, code="components.shards.index")
    out = Path("data")
    out.mkdir(exist_ok=True)
    (out / "copy.bin").write_bytes((unit / "unit.bin").read_bytes())

run_stage("shards", work)
"""


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    with mount_small_disk(tmp_path / "disk", 200) as folder:
        yield folder


@pytest.mark.parametrize("library", WRITERS)
def test_a_full_disk_is_named_whichever_library_writes(
    library: str, disk: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(disk)
    with refused(str(disk), "bytes are free"), translate_os_errors():
        WRITERS[library](disk / "file")
    (disk / "file").unlink(missing_ok=True)
    remount(disk, "size=20m")
    with translate_os_errors():
        WRITERS[library](disk / "file")


@pytest.mark.parametrize("library", [name for name in WRITERS if name != "soundfile"])
def test_a_read_only_disk_is_named(
    library: str, disk: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(disk)
    remount(disk, "ro")
    with refused(None, str(disk), "read-only"), translate_os_errors():
        WRITERS[library](disk / "file")


def test_a_limit_of_file_sizes_is_named(tmp_path: Path) -> None:
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    path = tmp_path / "file"
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, before[1]))
        with refused(None, "ulimit -f"), translate_os_errors():
            path.write_bytes(VALUES.tobytes())
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


@pytest.mark.parametrize(
    "number", [errno.EIO, errno.EDQUOT, errno.EACCES, errno.EPERM, errno.EMFILE, errno.ENOTDIR]
)
def test_errors_that_are_hard_to_bring_about_name_the_file(number: int, tmp_path: Path) -> None:
    path = tmp_path / "file"
    with refused(None, str(tmp_path) if number != errno.EDQUOT else ""), translate_os_errors():
        raise OSError(number, os.strerror(number), str(path))


def test_faults_of_the_program_stay_as_they_are() -> None:
    for fault in (
        KeyError("a"),
        FileNotFoundError(errno.ENOENT, "no"),
        RuntimeError("System error"),
    ):
        with pytest.raises(type(fault)), translate_os_errors():
            raise fault


def run_it(project: Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(project / "stage.py")]
    environment = {**os.environ, "PYTHONPATH": str(REPOSITORY)}
    return subprocess.run(command, cwd=project, env=environment, capture_output=True, text=True)


def fill(folder: Path) -> None:
    shutil.copytree(REPOSITORY / "catalogue", folder / "catalogue")
    shutil.copy(REPOSITORY / "params.yaml", folder)
    (folder / "stage.py").write_text(STAGE)


def test_a_full_work_cache_ends_the_stage_in_one_line_and_it_goes_on_after(
    disk: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LIBRETTO_WORK", str(disk))
    project = tmp_path / "project"
    fill(project)
    stopped = run_it(project)
    assert stopped.returncode == 2
    [line] = stopped.stderr.splitlines()
    assert str(disk) in line and line.startswith("shards: ")
    remount(disk, "size=20m")
    done = run_it(project)
    assert (done.returncode, done.stderr) == (0, "")


def test_a_full_workspace_ends_the_stage_in_one_line_and_finished_work_stays(
    work: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with mount_small_disk(tmp_path / "project", 700) as project:
        fill(project)
        (project / "ballast").write_bytes(b"0" * (shutil.disk_usage(project).free - 100_000))
        stopped = run_it(project)
        assert (stopped.returncode, stopped.stdout) == (2, "computed\n")
        [line] = stopped.stderr.splitlines()
        assert str(project) in line
        monkeypatch.chdir(project)
        assert json.loads(error_path("shards").read_text())["subject"] == str(project)
        (project / "ballast").unlink()
        done = run_it(project)
        assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_a_command_ends_in_one_line(
    work: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail(limit: int | None) -> None:
        raise OSError(errno.EIO, "Input/output error", str(work / "unit"))

    monkeypatch.setattr(clean, "trim", fail)
    for command in (lambda: run_command(["clean"]), lambda: clean.main([])):
        assert command() == 2
        [line] = capsys.readouterr().err.splitlines()
        assert str(work / "unit") in line
