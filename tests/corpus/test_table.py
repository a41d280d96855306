"""Recordings listed in a table: any format, any rate, part of a table, no text."""

from __future__ import annotations

import csv
import re
import shutil
from collections import Counter
from pathlib import Path

import pytest

from components.config.errors import InputError
from components.corpus.source import build_source
from tests.corpus.clips import BROKEN, clip, put
from tests.errors import refused

HEADER = ("path", "text", "speaker", "lang")
ROWS = [
    ("audio/a.wav", "Hello, world.", "ann", "en", 44_100, 2, "WAV"),
    ("audio/b.flac", '"Quoted" and "so', "ann", "en", 48_000, 1, "FLAC"),
    ("audio/c.ogg", "Grüße, Jürgen", "bob", "de", 44_100, 1, "OGG"),
    ("audio/d.wav", "四", "", "ja", 8_000, 1, "WAV"),
]


def write_table(path: Path, rows: list[tuple], header: tuple = HEADER) -> None:
    quoting = (
        {"delimiter": "\t", "quoting": csv.QUOTE_NONE, "quotechar": None}
        if path.suffix == ".tsv"
        else {}
    )
    with path.open("w", encoding="utf-8", newline="") as stream:
        csv.writer(stream, lineterminator="\n", **quoting).writerows([header, *rows])


