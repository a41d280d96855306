"""The work cache: a unit is computed once for its key, by one process at a time, and is complete or
missing.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from components.config.errors import InputError
from components.runtime import unit_cache as cache
from components.runtime.code_digest import code_digest
from components.runtime.pins import release_pins
from components.runtime.unit_cache import cached_unit, finished_unit, link_files, trim, unit_digests
from tests.conftest import REPOSITORY

KEY = {"version": 1, "name": "some unit"}
CODE = "components.runtime.unit_cache"  # the module whose code computes these units
# Computes the unit of KEY in a process of its own: writes files that show its progress into the
# folder of its argument, and waits for "go".
SCRIPT = """
import sys, time
from pathlib import Path
from components.runtime.code_digest import code_digest
from components.runtime.unit_cache import cached_unit

signs = Path(sys.argv[1])

def compute(folder):
    (folder / "half.txt").write_text("half")
    (folder / "resume").mkdir(exist_ok=True)
    (folder / "resume" / "step-3").write_text("three steps")
    with (signs / "computed").open("a") as stream:
        stream.write("once\\n")
    while not (signs / "go").exists():
        time.sleep(0.02)
    (folder / "whole.txt").write_text("whole")

(signs / f"started-{sys.argv[2]}").touch()
key = {"version": 1, "name": "some unit"}
print(cached_unit("stage", key, compute, code="components.runtime.unit_cache"))
"""


@pytest.fixture(autouse=True)
def _empty(work: Path) -> None:
    """Each test has a work cache of its own."""


class UnitWriter:
    """Fills a unit, and counts its calls."""

    def __init__(self, text: str = "sound") -> None:
        self.text, self.num_calls = text, 0

    def __call__(self, folder: Path) -> None:
        self.num_calls += 1
        (folder / "a.txt").write_text(self.text)
        (folder / "deep").mkdir()
        (folder / "deep" / "b.txt").write_text(self.text * 2)


@pytest.fixture
def start(tmp_path: Path) -> Iterator:
    """Starts SCRIPT, which is killed at the end of the test if it still runs."""
    processes: list[subprocess.Popen] = []

    def started(name: str) -> subprocess.Popen:
        command = [sys.executable, "-c", SCRIPT, str(tmp_path), name]
        processes.append(
            subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=REPOSITORY)
        )
        return processes[-1]

    yield started
    for process in processes:
        process.kill()
        process.communicate()


def wait_for(path: Path) -> None:
    for _ in range(1500):
        if path.exists():
            return
        time.sleep(0.02)
    raise AssertionError(f"{path} was not written")


def test_a_unit_is_made_once_for_its_key() -> None:
    writer = UnitWriter()
    unit = cached_unit("stage", KEY, writer, code=CODE)
    assert (
        cached_unit("stage", dict(reversed(KEY.items())), writer, code=CODE)
        == unit
        == finished_unit("stage", KEY, CODE)
    )
    assert writer.num_calls == 1
    assert (unit / "deep" / "b.txt").read_text() == "soundsound"
    units = [
        cached_unit("other", KEY, writer, code=CODE),
        cached_unit("stage", {**KEY, "version": 2}, writer, code=CODE),
    ]
    assert len({unit, *units}) == 3
    assert writer.num_calls == 3


def test_a_writer_that_fails_leaves_nothing_finished() -> None:
    def fail(folder: Path) -> None:
        (folder / "a.txt").write_text("half")
        raise RuntimeError("no more")

    with pytest.raises(RuntimeError, match="no more"):
        cached_unit("stage", KEY, fail, code=CODE)
    assert finished_unit("stage", KEY, CODE) is None
    assert (
        cached_unit("stage", KEY, UnitWriter("whole"), code=CODE) / "a.txt"
    ).read_text() == "whole"


def test_a_second_process_waits_for_the_first(start, tmp_path: Path) -> None:
    first = start("first")
    wait_for(tmp_path / "computed")
    second = start("second")
    wait_for(tmp_path / "started-second")
    time.sleep(0.3)
    assert second.poll() is None
    (tmp_path / "go").touch()
    outputs = [process.communicate(timeout=60)[0] for process in (first, second)]
    assert outputs[0] == outputs[1] == f"{finished_unit('stage', KEY, CODE)}\n"
    assert (tmp_path / "computed").read_text() == "once\n"


def test_a_killed_writer_leaves_nothing_finished_but_what_it_can_resume(
    start, tmp_path: Path
) -> None:
    process = start("first")
    wait_for(tmp_path / "computed")
    process.send_signal(signal.SIGKILL)
    process.communicate(timeout=60)
    assert finished_unit("stage", KEY, CODE) is None
    files = []

    def resume(folder: Path) -> None:
        files.extend(
            path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()
        )
        (folder / "whole.txt").write_text("whole")

    unit = cached_unit("stage", KEY, resume, code=CODE)
    assert files == ["resume/step-3"]
    assert sorted(unit_digests(unit)) == ["whole.txt"]
    assert not list(unit.rglob("resume*"))


def shorten(unit: Path) -> None:
    os.truncate(unit / "deep" / "b.txt", 3)


def remove(unit: Path) -> None:
    (unit / "a.txt").unlink()


def remove_record(unit: Path) -> None:
    (unit / cache.UNIT).unlink()


def shorten_record(unit: Path) -> None:
    os.truncate(unit / cache.UNIT, 20)


@pytest.mark.parametrize("damage", [shorten, remove, remove_record, shorten_record])
def test_a_damaged_unit_is_computed_again(damage) -> None:
    """A removal that was killed in the middle damages it so."""
    writer = UnitWriter()
    unit = cached_unit("stage", KEY, writer, code=CODE)
    damage(unit)
    assert cached_unit("stage", KEY, writer, code=CODE) == unit
    assert writer.num_calls == 2
    assert (unit / "a.txt").read_text() + (unit / "deep/b.txt").read_text() == "soundsoundsound"


def test_a_linked_unit_is_read_only(tmp_path: Path) -> None:
    unit = cached_unit("stage", KEY, UnitWriter(), code=CODE)
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "a.txt").write_text("older")
    link_files(unit, tmp_path / "out")
    files = {
        path.relative_to(tmp_path / "out").as_posix(): path.stat()
        for path in (tmp_path / "out").rglob("*")
        if path.is_file()
    }
    assert files.keys() == unit_digests(unit).keys() == {"a.txt", "deep/b.txt"}
    for name, status in files.items():
        assert status.st_ino == (unit / name).stat().st_ino
        assert not status.st_mode & 0o222, "an edit in place would change the cache"


def test_a_unit_is_copied_where_links_are_not_possible(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*paths: Path) -> None:
        raise OSError("Invalid cross-device link")

    unit = cached_unit("stage", KEY, UnitWriter(), code=CODE)
    monkeypatch.setattr(os, "link", refuse)
    link_files(unit, tmp_path / "out")
    assert (tmp_path / "out/deep/b.txt").read_text() == "soundsound"
    assert (tmp_path / "out/a.txt").stat().st_ino != (unit / "a.txt").stat().st_ino
    assert not (tmp_path / "out/a.txt").stat().st_mode & 0o222


def aged(number: int, hours: float, size: int = 1000) -> Path:
    """A unit of about ``size`` bytes, last used so many hours ago by a process that has ended."""
    unit = cached_unit(
        "stage",
        {"number": number},
        lambda folder: (folder / "data").write_bytes(bytes(size)),
        code=CODE,
    )
    release_pins()
    age(unit, hours)
    return unit


def age(unit: Path, hours: float) -> None:
    then = time.time() - 3600 * hours
    for path in (*unit.rglob("*"), unit):
        os.utime(path, (then, then))


def test_a_full_cache_drops_the_least_recently_used_unit() -> None:
    units = [aged(number, hours) for number, hours in enumerate((5, 9, 3))]
    size = sum(path.stat().st_size for path in units[0].iterdir())
    assert trim(3 * size) == (0, 3 * size)
    assert trim(2 * size) == (1, 2 * size)
    assert [unit.exists() for unit in units] == [True, False, True]
    assert trim(size) == (1, size)
    assert [unit.exists() for unit in units] == [False, False, True]


def test_a_recently_used_unit_stays() -> None:
    """A stage may be reading it, however low the limit is."""
    old, used, new = aged(0, 9), aged(1, 9), aged(2, 0)
    assert finished_unit("stage", {"number": 1}, CODE) == used
    assert trim(0)[0] == 1
    assert [unit.exists() for unit in (old, used, new)] == [False, True, True]


def test_a_unit_that_is_being_computed_stays_however_long_it_takes() -> None:
    """A training of hours has its folder since the start, and a recent checkpoint in it."""

    def compute(folder: Path) -> None:
        (folder / "resume").mkdir()
        long_ago = time.time() - 3600 * 9
        os.utime(folder, (long_ago, long_ago))
        (folder / "resume" / "checkpoint").write_text("step 900")
        assert trim(0)[0] == 0
        assert (folder / "resume" / "checkpoint").exists()

    cached_unit("stage", KEY, compute, code=CODE)


# Takes the unit of number 0, in a process of its own that ends, as a worker of this one does; then
# waits.
TAKER = """
import subprocess, sys
from components.runtime.pins import share_pins

