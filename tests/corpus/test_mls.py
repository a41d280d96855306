"""Multilingual LibriSpeech: what is kept of a language and subset, what is refused, and what an
empty one says.
"""

from __future__ import annotations

import io
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import soundfile
import yaml

from components.config.catalogue import ROLES
from components.corpus.source import build_source
from tests.conftest import REPOSITORY
from tests.corpus.clips import clip, put
from tests.errors import refused

GOOD = {
    "1_10_000000": "dzień dobry",
    "1_10_000001": "jak się masz",
    "1_11_000000": "trzy",
    "2_20_000000": "cztery",
}


def write_mls(
    root: Path,
    utterances: dict[str, str | None],
    subset: str = "train",
    form: str = "FLAC",
    seed: int = 0,
) -> None:
    """A language's folder as its archive unpacks to; an utterance without text has no line."""
    folder = root / f"mls_polish{'_opus' if form == 'OPUS' else ''}" / subset
    for number, name in enumerate(utterances):
        speaker, book, _ = name.split("_")
        put(
            folder / "audio" / speaker / book / f"{name}.{form.lower()}",
            opus() if form == "OPUS" else clip(seed=seed + number),
        )
    lines = [f"{name}\t{text}\n" for name, text in utterances.items() if text is not None]
    put(folder / "transcripts.txt", "".join(lines).encode())


def opus() -> bytes:
    stream = io.BytesIO()
    samples = 0.1 * np.random.default_rng(0).uniform(-1, 1, 8_000)
    soundfile.write(stream, samples, 16_000, format="OGG", subtype="OPUS")
    return stream.getvalue()


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "mls"
    write_mls(folder, GOOD)
    monkeypatch.setenv("LIBRETTO_ROOT_MLS", str(folder))
    return folder


def mls(role: str = "train", **changed):
    return build_source(
        "pl",
        role,
        {"kind": "mls", "root": "mls", "language": "polish", "subset": "train", **changed},
    )


@pytest.mark.parametrize("mark", ["\x0b", "\x0c", "\x1c", "\x1e", "\x85", "\u2028", "\u2029", "\r"])
def test_a_line_ends_at_a_line_feed_alone(mark: str, root: Path) -> None:
    """What Python calls a line separator too may stand in a transcript."""
    texts = {**GOOD, "1_10_000001": f"jak{mark}się masz"}
    write_mls(root, texts)
    path = next(root.rglob("transcripts.txt"))
    for content in (path.read_bytes(), path.read_bytes().replace(b"\n", b"\r\n")):
        path.write_bytes(content)
        accepted, rejected = mls().list_utterances()
        assert {row.id: row.text for row in accepted} == texts and not rejected


def test_a_byte_order_mark_is_no_text(root: Path) -> None:
    path = next(root.rglob("transcripts.txt"))
    path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes())
    accepted, rejected = mls().list_utterances()
    assert {row.id for row in accepted} == GOOD.keys() and not rejected


def reasons(rejected) -> dict[str, str]:
    return {row.id: row.reason.partition(":")[0] for row in rejected}


def test_every_recording_is_accepted_with_its_text(root: Path) -> None:
    accepted, rejected = mls().list_utterances()
    assert {row.id: row.text for row in accepted} == GOOD
    assert {row.speaker for row in accepted} == {"pl-1", "pl-2"}
    assert {row.language for row in accepted} == {"pl"}
    assert accepted[0].path == "mls_polish/train/audio/1/10/1_10_000000.flac"
    assert mls().locate(accepted[0].path).is_file()
    assert not rejected


def test_the_small_variant_is_read_too(root: Path) -> None:
    write_mls(root, GOOD, form="OPUS")
    accepted, rejected = mls(audio="opus").list_utterances()
    assert not rejected
    assert {row.id: row.text for row in accepted} == GOOD
    assert {(row.sample_rate, row.samples) for row in accepted} == {(16_000, 8_000)}


def test_recordings_and_transcripts_that_do_not_match_are_rejected(root: Path) -> None:
    write_mls(
        root,
        {"3_30_000000": "dobry", "3_30_000001": None, "3_30_000002": "", "3_30_000003": "raz"},
        "dev",
    )
    base = root / "mls_polish/dev"
    with (base / "transcripts.txt").open("a", encoding="utf-8") as lines:
        lines.write("3_30_000003\tdwa\n\n3_30_000009\tno such file\nnonsense\n3_30_00000A no tab\n")
    put(base / "audio/3/30/notes.flac", clip())
    put(base / "audio/3/31/3_30_000007.flac", clip())
    put(base / "audio/3/30/3_30_000000.TextGrid", b"not looked at")
    accepted, rejected = mls(subset="dev").list_utterances()
    assert {row.id for row in accepted} == {"3_30_000000"}
    assert reasons(rejected) == {
        "3_30_000001": "missing transcript",
        "3_30_000002": "missing transcript",
        "3_30_000003": "duplicate transcript",
        "3_30_000007": "wrong name",
        "3_30_000009": "transcript without audio",
        "3_30_00000A no tab": "transcript without audio",
        "nonsense": "wrong name",
        "notes": "wrong name",
    }
    assert len(rejected) == 9  # both lines of 000003


