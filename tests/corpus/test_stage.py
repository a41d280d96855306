"""The stage: it trusts no scan blindly, counts what it refuses, and leaves a whole
folder or none.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import yaml

from components.config.catalogue import ROLES
from components.corpus.build import work as run
from components.corpus.manifest import read_manifest, read_rejects
from components.corpus.scan import write_scans
from components.runtime.artifact import RECORD, read_record
from components.runtime.hashing import folder_digests
from components.runtime.stage import Stage
from tests.conftest import REPOSITORY
from tests.corpus.clips import clip, put, write_librispeech
from tests.errors import refused

LIBRI = {"kind": "librispeech", "root": "libri", "subsets": ["test"]}
OTHER = {"kind": "librispeech", "root": "libri", "subsets": ["other"]}


@pytest.fixture
def house(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A workspace with a catalogue of one corpus that has two test sources."""
    root = tmp_path / "data root"
    write_librispeech(root, {"1-10-0000": "ONE", "1-10-0001": "TWO", "1-10-0002": None}, "test")
    write_librispeech(root, {"2-20-0000": "THREE"}, "other", seed=9)
    monkeypatch.setenv("LIBRETTO_ROOT_LIBRI", str(root))
    folder = tmp_path / "house"
    folder.mkdir()
    monkeypatch.chdir(folder)
    catalogue({"clean": LIBRI, "other": OTHER})
    return folder


def catalogue(test: dict) -> None:
    Path("catalogue").mkdir(exist_ok=True)
    entry = {role: test if role == "test" else {} for role in ROLES}
    Path("catalogue/corpus.yaml").write_text(yaml.safe_dump({"small": entry}, sort_keys=False))


def stage(role: str = "test") -> Stage:
    return Stage("corpus", SimpleNamespace(corpus="small"), role)  # type: ignore[arg-type]


def command(*arguments: str) -> subprocess.CompletedProcess:
    environment = {**os.environ, "PYTHONPATH": str(REPOSITORY)}
    return subprocess.run(
        [sys.executable, "-m", "components.corpus", *arguments],
        capture_output=True,
        text=True,
        env=environment,
    )