@pytest.fixture(params=["tsv", "csv"])
def root(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "tables"
    for path, *_, rate, channels, form in ROWS:
        put(folder / "sub" / path, clip(rate=rate, channels=channels, form=form))
    write_table(folder / "sub" / f"list.{request.param}", [row[:4] for row in ROWS])
    monkeypatch.setenv("LIBRETTO_ROOT_TABLES", str(folder))
    return folder


def table_of(root: Path) -> Path:
    return next((root / "sub").glob("list.*"))


def table(root: Path, role: str = "test", **changed):
    name = f"sub/{table_of(root).name}"
    return build_source(
        "listed",
        role,
        {
            "kind": "table",
            "root": "tables",
            "table": name,
            "columns": {"language": "lang"},
            **changed,
        },
    )


def add(root: Path, *rows: tuple) -> None:
    write_table(table_of(root), [*(row[:4] for row in ROWS), *rows])


def test_every_rate_and_format_is_accepted_with_its_text(root: Path) -> None:
    accepted, rejected = table(root).list_utterances()
    assert not rejected
    assert [(row.id, row.text, row.speaker, row.language, row.sample_rate) for row in accepted] == [
        (Path(path).stem, text, speaker, language, rate)
        for path, text, speaker, language, rate, _, _ in ROWS
    ]
    assert [row.samples for row in accepted] == [int(0.3 * row[4]) for row in ROWS]
    assert accepted[0].path == "sub/audio/a.wav"
    assert table(root).locate(accepted[0].path).read_bytes() == clip(
        rate=44_100, channels=2, form="WAV"
    )


def test_broken_and_missing_files_are_rejected(root: Path) -> None:
    suffix, data, _ = BROKEN["half a WAV"]
    put(root / "sub" / f"audio/cut{suffix}", data)
    put(root / "sub" / "audio/quiet.flac", clip(level=0.0))
    put(root / "secret.wav", clip(form="WAV"))
    put(root.parent / "outside.wav", clip(form="WAV"))
    add(
        root,
        (f"audio/cut{suffix}", "x", "", ""),
        ("audio/quiet.flac", "x", "", ""),
        ("audio/gone.wav", "x", "", ""),
        ("", "x", "", ""),
        ("../../outside.wav", "x", "", ""),
        ("audio/a.wav", "another text", "", ""),
    )
    accepted, rejected = table(root).list_utterances()
    assert [row.id for row in accepted] == ["b", "c", "d"]
    assert Counter(row.reason.partition(":")[0] for row in rejected) == {
        "truncated": 1,
        "silent": 1,
        "transcript without audio": 1,
        "wrong path": 2,
        "duplicate transcript": 2,
    }
    assert len(accepted) + len(rejected) == 10


def test_a_row_without_text_is_rejected_as_speech_and_accepted_as_non_speech(root: Path) -> None:
    add(root, ("audio/e.wav", "", "", ""))
    put(root / "sub/audio/e.wav", clip(form="WAV", level=0.0))
    assert [row.reason.partition(":")[0] for row in table(root).list_utterances()[1]] == [
        "missing transcript"
    ]
    accepted, rejected = table(
        root, "nonspeech-test", columns={"text": None, "speaker": None}
    ).list_utterances()
    assert not rejected
    assert [(row.id, row.text, row.speaker) for row in accepted] == [
        (name, "", "") for name in "abcde"
    ]


def test_part_of_a_table(root: Path) -> None:
    german = table(root, where={"lang": ["de"]})
    assert [row.id for row in german.list_utterances()[0]] == ["c"]
    assert [path for path, _ in german.scan()["files"]] == [
        "sub/audio/c.ogg",
        f"sub/{table_of(root).name}",
    ]
    assert [
        row.id
        for row in table(root, where={"lang": ["de", "en"], "speaker": ["ann"]}).list_utterances()[
            0
        ]
    ] == ["a", "b"]


def test_paths_may_be_relative_to_a_folder_of_their_own(root: Path) -> None:
    """As those of a Common Voice release, which lie in ``clips``."""
    write_table(table_of(root), [(row[0].removeprefix("audio/"), *row[1:4]) for row in ROWS])
    accepted, rejected = table(root, folder="audio").list_utterances()
    assert {row.path for row in accepted} == {f"sub/{row[0]}" for row in ROWS} and not rejected
    assert len(table(root).list_utterances()[1]) == len(ROWS)


def test_absolute_paths_and_names_that_begin_with_dots_are_taken(root: Path) -> None:
    put(root / "sub" / "..dots.wav", clip())
    put(root.parent / "outside.wav", clip())
    rows = [
        (str(root / "sub" / ROWS[0][0]), "absolute", "", "en"),
        ("..dots.wav", "dots", "", "en"),
        (str(root.parent / "outside.wav"), "outside", "", "en"),
        ("../../outside.wav", "outside too", "", "en"),
    ]
    write_table(table_of(root), rows)
    accepted, rejected = table(root).list_utterances()
    assert {row.path: row.text for row in accepted} == {
        f"sub/{ROWS[0][0]}": "absolute",
        "sub/..dots.wav": "dots",
    }
    assert [row.reason for row in rejected] == ["wrong path: it leads out of the data root"] * 2


def test_a_constant_language_and_a_prefix_for_speakers(root: Path) -> None:
    accepted, _ = table(root, columns={}, language="xx", speaker_prefix="club-").list_utterances()
    assert {row.language for row in accepted} == {"xx"}
    assert [row.speaker for row in accepted] == ["club-ann", "club-ann", "club-bob", ""]


def test_names_are_safe_different_and_do_not_hang_on_other_files(root: Path) -> None:
    paths = ["x/1.wav", "y/1.wav", "x/1.flac", "x/a.b c.wav", "x/四.wav", "x/五.wav"]
    for path in paths:
        put(root / "sub" / path, clip(form="FLAC" if path.endswith("flac") else "WAV"))
    add(root, *((path, "words", "", "") for path in paths))
    names = {row.path: row.id for row in table(root).list_utterances()[0]}
    assert len(set(names.values())) == len(ROWS) + len(paths)
    assert all(re.fullmatch(r"[A-Za-z0-9_-]+", name) for name in names.values())
    assert names["sub/x/a.b c.wav"] == "a-b-c"
    some = {row.path: row.id for row in table(root, where={"lang": ["en"]}).list_utterances()[0]}
    assert some.items() <= names.items()


def test_moving_the_root_changes_nothing(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    add(root, ("audio/gone.wav", "x", "", ""))
    scan, listed = table(root).scan(), table(root).list_utterances()
    moved = tmp_path / "elsewhere" / "deep"
    shutil.copytree(root, moved)
    monkeypatch.setenv("LIBRETTO_ROOT_TABLES", str(moved))
    assert table(root).scan() == scan
    assert table(root).list_utterances() == listed
    assert str(tmp_path) not in str(scan) + str(listed)


def test_the_scan_sees_the_text_and_the_files(root: Path) -> None:
    digests = [table(root).scan()["digest"]]
    add(root, ("audio/e.wav", "x", "", ""))
    digests.append(table(root).scan()["digest"])
    put(root / "sub/audio/e.wav", clip(form="WAV"))
    digests.append(table(root).scan()["digest"])
    text = table_of(root).read_text()
    table_of(root).write_text(text.replace("Hello", "Jello"))
    digests.append(table(root).scan()["digest"])
    assert len(set(digests)) == 4


@pytest.mark.parametrize(
    ("changed", "subject", "parts"),
    [
        ({"tabel": "x"}, "tabel", "'table'"),
        ({"columns": {"txt": "x"}}, "columns.txt", "'text'"),
        ({"columns": {"text": "txt"}}, "txt", "'text'"),
        ({"columns": {"text": None}}, "listed", "columns.text"),
        ({"columns": {"language": "lang"}, "language": "en"}, "listed", "'columns.language'"),
        ({"where": {"lang": ["dee"]}}, "listed", "lang 'dee' 'de'"),
        ({"where": {"lagn": ["de"]}}, "lagn", "'lang'"),
        ({"where": {"lang": ["de"], "speaker": ["ann"]}}, "listed", "'where'"),
        ({"table": "sub/lost.tsv"}, "sub/lost.tsv", "'sub/list"),
        ({"table": "sub/list.xlsx"}, "sub/list.xlsx", ".tsv .csv"),
    ],
)
def test_a_wrong_setting_is_named(root: Path, changed: dict, subject: str, parts: str) -> None:
    with refused(subject, *parts.split()):
        table(root, **changed).scan()


@pytest.mark.parametrize("changed", [{"where": {"lang": ["en", False]}}, {"language": False}])
def test_a_bare_no_of_yaml_is_named(root: Path, changed: dict) -> None:
    with pytest.raises(InputError, match="quotes"):
        table(root, **changed)


def test_text_is_refused_in_a_role_without_speech(root: Path) -> None:
    with refused("listed", "'noise'", "columns.text"):
        table(root, "noise")


BAD_TABLES = [
    ("a\tb\n1\t2\t3\n", "line 2"),
    ("", "bad.tsv"),
    ("a\tb\n", "bad.tsv"),
    ("a\ta\n1\t2\n", "line 2"),
]


@pytest.mark.parametrize(("text", "part"), BAD_TABLES)
def test_a_broken_table_stops_with_its_line(
    text: str, part: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    put(tmp_path / "t" / "bad.tsv", text.encode())
    monkeypatch.setenv("LIBRETTO_ROOT_TABLES", str(tmp_path / "t"))
    with refused("bad.tsv", part):
        build_source("bad", "test", {"kind": "table", "root": "tables", "table": "bad.tsv"}).scan()


def test_a_table_that_is_no_text_stops(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    put(tmp_path / "t" / "bad.csv", "path,text\na.wav,é\n".encode("latin-1"))
    monkeypatch.setenv("LIBRETTO_ROOT_TABLES", str(tmp_path / "t"))
    with refused("bad.csv", "UTF-8"):
        build_source("bad", "test", {"kind": "table", "root": "tables", "table": "bad.csv"}).scan()


def readme_count(recordings: Path, folder: str) -> int:
    """Number of clips that the README beside the recordings gives for a folder."""
    row = re.search(
        rf"^\| `{folder}/` \|[^|]*\| (\d+) \|", (recordings / "README.md").read_text(), re.M
    )
    assert row
    return int(row[1])


def test_real_speech_of_many_languages_is_accepted_whole(
    recordings: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LIBRETTO_ROOT_OOD", str(recordings / "ood"))
    settings = {
        "kind": "table",
        "root": "ood",
        "table": "ood.tsv",
        "columns": {"text": "transcript", "language": "language"},
    }
    accepted, rejected = build_source("ood", "test", settings).list_utterances()
    assert not rejected
    assert len(accepted) == readme_count(recordings, "ood")
    rows = list(
        csv.DictReader(
            (recordings / "ood/ood.tsv").open(encoding="utf-8"),
            delimiter="\t",
            quoting=csv.QUOTE_NONE,
        )
    )
    assert Counter(row.language for row in accepted) == Counter(row["language"] for row in rows)
    assert len({row.language for row in accepted}) == 7
    assert {row.path: row.text for row in accepted} == {
        row["path"]: row["transcript"] for row in rows
    }
    for row in rows:
        seen = next(one for one in accepted if one.path == row["path"])
        assert seen.sample_rate == int(row["sample_rate"])
        assert seen.samples / seen.sample_rate == pytest.approx(float(row["seconds"]), abs=0.01)
    portuguese = build_source(
        "pt", "test", {**settings, "where": {"language": ["pt"]}}
    ).list_utterances()[0]
    assert [row.id for row in portuguese] == [row.id for row in accepted if row.language == "pt"]


def test_real_speech_has_the_counts_languages_and_rates_that_its_readme_gives(
    recordings: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LIBRETTO_ROOT_OOD", str(recordings / "ood"))
    columns = {"text": "transcript", "language": "language"}
    section = (recordings / "README.md").read_text().partition("## ood/")[2].partition("\n## ")[0]
    rows = re.findall(
        r"^\| (\S+/\S+) \| (\d+) \| [\d.]+ \| ([a-z, ]+) \| ([\d, ]+) \|", section, re.M
    )
    assert sum(int(count) for _, count, _, _ in rows) == readme_count(recordings, "ood")
    for repository, count, languages, rates in rows:
        settings = {
            "kind": "table",
            "root": "ood",
            "table": "ood.tsv",
            "columns": columns,
            "where": {"source_repository": [repository]},
        }
        accepted, rejected = build_source("ood", "test", settings).list_utterances()
        assert not rejected
        assert len(accepted) == int(count), repository
        assert {row.language for row in accepted} == set(languages.split(", ")), repository
        assert {str(row.sample_rate) for row in accepted} == set(rates.split(", ")), repository


def test_real_non_speech_is_accepted_without_text(
    recordings: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LIBRETTO_ROOT_NONSPEECH", str(recordings / "nonspeech"))
    settings = {
        "kind": "table",
        "root": "nonspeech",
        "table": "nonspeech.tsv",
        "columns": {"text": None, "speaker": None},
    }
    accepted, rejected = build_source("real", "nonspeech-test", settings).list_utterances()
    assert not rejected
    assert len(accepted) == readme_count(recordings, "nonspeech")
    assert {(row.text, row.speaker, row.split) for row in accepted} == {("", "", "nonspeech-test")}
    birds = build_source(
        "birds", "noise", {**settings, "where": {"class": ["birds"]}}
    ).list_utterances()[0]
    assert {row.path.partition("/")[0] for row in birds} == {"birds"}
