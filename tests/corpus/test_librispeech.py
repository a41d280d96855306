"""A folder in LibriSpeech's layout: what is kept, what is refused, and what it does not hang on."""

from __future__ import annotations

import re
import shutil
from collections import Counter
from pathlib import Path

import pytest

from components.corpus.manifest import MANIFEST, read_manifest, write_rows
from components.corpus.source import build_source
from components.text.utterance import Utterance
from tests.corpus.clips import clip, put, write_librispeech
from tests.errors import refused

GOOD = {
    "1-10-0000": "FIRST WORDS",
    "1-10-0001": "IT'S SECOND",
    "1-11-0000": "THIRD",
    "2-20-0000": "FOURTH",
}


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "LibriSpeech"
    write_librispeech(folder, GOOD)
    monkeypatch.setenv("LIBRETTO_ROOT_LIBRI", str(folder))
    return folder


def libri(role: str = "train", **changed):
    return build_source(
        "libri-train",
        role,
        {"kind": "librispeech", "root": "libri", "subsets": ["train"], **changed},
    )


def reasons(rejected) -> dict[str, str]:
    return {row.id: row.reason.partition(":")[0] for row in rejected}


def test_every_recording_is_accepted_with_its_text(root: Path) -> None:
    accepted, rejected = libri().list_utterances()
    assert {row.id: row.text for row in accepted} == GOOD
    assert [row.id for row in accepted] == sorted(GOOD)
    assert {row.speaker for row in accepted} == {"1", "2"}
    assert {row.language for row in accepted} == {"en"}
    assert accepted[0].path == "train/1/10/1-10-0000.flac"
    assert libri().locate(accepted[0].path).is_file()
    assert not rejected


def test_a_byte_order_mark_is_no_text(root: Path) -> None:
    for path in root.rglob("*.trans.txt"):
        path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes())
    accepted, rejected = libri().list_utterances()
    assert {row.id: row.text for row in accepted} == GOOD and not rejected


def test_recordings_and_transcripts_that_do_not_match_are_rejected(root: Path) -> None:
    write_librispeech(
        root, {"3-30-0000": "WORDS", "3-30-0001": None, "3-30-0002": "", "3-30-0003": "SAME"}
    )
    with (root / "train/3/30/3-30.trans.txt").open("a") as lines:
        lines.write("3-30-0003 OTHER\n\n3-30-0009 NO SUCH FILE\nnonsense\n")
    put(root / "train/3/30/3-31-0000.flac", clip())
    put(root / "train/3/30/notes.flac", clip())
    put(root / "train/3/30/3-30-0000.TextGrid", b"not looked at")
    accepted, rejected = libri().list_utterances()
    assert {row.id for row in accepted} == {*GOOD, "3-30-0000"}
    assert reasons(rejected) == {
        "3-30-0001": "missing transcript",
        "3-30-0002": "missing transcript",
        "3-30-0003": "duplicate transcript",
        "3-30-0009": "transcript without audio",
        "3-31-0000": "wrong name",
        "nonsense": "wrong name",
        "notes": "wrong name",
    }
    assert len(rejected) == 8  # both lines of 3-30-0003
    recordings = len(list((root / "train").rglob("*.flac")))
    assert (
        len(accepted) + len(rejected) == recordings + 3
    )  # the second line of 0003, 0009 and the nonsense have no file of their own


def test_one_id_in_two_subsets_is_accepted_once(root: Path) -> None:
    write_librispeech(root, {"1-10-0000": "FIRST WORDS", "9-90-0000": "NINTH"}, subset="more")
    accepted, rejected = libri(subsets=["train", "more"]).list_utterances()
    assert len(accepted) == 5
    assert reasons(rejected) == {"1-10-0000": "duplicate id"}
    assert accepted[0].path.startswith("more/")  # the first by path


def test_rate_and_channels_must_be_those_expected(root: Path) -> None:
    put(root / "train/1/10/1-10-0000.flac", clip(rate=8_000))
    put(root / "train/1/10/1-10-0001.flac", clip(channels=2))
    assert reasons(libri().list_utterances()[1]) == {
        "1-10-0000": "wrong rate",
        "1-10-0001": "stereo",
    }
    accepted, _ = libri(rate=8_000).list_utterances()
    assert [row.id for row in accepted] == ["1-10-0000"]


