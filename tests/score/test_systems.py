"""Other systems, refused input, and the facts of the corpus about a set."""

from __future__ import annotations

import csv
import math
import shutil
from dataclasses import replace
from pathlib import Path

import pyarrow.parquet as pq
import pytest
import yaml

from components.corpus.fetch.archive import list_archives
from components.decode.hypotheses import read_hypotheses
from components.score.build import METRICS
from components.score.systems import read_sets, read_texts
from components.text.hypothesis import Hypothesis
from components.text.wer import count_word_errors
from tests.conftest import REPOSITORY
from tests.errors import refused
from tests.score.workspace import (
    CLEAN,
    CORPUS,
    COUNTS,
    NONSPEECH,
    build_hypotheses,
    run_score,
    write_catalogue,
    write_set,
)

pytestmark = pytest.mark.usefixtures("workspace")
OTHER_TEXTS = "c-3\tyes\nc-1\tThe cat sat on a mat\nc-2\t\nc-4\twho is this\n"


def write_texts(text: str | bytes, path: str = "theirs/clean.tsv") -> None:
    file = Path("data/systems") / path
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_bytes(text if isinstance(text, bytes) else text.encode())


def table(name: str) -> list[dict[str, str]]:
    with (Path("data/score") / name).open(encoding="utf-8", newline="") as stream:
        return list(csv.DictReader(stream))


def utterances() -> list[dict]:
    return pq.read_table("data/score/utterances.parquet").to_pylist()


def test_another_system_is_in_every_table() -> None:
    write_texts(OTHER_TEXTS)
    write_texts("q-1\t\nq-2\t\nq-3\tuh uh\nq-4\t\n", "theirs/nonspeech.tsv")
    write_texts("what this is", "README.md")
    scores = run_score()
    assert scores["clean"].keys() == {"free", "ctc", "theirs"}
    assert {key: scores["clean"]["theirs"][key] for key in COUNTS} == {
        "substitutions": 1,
        "deletions": 2,
        "insertions": 0,
        "words": 12,
    }
    assert scores["other"].keys() == {"free", "ctc"}, "it has no text of that set"
    assert scores["nonspeech"]["theirs"]["insertion_kinds"] == {
        "loop": 1,
        "echo": 0,
        "refusal": 0,
        "text": 0,
    }
    assert {
        (row["set"], row["speaker"]) for row in table("speakers.csv") if row["system"] == "theirs"
    } == {("clean", ""), ("clean", "ann"), ("clean", "bob")}
    assert [row["group"] for row in table("groups.csv") if row["system"] == "theirs"] == ["2–5"]
    own = sorted(
        (row for row in utterances() if row["system"] == "theirs"), key=lambda row: row["id"]
    )
    assert [(row["set"], row["id"]) for row in own] == [
        ("clean", f"c-{n}") for n in range(1, 5)
    ] + [("nonspeech", f"q-{n}") for n in range(1, 5)]
    assert own[0]["text"] == "The cat sat on a mat"
    assert (own[0]["speaker"], own[0]["reference"], own[0]["seconds"]) == (
        "ann",
        "the cat sat on the mat",
        2.0,
    )


@pytest.mark.parametrize(
    "text", [OTHER_TEXTS.replace("\n", "\r\n"), "\ufeff" + OTHER_TEXTS, OTHER_TEXTS.rstrip("\n")]
)
def test_line_ends_and_byte_order_marks_change_nothing(text: str) -> None:
    write_texts(text)
    assert read_texts(Path("data/systems/theirs/clean.tsv")) == {
        "c-3": "yes",
        "c-1": "The cat sat on a mat",
        "c-2": "",
        "c-4": "who is this",
    }


FILE = "data/systems/theirs/clean.tsv"


@pytest.mark.parametrize(
    ("text", "subject", "names"),
    [
        (OTHER_TEXTS.replace("c-3\tyes\n", ""), "c-3", [FILE, "1 utterances", "c-3"]),
        (OTHER_TEXTS + "c-9\tno\n", "c-9", [FILE, "1 ids", "c-9"]),
        (OTHER_TEXTS + "c-1\tno\n", "c-1", [FILE, "line 5", "c-1"]),
        (OTHER_TEXTS + "c-9 no\n", FILE, [FILE, "line 5", "c-9 no"]),
        (OTHER_TEXTS + "c-9\tno\tyes\n", FILE, [FILE, "line 5"]),
        (OTHER_TEXTS + "\tno\n", FILE, [FILE, "line 5"]),
        ("\n" + OTHER_TEXTS, FILE, [FILE, "line 1"]),
        ("", "c-1", [FILE, "4 utterances"]),
        (b"c-1\tcaf\xe9\n", FILE, [FILE, "UTF-8", "byte 7"]),
    ],
)
def test_an_incomplete_or_broken_file_is_refused(
    text: str | bytes, subject: str, names: list[str]
) -> None:
    write_texts(text)
    with refused(subject, *names):
        run_score()
    assert not METRICS.exists()


