"""What is found is kept or rejected with its reason, and nothing is looked at twice."""

from __future__ import annotations

import hashlib
import os
import re
import tempfile
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from components.corpus import inspection, manifest
from components.corpus.files import list_sizes_below, read_lines
from components.corpus.listing import (
    AcceptanceRules,
    ListedRecording,
    check_recordings,
)
from tests.corpus.clips import BROKEN, clip, put
from tests.errors import refused

STRICT = AcceptanceRules("train", rate=16_000, needs_mono=True)


def entry(path: str, text: str | None = "WORDS") -> ListedRecording:
    return ListedRecording(Path(path).stem, path, text, "1", "en")


def outcome(root: Path, entries: list[ListedRecording], rules: AcceptanceRules = STRICT):
    existing = [path.relative_to(root).as_posix() for path in root.rglob("*") if path.is_file()]
    return check_recordings("tried", root, entries, existing, rules)


def test_files_are_listed_at_any_depth_by_their_path_below_the_root(tmp_path: Path) -> None:
    for path, size in {
        "r/s/z.wav": 3,
        "r/s/a/b/deep.wav": 1,
        "r/s/a/notes.txt": 4,
        "r/other/no.wav": 5,
        "far/linked.wav": 2,
    }.items():
        put(tmp_path / path, b"x" * size)
    (tmp_path / "r/s/link").symlink_to(tmp_path / "far")
    sizes = list_sizes_below(tmp_path / "r", "s", lambda path: path.endswith(".wav"))
    assert list(sizes.items()) == [("s/a/b/deep.wav", 1), ("s/link/linked.wav", 2), ("s/z.wav", 3)]
    assert list_sizes_below(tmp_path / "r", "nothing here", lambda path: True) == {}


def test_a_transcript_that_is_not_utf_8_stops_with_its_path(tmp_path: Path) -> None:
    put(tmp_path / "a/b.txt", "dzień\n \n\ndobry".encode())
    assert list(read_lines(tmp_path, "a/b.txt")) == ["dzień", "dobry"]
    put(tmp_path / "a/b.txt", "dzień".encode("iso-8859-2"))
    with refused("a/b.txt", "UTF-8"):
        list(read_lines(tmp_path, "a/b.txt"))


@pytest.mark.parametrize("fault", BROKEN)
def test_a_broken_file_is_rejected_with_its_reason(fault: str, tmp_path: Path) -> None:
    suffix, data, reason = BROKEN[fault]
    put(tmp_path / "d" / f"bad{suffix}", data)
    put(tmp_path / "d" / "good.flac", clip())
    accepted, rejected = outcome(tmp_path / "d", [entry(f"bad{suffix}"), entry("good.flac")])
    assert [row.id for row in accepted] == ["good"]
    assert [row.id for row in rejected] == ["bad"]
    assert re.match(f"({reason}): .", rejected[0].reason), rejected[0].reason
    assert str(tmp_path) not in rejected[0].reason


def test_a_file_cut_at_any_position_is_never_accepted(tmp_path: Path) -> None:
    entries = []
    for form in ("WAV", "FLAC"):
        data = clip(form=form)
        for share in (0.1, 0.3, 0.5, 0.7, 0.9, 0.99):
            name = f"{form}-{int(share * 100)}.{form.lower()}"
            put(tmp_path / "d" / name, data[: int(len(data) * share)])
            entries.append(entry(name))
    accepted, rejected = outcome(tmp_path / "d", entries)
    assert not accepted
    assert len(rejected) == len(entries)


def test_a_accepted_row_describes_the_file(tmp_path: Path) -> None:
    put(tmp_path / "d" / "a" / "one.flac", clip())
    accepted, _ = outcome(tmp_path / "d", [entry("a/one.flac", "  TWO WORDS ")])
    row = accepted[0]
    assert (row.path, row.sample_rate, row.samples, row.text, row.split) == (
        "a/one.flac",
        16_000,
        4_800,
        "TWO WORDS",
        "train",
    )
    assert row.sha256 == hashlib.sha256(clip()).hexdigest()


@pytest.mark.parametrize("role", ["nonspeech-train", "nonspeech-test", "noise"])
def test_silence_and_a_missing_text_are_accepted_without_speech(role: str, tmp_path: Path) -> None:
    put(tmp_path / "d" / "quiet.flac", clip(level=0.0))
    accepted, rejected = outcome(tmp_path / "d", [entry("quiet.flac", None)], AcceptanceRules(role))
    assert [row.text for row in accepted] == [""]
    assert not rejected