def test_folds_of_speakers_are_apart_and_whole(root: Path) -> None:
    write_librispeech(root, {"3-30-0000": "FIFTH", "10-40-0000": "SIXTH"})
    folds = [libri(speaker_fold=[fold, 2]).list_utterances() for fold in (0, 1)]
    speakers = [{row.speaker for row in accepted} for accepted, _ in folds]
    assert speakers == [{"1", "2"}, {"10", "3"}]
    rows = [row.id for accepted, _ in folds for row in accepted]
    assert sorted(rows) == [row.id for row in libri().list_utterances()[0]]


def test_moving_the_root_changes_nothing(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    put(root / "train/1/10/1-10-0001.flac", b"broken")
    scan, listed = libri().scan(), libri().list_utterances()
    write_rows(tmp_path / MANIFEST, Utterance, listed[0])
    moved = tmp_path / "elsewhere" / "deep"
    shutil.copytree(root, moved)
    shutil.rmtree(root)
    monkeypatch.setenv("LIBRETTO_ROOT_LIBRI", str(moved))
    assert libri().scan() == scan
    assert libri().list_utterances() == listed
    assert read_manifest(tmp_path) == listed[0]
    assert str(tmp_path) not in str(scan) + str(listed)


def test_the_scan_sees_new_files_and_changed_transcripts(root: Path) -> None:
    digests = [libri().scan()["digest"]]
    lines = root / "train/1/10/1-10.trans.txt"
    lines.write_text(lines.read_text().replace("FIRST", "FIFTH"))  # of the same size
    digests.append(libri().scan()["digest"])
    put(root / "train/1/10/1-10-0002.flac", clip())
    digests.append(libri().scan()["digest"])
    put(root / "train/1/10/notes.txt", b"not part of it")
    assert len(set(digests)) == 3
    assert libri().scan()["digest"] == digests[-1]


def test_folders_that_are_links_are_followed(root: Path, tmp_path: Path) -> None:
    shutil.move(root / "train" / "1", tmp_path / "far")
    (root / "train" / "1").symlink_to(tmp_path / "far")
    assert len(libri().list_utterances()[0]) == len(GOOD)


@pytest.mark.parametrize(
    ("changed", "subject", "parts"),
    [
        ({"substs": []}, "substs", "'subsets'"),
        ({"subsets": ["trian"]}, "trian", "'train' components.corpus"),
        ({"subsets": []}, "libri-train", ".flac 'libri'"),
        ({"root": "other"}, "other", "LIBRETTO_ROOT_OTHER"),
        ({"rate": "high"}, "rate", "high"),
        ({"speaker_fold": [2, 2]}, "speaker_fold", "2"),
    ],
)
def test_a_wrong_setting_is_named(root: Path, changed: dict, subject: str, parts: str) -> None:
    with refused(subject, *parts.split()):
        libri(**changed).scan()


def test_transcribed_speech_is_refused_in_a_role_without_text(root: Path) -> None:
    with refused("libri-train", "nonspeech-train", "'table'"):
        libri("nonspeech-train")


def test_an_unknown_kind_names_the_nearest() -> None:
    with refused("a", "'librispeach'", "'librispeech'"):
        build_source("a", "train", {"kind": "librispeach"})


def test_real_excerpts_are_accepted_whole(
    recordings: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Counts, minutes and speakers of each subset are those of the README that stands beside the
    recordings.
    """
    monkeypatch.setenv("LIBRETTO_ROOT_LIBRI", str(recordings / "real-librispeech"))
    section = (
        (recordings / "README.md")
        .read_text()
        .partition("## real-librispeech")[2]
        .partition("\n## ")[0]
    )
    match = {
        row[0]: (int(row[1]), float(row[2]), int(row[3]))
        for row in re.findall(r"^\| ([a-z0-9-]+) \| (\d+) \| ([\d.]+) \| (\d+) ", section, re.M)
    }
    assert match
    accepted, rejected = libri(subsets=sorted(match)).list_utterances()
    assert not rejected
    counts = Counter(row.path.partition("/")[0] for row in accepted)
    for subset, (utterances, minutes, speakers) in match.items():
        rows = [row for row in accepted if row.path.startswith(f"{subset}/")]
        assert counts[subset] == utterances
        assert sum(row.samples / row.sample_rate for row in rows) / 60 == pytest.approx(
            minutes, abs=0.05
        )
        assert len({row.speaker for row in rows}) == speakers
    assert all(re.fullmatch(r"[A-Z' ]+", row.text) for row in accepted)