@pytest.mark.parametrize(
    ("path", "subject", "names"),
    [
        ("free/clean.tsv", "free", ["data/systems/free"]),
        ("ctc/clean.tsv", "ctc", []),
        ("llm/clean.tsv", "llm", []),
        ("whisper/clean.tsv", "whisper", []),
        ("clean.tsv", "data/systems/clean.tsv", ["<system>/<set>.tsv"]),
        ("theirs/claen.tsv", "data/systems/theirs/claen.tsv", ["'clean'"]),
        ("theirs/clean.txt", "data/systems/theirs/clean.txt", ["<set>.tsv"]),
    ],
)
def test_a_reserved_or_unknown_name_is_refused(path: str, subject: str, names: list[str]) -> None:
    write_texts(OTHER_TEXTS, path)
    with refused(subject, *names):
        run_score()


def test_a_missing_text_is_refused() -> None:
    """None is not an empty text: an empty text was decoded."""
    hypotheses = build_hypotheses("free", CLEAN, 3)
    for field, value in (("text", None), ("reference", None)):
        changed = replace(hypotheses[1], **{field: value})
        write_set("test/clean", [hypotheses[0], changed, *hypotheses[2:]])
        with refused("c-2", "clean", field, "'free'"):
            run_score()
    hypotheses[1] = replace(hypotheses[1], reference="GOOD morning", text="nan")
    write_set("test/clean", hypotheses)
    assert run_score()["clean"]["free"]["substitutions"] == 3, "the word 'nan' is a word"


def test_two_references_of_one_utterance_are_refused() -> None:
    other = build_hypotheses("ctc", CLEAN, 4)
    other[2] = replace(other[2], reference="yes!")
    write_set("test/clean", build_hypotheses("free", CLEAN, 3) + other)
    with refused("c-3", "clean", "'ctc'"):
        run_score()


def test_the_order_of_rows_changes_nothing() -> None:
    first = run_score(), utterances()
    reverse = build_hypotheses("ctc", CLEAN, 4)[::-1]
    write_set("test/clean", build_hypotheses("free", CLEAN, 3) + reverse)
    assert (run_score(), utterances()) == first


def test_a_set_that_the_corpus_does_not_list_is_refused() -> None:
    table = {"kind": "table"}
    write_catalogue({"embedded": {**CORPUS, "test": {"clean": table, "others": table}}})
    with refused("other", "test/other", "'embedded'", "'others'"):
        run_score()


def test_an_altered_set_has_its_condition() -> None:
    scores = run_score()
    for figures in scores["other"].values():
        assert figures["condition"] == {"name": "snr_db", "value": 5.0}
    for figures in scores["nonspeech"].values():
        assert figures["condition"] == {"name": "tempo", "value": 0.8}
    assert not any("condition" in figures for figures in scores["clean"].values())
    altered = {"kind": "altered", "source": {"kind": "table"}}
    write_catalogue({"embedded": {**CORPUS, "dev": {"dev": altered}}})
    with refused("dev", "snr_db", "tempo", "cut", "margin_seconds"):
        run_score()


@pytest.fixture
def subset() -> list:
    """test-clean in small: the archive's totals are those of four utterances."""
    archive = yaml.safe_load((REPOSITORY / "catalogue/archive.yaml").read_text())
    archive["librispeech"]["files"]["test-clean.tar.gz"] |= {"utterances": 4, "words": 12}
    Path("catalogue/archive.yaml").write_text(yaml.safe_dump(archive))
    entry = {"kind": "librispeech", "root": "elsewhere", "subsets": ["test-clean"]}
    write_catalogue({"embedded": {**CORPUS, "test": {"clean": entry, "other": entry}}})
    return CLEAN


def test_the_words_of_a_complete_subset_are_checked(subset: list) -> None:
    scores = run_score()
    assert all(figures["words_checked"] is True for figures in scores["clean"].values())
    for figures in scores["other"].values():
        assert figures["words_checked"] is False, "a part of a subset"
    for figures in scores["dev"].values():
        assert "words_checked" not in figures, "not LibriSpeech"
    short = [(*subset[0][:2], "the cat sat on mat", *subset[0][3:]), *subset[1:]]
    write_set("test/clean", build_hypotheses("free", short, 3))
    with refused("clean", "11", "test-clean", "12"):
        run_score()


