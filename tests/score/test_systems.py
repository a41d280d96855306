"""Systems beside ours, bad input, and what the corpus says of a set: each stops with the file and
the line or id, or is in every table.
"""

from __future__ import annotations

import csv
import math
import shutil
from dataclasses import replace
from pathlib import Path

import pyarrow.parquet as pq
import pytest
import yaml

from components.config.errors import InputError
from components.corpus.fetch.archive import archives
from components.decode.hypotheses import read_hypotheses
from components.score.build import METRICS
from components.score.systems import read_sets, read_texts
from components.text.hypothesis import Hypothesis
from components.text.wer import count_word_errors
from tests.conftest import REPOSITORY
from tests.score.workspace import CLEAN, CORPUS, COUNTS, QUIET, hold, lists, rows, scores

pytestmark = pytest.mark.usefixtures("house")
THEIRS = "c-3\tyes\nc-1\tThe cat sat on a mat\nc-2\t\nc-4\twho is this\n"


def put(text: str | bytes, path: str = "theirs/clean.tsv") -> Path:
    file = Path("data/systems") / path
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_bytes(text if isinstance(text, bytes) else text.encode())
    return file


def table(name: str) -> list[dict[str, str]]:
    with (Path("data/score") / name).open(encoding="utf-8", newline="") as stream:
        return list(csv.DictReader(stream))


def utterances() -> list[dict]:
    return pq.read_table("data/score/utterances.parquet").to_pylist()


def test_another_system_is_in_every_table() -> None:
    put(THEIRS)
    put("q-1\t\nq-2\t\nq-3\tuh uh\nq-4\t\n", "theirs/quiet.tsv")
    put("what this is", "README.md")
    found = scores()
    assert found["clean"].keys() == {"free", "ctc", "theirs"}
    assert {key: found["clean"]["theirs"][key] for key in COUNTS} == {
        "substitutions": 1,
        "deletions": 2,
        "insertions": 0,
        "words": 12,
    }
    assert found["other"].keys() == {"free", "ctc"}, "it said nothing of that set"
    assert found["quiet"]["theirs"]["insertion_kinds"] == {
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
    ] + [("quiet", f"q-{n}") for n in range(1, 5)]
    assert own[0]["text"] == "The cat sat on a mat"
    assert (own[0]["speaker"], own[0]["reference"], own[0]["seconds"]) == (
        "ann",
        "the cat sat on the mat",
        2.0,
    )


@pytest.mark.parametrize(
    "text", [THEIRS.replace("\n", "\r\n"), "\ufeff" + THEIRS, THEIRS.rstrip("\n")]
)
def test_ends_of_lines_and_marks_of_other_editors_change_nothing(text: str) -> None:
    put(text)
    assert read_texts(Path("data/systems/theirs/clean.tsv")) == {
        "c-3": "yes",
        "c-1": "The cat sat on a mat",
        "c-2": "",
        "c-4": "who is this",
    }


@pytest.mark.parametrize(
    ("text", "says"),
    [
        (
            THEIRS.replace("c-3\tyes\n", ""),
            r"theirs/clean\.tsv: 1 utterances are missing, such as \['c-3'\]",
        ),
        (THEIRS + "c-9\tno\n", r"theirs/clean\.tsv: 1 ids are unknown, such as \['c-9'\]"),
        (THEIRS + "c-1\tno\n", r"theirs/clean\.tsv, line 5: 'c-1' stands there twice"),
        (
            THEIRS + "c-9 no\n",
            r"theirs/clean\.tsv, line 5: not an id, one tab and a text: 'c-9 no'",
        ),
        (THEIRS + "c-9\tno\tyes\n", r"theirs/clean\.tsv, line 5: not an id, one tab"),
        (THEIRS + "\tno\n", r"theirs/clean\.tsv, line 5: not an id"),
        ("\n" + THEIRS, r"theirs/clean\.tsv, line 1: not an id"),
        ("", r"theirs/clean\.tsv: 4 utterances are missing"),
        (b"c-1\tcaf\xe9\n", r"theirs/clean\.tsv: not UTF-8 text, at byte 7"),
    ],
)
def test_a_file_that_is_not_whole_stops(text: str | bytes, says: str) -> None:
    put(text)
    with pytest.raises(InputError, match=says):
        scores()
    assert not METRICS.exists()