TAKE = (
    "from components.runtime.unit_cache import cached_unit;"
    "cached_unit('stage', {'number': 0}, None, code='components.runtime.unit_cache')"
)
share_pins()
subprocess.run([sys.executable, "-c", TAKE], check=True)
print("taken", flush=True)
sys.stdin.read()
"""


@pytest.mark.parametrize("is_killed", [False, True])
def test_a_unit_that_a_stage_uses_stays_until_the_stage_ends(is_killed: bool, work: Path) -> None:
    """However long ago it took it, and whatever the limit is."""
    used, unused = aged(0, 9), aged(1, 9)
    with subprocess.Popen(
        [sys.executable, "-c", TAKER],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        cwd=REPOSITORY,
    ) as stage:
        assert stage.stdout is not None
        assert stage.stdout.readline() == "taken\n"
        age(used, 9)
        assert trim(0)[0] == 1
        assert (used.exists(), unused.exists()) == (True, False)
        if is_killed:
            stage.kill()
        stage.communicate()
    assert trim(0) == (1, 0)
    assert not used.exists()
    files = [path.relative_to(work) for path in work.rglob("*") if path.is_file()]
    assert {path.parts[0] for path in files} == {"code"}, "no lock, no pin piles up"


def test_what_a_killed_writer_left_goes_last_and_after_a_week(
    start, tmp_path: Path, work: Path
) -> None:
    """A training that somebody may want to go on with; its checkpoints may be hours apart."""
    process = start("first")
    wait_for(tmp_path / "computed")
    [partial] = work.glob("*/??/*.partial")
    aged(0, 9)
    age(partial, 24 * 30)
    assert trim(0)[0] == 1
    assert (partial / "resume/step-3").exists(), "its writer still runs"
    process.kill()
    process.wait()
    age(partial, 24 * 6)
    finished = aged(0, 9)
    assert trim(0)[0] == 1
    assert (partial.exists(), finished.exists()) == (True, False)
    age(partial, 24 * 8)
    finished = aged(0, 9)
    assert trim(partial_size := size_of(partial))[0] == 1, "the finished unit goes first"
    assert (partial.exists(), finished.exists()) == (True, False)
    assert trim(partial_size - 1) == (1, 0)
    assert not partial.exists()


def size_of(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def test_the_limit_is_the_one_of_the_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    unit = aged(0, 9)
    monkeypatch.setenv("LIBRETTO_WORK_GB", "1")
    assert trim()[0] == 0
    monkeypatch.setenv("LIBRETTO_WORK_GB", "0.0000001")
    assert trim() == (1, 0)
    assert not unit.exists()


def test_the_command_cleans(work: Path) -> None:
    def clean(*arguments: str) -> str:
        command = [sys.executable, "-m", "components.clean", *arguments]
        return subprocess.run(
            command, capture_output=True, text=True, check=True, cwd=REPOSITORY
        ).stdout

    unit = aged(0, 9)
    assert clean() == f"{work}: 0 units dropped, 0.00 GB left\n"
    assert unit.exists()
    assert clean("--limit-gb", "0") == f"{work}: 1 units dropped, 0.00 GB left\n"
    assert not unit.exists()
    aged(0, 0)
    lines = clean("--limit-gb", "0").splitlines()
    assert lines[0].startswith(f"{work}: 0 units dropped") and len(lines) == 2, "why it stays"


def test_the_record_of_a_unit_has_its_key() -> None:
    record = json.loads(
        (cached_unit("stage", KEY, UnitWriter(), code=CODE) / cache.UNIT).read_text()
    )
    assert {name: record["key"][name] for name in KEY} == KEY
    assert record["key"]["code"] == code_digest(CODE)._asdict()
    assert {name: size for name, (size, _) in record["files"].items()} == {
        "a.txt": 5,
        "deep/b.txt": 10,
    }


def test_a_disk_that_becomes_full_names_the_stage(work: Path) -> None:
    def compute(folder: Path) -> None:
        (folder / "first").write_text("for the next try")
        with open("/dev/full", "w") as full:
            full.write("x")

    with pytest.raises(InputError, match=r"^shards: ") as stopped:
        cached_unit("shards", {"a": 1}, compute, code=CODE)
    assert stopped.value.hint
    assert cached_unit("shards", {"a": 1}, lambda folder: None, code=CODE).is_dir()


OTHER_PROCESS = """
import pathlib, shutil, sys
partial = pathlib.Path(sys.argv[1]) / "decode" / "dd" / "other.partial"
while True:
    (partial / "deep").mkdir(parents=True, exist_ok=True)
    for number in range(5):
        (partial / "deep" / str(number)).write_text("x")
    partial.rename(partial.with_suffix(""))
    shutil.rmtree(partial.with_suffix(""))
"""


def test_a_trim_ignores_units_that_other_processes_finish_or_drop(work: Path) -> None:
    """A stage trims at its end, while stages of other runs use the same cache."""
    with subprocess.Popen([sys.executable, "-c", OTHER_PROCESS, str(work)]) as process:
        try:
            while not work.exists():
                time.sleep(0.01)
            for _ in range(2000):
                trim()
        finally:
            process.kill()