def test_the_word_totals_are_those_of_librispeech(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(REPOSITORY)
    totals = {
        archive.folder: archive.entry.words
        for archive in list_archives("librispeech")
        if archive.entry.words
    }
    assert totals == {"test-clean": 52_576, "test-other": 52_343}


def test_every_utterance_has_its_errors() -> None:
    scores, rows = run_score(), utterances()
    assert len(rows) == 2 * (4 + 2 + 3 + 4)
    assert {row["role"] for row in rows} == {"test", "dev", "nonspeech-test"}
    for row in rows:
        errors = count_word_errors([row["reference"]], [row["text"]], "casefold")
        assert {key: row[key] for key in COUNTS} == {key: getattr(errors, key) for key in COUNTS}
    for name in ("clean", "other", "dev"):
        for system, figures in scores[name].items():
            selected = [row for row in rows if (row["set"], row["system"]) == (name, system)]
            assert all(sum(row[key] for row in selected) == figures[key] for key in COUNTS)
            errors = sum(row["character_errors"] for row in selected)
            assert round(errors / sum(row["characters"] for row in selected), 6) == figures["cer"]
    kinds = {(row["set"], row["system"], row["id"]): row["kind"] for row in rows}
    assert kinds["clean", "free", "c-1"] == "run-on"
    assert kinds["clean", "ctc", "c-3"] == "loop"
    assert kinds["clean", "free", "c-2"] == ""
    assert (kinds["nonspeech", "ctc", "q-1"], kinds["nonspeech", "ctc", "q-2"]) == ("text", "")


def test_groups_add_up_to_the_set() -> None:
    lengths, languages = [0.5, 2.0, 30.0, 29.9], ["en", "de", "en", ""]
    own = [
        replace(row, duration_s=seconds, language=language)
        for row, seconds, language in zip(build_hypotheses("free", CLEAN, 3), lengths, languages)
    ]
    write_set("test/clean", own)
    scores = run_score()["clean"]["free"]
    parts = [row for row in table("groups.csv") if row["set"] == "clean"]
    assert [(row["by"], row["group"]) for row in parts] == [
        ("duration", "<2"),
        ("duration", "2–5"),
        ("duration", "20–30"),
        ("duration", ">30"),
        ("language", ""),
        ("language", "de"),
        ("language", "en"),
    ]
    for by in ("duration", "language"):
        for key in COUNTS:
            assert sum(int(row[key]) for row in parts if row["by"] == by) == scores[key]
    english = parts[-1]
    assert (float(english["wer"]), english["words"]) == (round(4 / 7, 6), "7")
    assert float(english["low"]) <= 4 / 7 <= float(english["high"])
    assert not [
        row for row in table("groups.csv") if row["set"] == "dev" and row["by"] == "language"
    ], "no language is known"


def test_the_interval_names_what_was_resampled() -> None:
    scores = run_score()
    assert scores["clean"]["free"]["interval_by"] == "speaker"
    assert scores["other"]["free"]["interval_by"] == "utterance", "only one speaker"
    off = run_score(resamples=0)
    assert not {"wer_low", "wer_high", "interval_by"} & off["clean"]["free"].keys()
    assert off["clean"]["free"]["wer"] == scores["clean"]["free"]["wer"]
    assert {row["low"] for row in table("groups.csv")} == {""}


def test_references_without_a_word_have_no_rate_and_no_interval() -> None:
    write_set("dev/dev", build_hypotheses("free", NONSPEECH, 4))
    scores = run_score()["dev"]["free"]
    assert (scores["wer"], scores["cer"], scores["words"], scores["insertions"]) == (0.0, 0.0, 0, 3)
    assert "wer_low" not in scores
    assert scores["insertion_kinds"]["other"] == 3


def test_the_n_best_comes_back_as_it_was_written() -> None:
    others = [Hypothesis("the cat", score=-2.5), Hypothesis("", score=-math.inf)]
    own = [
        replace(row, alternatives=others, language="en")
        for row in build_hypotheses("free", CLEAN, 3)
    ]
    write_set("test/clean", own)
    assert read_hypotheses(Path("data/decode/test/clean.parquet")) == own


def test_the_folder_of_other_systems_may_be_missing_or_empty() -> None:
    assert {decoded.name for decoded in read_sets(Path("data/decode"), Path("data/systems"))} == {
        "clean",
        "other",
        "dev",
        "nonspeech",
    }
    write_texts(OTHER_TEXTS)
    shutil.rmtree("data/systems/theirs")
    run_score()