@pytest.mark.parametrize(
    ("path", "says"),
    [
        ("free/clean.tsv", r"data/systems/free: a system of ours is called 'free' too"),
        ("ctc/clean.tsv", "'ctc' too"),
        ("llm/clean.tsv", "'llm' too"),
        ("whisper/clean.tsv", "'whisper' too"),
        ("theirs/claen.tsv", r"theirs/claen\.tsv: no set .*Did you mean 'clean'\?"),
        ("theirs/clean.txt", r"theirs/clean\.txt: no set .*<set>\.tsv"),
    ],
)
def test_a_name_that_is_taken_or_unknown_stops(path: str, says: str) -> None:
    put(THEIRS, path)
    with pytest.raises(InputError, match=says):
        scores()


def test_a_text_that_is_no_text_stops() -> None:
    """A missing value is no empty text: an empty text was decoded, a missing one was not."""
    for change, says in (
        ({"text": None}, "clean: the text of 'c-2'.*None"),
        ({"reference": None}, "clean: the reference of 'c-2'"),
    ):
        own = rows("free", CLEAN, 3)
        own[1] = replace(own[1], **change)
        hold("test/clean", own)
        with pytest.raises(InputError, match=rf"{says}.*dvc repro -f decode"):
            scores()
    own[1] = replace(own[1], reference="GOOD morning", text="nan")
    hold("test/clean", own)
    assert scores()["clean"]["free"]["substitutions"] == 3, "the word 'nan' is a word"


def test_two_references_of_one_utterance_stop() -> None:
    other = rows("ctc", CLEAN, 4)
    other[2] = replace(other[2], reference="yes!")
    hold("test/clean", rows("free", CLEAN, 3) + other)
    with pytest.raises(
        InputError, match="clean: 'c-3' has another reference in the hypotheses of 'ctc'"
    ):
        scores()


def test_the_order_of_rows_changes_nothing() -> None:
    first = scores(), utterances()
    hold("test/clean", rows("free", CLEAN, 3) + rows("ctc", CLEAN, 4)[::-1])
    assert (scores(), utterances()) == first


def test_a_set_that_the_corpus_does_not_list_stops() -> None:
    lists({"mine": {**CORPUS, "test": {"clean": {"kind": "table"}, "others": {"kind": "table"}}}})
    with pytest.raises(
        InputError,
        match=r"test/other, which the corpus 'mine' does not list.*Did you mean 'others'",
    ):
        scores()


def test_an_altered_set_says_its_condition() -> None:
    found = scores()
    assert all(
        each["condition"] == {"name": "snr_db", "value": 5.0} for each in found["other"].values()
    )
    assert all(
        each["condition"] == {"name": "tempo", "value": 0.8} for each in found["quiet"].values()
    )
    assert not any("condition" in each for each in found["clean"].values())
    lists({"mine": {**CORPUS, "dev": {"dev": {"kind": "altered", "source": {"kind": "table"}}}}})
    with pytest.raises(InputError, match=r"none of snr_db, tempo, cut, around_seconds"):
        scores()


@pytest.fixture
def subset() -> list:
    """test-clean in small: the archive's totals are those of four utterances."""
    archive = yaml.safe_load((REPOSITORY / "catalogue/archive.yaml").read_text())
    archive["librispeech"]["files"]["test-clean.tar.gz"] |= {"utterances": 4, "words": 12}
    Path("catalogue/archive.yaml").write_text(yaml.safe_dump(archive))
    entry = {"kind": "librispeech", "root": "elsewhere", "subsets": ["test-clean"]}
    lists({"mine": {**CORPUS, "test": {"clean": entry, "other": entry}}})
    return CLEAN


def test_the_words_of_a_whole_subset_are_checked(subset: list) -> None:
    found = scores()
    assert all(each["words_checked"] is True for each in found["clean"].values())
    assert all(each["words_checked"] is False for each in found["other"].values()), (
        "a part of a subset"
    )
    assert not any("words_checked" in each for each in found["dev"].values()), (
        "no part of LibriSpeech"
    )
    short = [(*subset[0][:2], "the cat sat on mat", *subset[0][3:]), *subset[1:]]
    hold("test/clean", rows("free", short, 3))
    with pytest.raises(
        InputError, match="clean: 11 reference words in 4 utterances, but test-clean has 12"
    ):
        scores()