@pytest.mark.parametrize(
    ("parts", "ids"),
    [(["9hr"], ["1_10_000000", "2_20_000000"]), (["1hr"], ["1_10_000001", "1_11_000000"])],
)
def test_a_limited_part_has_only_the_ids_it_lists(
    parts: list[str], ids: list[str], root: Path
) -> None:
    limited = root / "mls_polish/train/limited_supervision"
    put(limited / "9hr/handles.txt", b"1_10_000000\n2_20_000000\n")
    put(limited / "1hr/0/handles.txt", b"1_10_000001\n")
    put(limited / "1hr/5/handles.txt", b"1_11_000000\n")
    accepted, rejected = mls(limited=parts).list_utterances()
    assert [row.id for row in accepted] == ids
    assert not rejected
    assert [row.id for row in mls(limited=["9hr", "1hr"]).list_utterances()[0]] == sorted(GOOD)
    assert mls(limited=parts).scan()["texts"] != mls().scan()["texts"]
    put(limited / "9hr/handles.txt", b"1_10_000000\n7_70_000000\n")
    assert reasons(mls(limited=["9hr"]).list_utterances()[1]) == {
        "7_70_000000": "transcript without audio"
    }


def test_the_scan_lists_books_and_sees_every_change(root: Path) -> None:
    first = mls().scan()
    listed = ["audio/1/10/", "audio/1/11/", "audio/2/20/", "transcripts.txt"]
    assert [path for path, _ in first["files"]] == [f"mls_polish/train/{path}" for path in listed]
    assert dict(first["files"])["mls_polish/train/audio/1/10/"] == len(clip(seed=0)) + len(
        clip(seed=1)
    )
    one, other = (
        root / f"mls_polish/train/audio/1/10/1_10_00000{number}.flac" for number in (0, 1)
    )
    one.write_bytes(one.read_bytes() + b"x")
    other.write_bytes(other.read_bytes()[:-1])
    second = mls().scan()
    assert second["files"] == first["files"]
    assert second["digest"] != first["digest"]
    texts = root / "mls_polish/train/transcripts.txt"
    texts.write_text(texts.read_text().replace("trzy", "tzry"))  # of the same size
    assert mls().scan()["digest"] not in (first["digest"], second["digest"])


def test_moving_the_root_changes_nothing(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    scan, listed = mls().scan(), mls().list_utterances()
    shutil.move(root, tmp_path / "elsewhere")
    monkeypatch.setenv("LIBRETTO_ROOT_MLS", str(tmp_path / "elsewhere"))
    assert mls().scan() == scan
    assert mls().list_utterances() == listed


def drop_audio(root: Path) -> None:
    shutil.rmtree(root / "mls_polish/train/audio")


def drop_texts(root: Path) -> None:
    (root / "mls_polish/train/transcripts.txt").unlink()


def drop_all(root: Path) -> None:
    shutil.rmtree(root / "mls_polish")


@pytest.mark.parametrize(
    ("drop", "path"),
    [
        (drop_audio, "mls_polish/train/audio"),
        (drop_texts, "mls_polish/train/transcripts.txt"),
        (drop_all, "mls_polish/train/transcripts.txt"),
    ],
)
def test_an_empty_language_is_named(drop: Callable[[Path], None], path: str, root: Path) -> None:
    drop(root)
    for read in (mls().scan, mls().list_utterances):
        with refused("polish", "'pl'", path, "'mls_polish'", "components.corpus fetch"):
            read()


@pytest.mark.parametrize(
    ("drop", "path"),
    [
        (drop_audio, "mls_polish/train/audio"),
        (drop_texts, "mls_polish/train/transcripts.txt"),
    ],
)
def test_the_scan_of_a_corpus_with_an_empty_language_ends_with_its_name(
    drop: Callable[[Path], None], path: str, root: Path, tmp_path: Path
) -> None:
    """Of two languages one is empty: no scan of either is written."""
    write_mls(root, GOOD)
    shutil.copytree(root / "mls_polish", root / "mls_dutch")
    drop(root)
    languages = {
        f"mls-{language}": {"kind": "mls", "root": "mls", "language": language, "subset": "train"}
        for language in ("dutch", "polish")
    }
    corpora = {"both": {role: languages if role == "train" else {} for role in ROLES}}
    put(tmp_path / "house/catalogue/corpus.yaml", yaml.safe_dump(corpora).encode())
    line = [sys.executable, "-m", "components.corpus", "scan", "--corpus", "both"]
    failed = subprocess.run(
        line,
        cwd=tmp_path / "house",
        env={**os.environ, "PYTHONPATH": str(REPOSITORY)},
        capture_output=True,
        text=True,
    )
    assert failed.returncode == 2
    assert failed.stderr.startswith("corpus scan: source 'mls-polish'")
    for part in ("'polish'", path, "components.corpus fetch"):
        assert part in failed.stderr
    assert "Traceback" not in failed.stderr
    assert not (tmp_path / "house/data").exists()


@pytest.mark.parametrize(
    ("changed", "subject", "parts"),
    [
        ({"langauge": "polish"}, "langauge", "'language'"),
        ({"language": "polnish"}, "polnish", "'polish'"),
        ({"limited": ["9hr"], "subset": "dev"}, "pl", "'limited' dev"),
        (
            {"limited": ["9hr"]},
            "polish",
            "handles.txt mls_polish/train/limited_supervision/9hr",
        ),
        ({"max_seconds": 20}, "max_seconds", ""),
        ({"subset": "tset"}, "subset", "'dev'"),
        ({"limited": ["10hr"]}, "limited.0", "9hr"),
    ],
)
def test_a_wrong_setting_is_named(changed: dict, subject: str, parts: str, root: Path) -> None:
    with refused(subject, *parts.split()):
        mls(**changed).scan()


def test_transcribed_speech_is_refused_in_a_role_without_text(root: Path) -> None:
    with refused("pl", "'mls'", "'noise'"):
        mls("noise")


def test_an_utterance_over_thirty_seconds_is_accepted(root: Path) -> None:
    put(root / "mls_polish/train/audio/1/10/1_10_000000.flac", clip(seconds=35))
    accepted, rejected = mls("test").list_utterances()
    assert not rejected
    assert max(row.samples for row in accepted) == 35 * 16_000