def test_a_fault_of_the_listing_is_rejected(tmp_path: Path) -> None:
    for name in ("a/one.flac", "b/one.flac", "c/two.flac", "d/three.flac", "e/four.flac"):
        put(tmp_path / "r" / name, clip())
    entries = [
        entry("a/one.flac"),
        entry("b/one.flac"),
        entry("c/two.flac"),
        entry("c/two.flac", "OTHER WORDS"),
        entry("d/three.flac", None),
        entry("e/four.flac", "  "),
        entry("gone.flac"),
    ]
    accepted, rejected = outcome(tmp_path / "r", entries)
    assert [row.path for row in accepted] == ["a/one.flac"]
    reasons = sorted((row.path, row.reason.partition(":")[0]) for row in rejected)
    assert reasons == [
        ("b/one.flac", "duplicate id"),
        ("c/two.flac", "duplicate transcript"),
        ("c/two.flac", "duplicate transcript"),
        ("d/three.flac", "missing transcript"),
        ("e/four.flac", "missing transcript"),
        ("gone.flac", "transcript without audio"),
    ]


KINDS = st.sampled_from(
    ["good", "missing transcript", "transcript without audio", "named twice", *BROKEN]
)


@settings(
    max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(mixture=st.lists(KINDS, max_size=25))
def test_found_is_accepted_plus_rejected(mixture: list[str], work: Path) -> None:
    with tempfile.TemporaryDirectory() as folder:
        root, entries = Path(folder), []
        for number, kind in enumerate(mixture):
            suffix, data, _ = BROKEN.get(kind, (".flac", clip(), ""))
            name = f"{number:02d}{suffix}"
            if kind != "transcript without audio":
                put(root / name, data)
            entries += [entry(name, None if kind == "missing transcript" else "WORDS")] * (
                2 if kind == "named twice" else 1
            )
        accepted, rejected = outcome(root, entries)
    good = [f"{number:02d}" for number, kind in enumerate(mixture) if kind == "good"]
    assert [row.id for row in accepted] == good
    assert len(accepted) + len(rejected) == len(entries)
    assert all(row.reason for row in rejected)


@pytest.mark.parametrize("count", [0, 1, 3, 10])
def test_a_manifest_written_in_groups_is_read_completely(
    count: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(manifest, "ROW_GROUP", 3)
    rows = [
        manifest.Reject(f"id-{number}", f"a/{number}.flac", "ąé" * number)
        for number in range(count)
    ]
    manifest.write_rows(tmp_path / manifest.REJECTS, manifest.Reject, rows)
    assert manifest.read_rejects(tmp_path) == rows


def test_the_number_of_workers_changes_nothing(
    tmp_path: Path, work: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    entries = []
    for number in range(9):
        suffix, data, _ = (
            list(BROKEN.values())[number] if number % 2 else (".flac", clip(seed=number), "")
        )
        put(tmp_path / "d" / f"{number}{suffix}", data)
        entries.append(entry(f"{number}{suffix}"))
    monkeypatch.setattr(inspection, "CHUNK", 3)
    serial = outcome(tmp_path / "d", entries)
    monkeypatch.setenv("LIBRETTO_WORK", str(tmp_path / "other"))
    monkeypatch.setenv("LIBRETTO_WORKERS", "2")
    assert outcome(tmp_path / "d", entries) == serial


def test_a_file_is_looked_at_again_only_when_it_changed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(inspection, "CHUNK", 4)
    looked: list[str] = []
    really = inspection.inspect_file
    monkeypatch.setattr(
        inspection, "inspect_file", lambda path: looked.append(path.name) or really(path)
    )
    names = [f"{number}.flac" for number in range(40)]
    for name in names:
        put(tmp_path / "d" / name, clip())
    first = outcome(tmp_path / "d", [entry(name) for name in names])
    assert sorted(looked) == sorted(names)
    looked.clear()
    assert outcome(tmp_path / "d", [entry(name) for name in names]) == first
    assert not looked
    put(tmp_path / "d" / "7.flac", clip(seed=5))
    os.utime(tmp_path / "d" / "7.flac", ns=(1, 1))
    second = outcome(tmp_path / "d", [entry(name) for name in names])
    assert "7.flac" in looked
    assert len(looked) < 20  # its chunk, not all
    assert {row.id for row in second[0]} == {row.id for row in first[0]}
    assert second != first
    looked.clear()
    put(tmp_path / "d" / "new.flac", clip())
    outcome(tmp_path / "d", [entry(name) for name in [*names, "new.flac"]])
    assert len(looked) < 20