def test_the_words_are_those_that_librispeech_has(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(REPOSITORY)
    known = {
        each.folder: each.packed.words for each in archives("librispeech") if each.packed.words
    }
    assert known == {"test-clean": 52_576, "test-other": 52_343}


def test_every_utterance_has_its_errors() -> None:
    found, held = scores(), utterances()
    assert len(held) == 2 * (4 + 2 + 3 + 4)
    assert {row["role"] for row in held} == {"test", "dev", "nonspeech-test"}
    for row in held:
        errors = count_word_errors([row["reference"]], [row["text"]], "casefold")
        assert {key: row[key] for key in COUNTS} == {key: getattr(errors, key) for key in COUNTS}
    for name in ("clean", "other", "dev"):
        for system, each in found[name].items():
            own = [row for row in held if (row["set"], row["system"]) == (name, system)]
            assert all(sum(row[key] for row in own) == each[key] for key in COUNTS)
            assert (
                round(
                    sum(row["character_errors"] for row in own)
                    / sum(row["characters"] for row in own),
                    6,
                )
                == each["cer"]
            )
    kinds = {(row["set"], row["system"], row["id"]): row["kind"] for row in held}
    assert (
        kinds["clean", "free", "c-1"],
        kinds["clean", "ctc", "c-3"],
        kinds["clean", "free", "c-2"],
    ) == ("run-on", "loop", "")
    assert (kinds["quiet", "ctc", "q-1"], kinds["quiet", "ctc", "q-2"]) == ("text", "")


def test_groups_add_up_to_the_whole() -> None:
    lengths, languages = [0.5, 2.0, 30.0, 29.9], ["en", "de", "en", ""]
    own = [
        replace(row, duration_s=seconds, language=language)
        for row, seconds, language in zip(rows("free", CLEAN, 3), lengths, languages)
    ]
    hold("test/clean", own)
    found = scores()["clean"]["free"]
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
            assert sum(int(row[key]) for row in parts if row["by"] == by) == found[key]
    english = parts[-1]
    assert (float(english["wer"]), english["words"]) == (round(4 / 7, 6), "7")
    assert float(english["low"]) <= 4 / 7 <= float(english["high"])
    assert not [
        row for row in table("groups.csv") if row["set"] == "dev" and row["by"] == "language"
    ], "no language is known there"


def test_the_interval_says_what_was_resampled() -> None:
    found = scores()
    assert found["clean"]["free"]["interval_by"] == "speaker"
    assert found["other"]["free"]["interval_by"] == "utterance", "one speaker alone"
    off = scores(resamples=0)
    assert not {"wer_low", "wer_high", "interval_by"} & off["clean"]["free"].keys()
    assert off["clean"]["free"]["wer"] == found["clean"]["free"]["wer"]
    assert {row["low"] for row in table("groups.csv")} == {""}


def test_references_without_a_word_have_no_rate_and_no_interval() -> None:
    hold("dev/dev", rows("free", QUIET, 4))
    found = scores()["dev"]["free"]
    assert (found["wer"], found["cer"], found["words"], found["insertions"]) == (0.0, 0.0, 0, 3)
    assert "wer_low" not in found
    assert found["insertion_kinds"]["other"] == 3


def test_the_n_best_comes_back_as_it_was_written() -> None:
    others = [Hypothesis("the cat", score=-2.5), Hypothesis("", score=-math.inf)]
    own = [replace(row, alternatives=others, language="en") for row in rows("free", CLEAN, 3)]
    hold("test/clean", own)
    assert read_hypotheses(Path("data/decode/test/clean.parquet")) == own


def test_without_other_systems_nothing_is_asked_of_the_folder() -> None:
    assert {each.name for each in read_sets(Path("data/decode"), Path("data/systems"))} == {
        "clean",
        "other",
        "dev",
        "quiet",
    }
    put(THEIRS)
    shutil.rmtree("data/systems/theirs")
    scores()