def test_a_scan_and_a_run_give_manifests_and_rejects(
    house: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    write_scans("small")
    run(stage())
    out = house / "data/corpus/test"
    assert [row.id for row in read_manifest(out / "clean")] == ["1-10-0000", "1-10-0001"]
    assert [row.id for row in read_rejects(out / "clean")] == ["1-10-0002"]
    assert [row.id for row in read_manifest(out / "other")] == ["2-20-0000"]
    assert read_rejects(out / "other") == []
    record = read_record(out)
    assert record["parameters"] == {"clean": LIBRI, "other": OTHER}
    scans = {
        name: json.loads((house / f"data/sources/small/test/{name}.json").read_text())
        for name in ("clean", "other")
    }
    assert record["inputs"] == {name: scan["digest"] for name, scan in scans.items()}
    assert "clean: 3 found, 2 kept, 1 rejected (1 missing transcript), 0.000 h" in caplog.text
    assert not [
        path for path in out.rglob("*") if path.is_file() and b"data root" in path.read_bytes()
    ]


def test_two_runs_give_the_same_bytes(
    house: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_scans("small")
    run(stage())
    first = folder_digests(house / "data")
    shutil.copytree(tmp_path / "data root", tmp_path / "moved")
    monkeypatch.setenv("LIBRETTO_ROOT_LIBRI", str(tmp_path / "moved"))
    monkeypatch.setenv("LIBRETTO_WORK", str(tmp_path / "other work"))
    write_scans("small")
    run(stage())
    assert folder_digests(house / "data") == first


def test_a_role_without_sources_gives_an_empty_folder_with_its_record(house: Path) -> None:
    write_scans("small")
    assert (house / "data/sources/small/noise/none.json").read_text() == "{}\n"
    run(stage("noise"))
    assert [path.name for path in (house / "data/corpus/noise").iterdir()] == [RECORD]


def test_a_source_that_is_removed_leaves_no_scan(house: Path) -> None:
    write_scans("small")
    catalogue({"other": OTHER})
    write_scans("small")
    assert [path.name for path in (house / "data/sources/small/test").iterdir()] == ["other.json"]


def test_new_data_changes_the_scan_of_its_source_only(house: Path, tmp_path: Path) -> None:
    write_scans("small")
    before = folder_digests(house / "data/sources")
    write_librispeech(tmp_path / "data root", {"2-20-0001": "FOUR"}, "other")
    write_scans("small")
    after = folder_digests(house / "data/sources")
    assert [path for path in after if after[path] != before[path]] == ["small/test/other.json"]


def test_a_stale_scan_stops_the_stage(house: Path, tmp_path: Path) -> None:
    with refused("clean", "clean.json", "components.corpus scan"):
        run(stage())
    write_scans("small")
    put(tmp_path / "data root/test/1/10/1-10-0007.flac", clip())
    (tmp_path / "data root/test/1/10/1-10-0001.flac").unlink()
    put(tmp_path / "data root/test/1/10/1-10-0002.flac", b"cut")
    changes = (
        "1 new (test/1/10/1-10-0007.flac)",
        "1 gone (test/1/10/1-10-0001.flac)",
        "1 of another size",
    )
    with refused("clean", *changes, "components.corpus scan"):
        run(stage())
    assert not (house / "data/corpus/test" / RECORD).exists()
    write_scans("small")
    run(stage())


def test_a_changed_transcript_stops_the_stage_too(house: Path, tmp_path: Path) -> None:
    write_scans("small")
    lines = tmp_path / "data root/test/1/10/1-10.trans.txt"
    lines.write_text(lines.read_text().replace("ONE", "OWN"))
    with refused("clean", "clean.json"):
        run(stage())


def test_a_source_of_which_nothing_is_accepted_stops_the_stage(house: Path, tmp_path: Path) -> None:
    put(tmp_path / "data root/other/2/20/2-20-0000.flac", b"broken")
    write_scans("small")
    with refused("other", "1 found", "2-20-0000.flac: unreadable"):
        run(stage())


def test_one_id_in_two_sources_stops_the_stage(house: Path) -> None:
    catalogue({"clean": LIBRI, "again": LIBRI})
    write_scans("small")
    with refused("1-10-0000", "'again'", "'clean'", "1-10-0000, 1-10-0001"):
        run(stage())


def test_a_name_that_is_no_file_name_stops(house: Path) -> None:
    catalogue({"../clean": LIBRI})
    with refused("../clean"):
        write_scans("small")


def test_a_failed_scan_leaves_the_old_one(house: Path, tmp_path: Path) -> None:
    write_scans("small")
    before = folder_digests(house / "data/sources")
    shutil.rmtree(tmp_path / "data root/other")
    with refused("other"):
        write_scans("small")
    assert folder_digests(house / "data/sources") == before


def test_the_command_ends_with_a_message_and_the_exit_code(house: Path) -> None:
    assert command("scan", "--corpus", "small").returncode == 0
    assert (house / "data/sources/small/test/clean.json").is_file()
    wrong = command("scan", "--corpus", "smal")
    assert wrong.returncode == 2
    assert wrong.stderr.startswith("corpus scan: ")
    assert "'smal'" in wrong.stderr and "'small'" in wrong.stderr
    assert "Traceback" not in wrong.stderr


def test_the_stage_runs_by_the_names_of_params_yaml(house: Path, tmp_path: Path) -> None:
    root = tmp_path / "data root"
    params = yaml.safe_load((REPOSITORY / "params.yaml").read_text())
    (house / "params.yaml").write_text(yaml.safe_dump({**params, "corpus": "small"}))
    for kind in ("encoder", "projector", "llm"):
        shutil.copy(REPOSITORY / "catalogue" / f"{kind}.yaml", house / "catalogue")
    write_scans("small")
    done = command("--corpus", "small", "--role", "test")
    assert done.returncode == 0, done.stderr
    assert "corpus@test: clean: 3 found, 2 kept" in done.stdout
    run_record = json.loads(next((house / "runs/corpus").glob("test-*.json")).read_text())
    assert run_record["clean"] == {
        "found": 3,
        "kept": 2,
        "repeated": 0,
        "rejected": {"missing transcript": 1},
        "hours": 0.0,
    }
    empty = put(root / "other/2/20/2-20-0000.flac", b"")
    write_scans("small")
    failed = command("--corpus", "small", "--role", "test")
    assert failed.returncode == 2
    assert failed.stderr.startswith("corpus: source 'other'")
    for part in (f"{empty.relative_to(root)}: empty", "role 'test' of corpus 'small'"):
        assert part in failed.stderr
    wrong = command("--corpus", "large", "--role", "test")
    assert wrong.returncode == 2
    assert "params.yaml" in wrong.stderr and "small" in wrong.stderr
