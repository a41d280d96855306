"""The stage: keys and values of its figures, refused hypotheses, and parts that add up to the
set.
"""

from __future__ import annotations

import csv
import json
import math
import os
import re
import shutil
import subprocess
import sys
from collections import defaultdict
from dataclasses import replace
from pathlib import Path

import pytest

from components.decode.hypotheses import read_hypotheses, write_hypotheses
from components.runtime.artifact import read_record
from components.runtime.hashing import folder_digests
from components.score.build import METRICS
from components.score.table import print_tables
from components.text.hypothesis import Hypothesis
from components.text.wer import count_word_errors
from tests.conftest import REPOSITORY
from tests.errors import refused
from tests.score.workspace import (
    CLEAN,
    COUNTS,
    KINDS,
    build_hypotheses,
    run_score,
    write_set,
)

pytestmark = pytest.mark.usefixtures("workspace")


def test_every_set_and_system_has_its_figures() -> None:
    scores = run_score()
    assert scores.keys() == {"clean", "other", "dev", "nonspeech"}
    assert all(systems.keys() == {"free", "ctc"} for systems in scores.values())
    for name in ("clean", "other", "dev"):
        for figures in scores[name].values():
            keys = {
                "wer",
                "wer_low",
                "wer_high",
                "interval_by",
                *COUNTS,
                "cer",
                "text_form",
                "forms",
                "insertion_kinds",
                "at_limit",
            }
            assert figures.keys() - {"condition"} == keys
            assert figures["text_form"] == "casefold"
            assert figures["wer"] == pytest.approx(
                sum(figures[key] for key in COUNTS[:3]) / figures["words"], abs=1e-6
            )
            assert figures["wer_low"] <= figures["wer"] <= figures["wer_high"]
            assert figures["insertion_kinds"].keys() == KINDS
            assert sum(figures["insertion_kinds"].values()) == figures["insertions"]
            assert figures["forms"].keys() == {"as-is", "casefold", "whisper"}
    for figures in scores["nonspeech"].values():
        assert figures.keys() == {
            "text_rate",
            "clips",
            "characters_a_minute",
            "insertion_kinds",
            "at_limit",
            "condition",
        }
        assert sum(figures["insertion_kinds"].values()) == figures["text_rate"] * figures["clips"]


def test_the_figures_are_those_of_the_texts() -> None:
    scores = run_score()
    free = {
        "substitutions": 2,
        "deletions": 2,
        "insertions": 1,
        "words": 12,
        "text_form": "casefold",
        "wer": round(5 / 12, 6),
        "forms": {
            "as-is": round(6 / 12, 6),
            "casefold": round(5 / 12, 6),
            "whisper": round(5 / 12, 6),
        },
        "insertion_kinds": {"loop": 0, "echo": 0, "refusal": 0, "run-on": 1, "other": 0},
    }
    assert {key: scores["clean"]["free"][key] for key in free} == free
    assert scores["clean"]["ctc"]["substitutions"] == scores["clean"]["ctc"]["insertions"] == 1
    assert scores["clean"]["ctc"]["insertion_kinds"]["loop"] == 1
    # Of 22 + 12 + 3 + 11 characters: 1 replaced, "on " and "yes" missing, " today" more, "this" for
    # "it" 3 wrong.
    assert scores["clean"]["free"]["cer"] == round((1 + 3 + 6 + 3 + 3) / 48, 6)
    kinds = {"loop": 0, "echo": 0, "refusal": 0, "text": 1}
    assert {
        key: scores["nonspeech"]["free"][key]
        for key in ("text_rate", "clips", "characters_a_minute", "insertion_kinds")
    } == {"text_rate": 0.25, "clips": 4, "characters_a_minute": 15.0, "insertion_kinds": kinds}
    assert scores["nonspeech"]["ctc"]["text_rate"] == 0.5
    for name, utterances in (("clean", CLEAN), ("other", CLEAN[:2]), ("dev", CLEAN[1:])):
        references, texts = [row[2] for row in utterances], [row[3] for row in utterances]
        errors = count_word_errors(references, texts, "casefold")
        assert {key: scores[name]["free"][key] for key in COUNTS} == {
            key: getattr(errors, key) for key in COUNTS
        }


def test_words_of_a_context_of_the_search_are_an_echo_where_nobody_says_them() -> None:
    kinds = {
        context: run_score(context=context)["nonspeech"]["ctc"]["insertion_kinds"]
        for context in ("", "thank you")
    }
    assert kinds["thank you"]["echo"] == kinds[""]["echo"] + 1
    assert kinds["thank you"]["text"] == kinds[""]["text"] - 1


def test_the_text_form_is_a_parameter() -> None:
    folded, exact = run_score("casefold"), run_score("as-is")
    assert exact["clean"]["free"]["text_form"] == "as-is"
    assert exact["clean"]["free"]["substitutions"] == folded["clean"]["free"]["substitutions"] + 1


def speakers() -> dict[tuple[str, str], dict[str, dict[str, str]]]:
    """Rows of ``speakers.csv`` by set and system, and by speaker."""
    by_speaker: dict = defaultdict(dict)
    with Path("data/score/speakers.csv").open(encoding="utf-8", newline="") as stream:
        for row in csv.DictReader(stream):
            by_speaker[row["set"], row["system"]][row["speaker"]] = row
    return by_speaker


def test_speakers_add_up_to_the_set() -> None:
    scores, by_speaker = run_score(), speakers()
    assert by_speaker.keys() == {
        (name, system) for name in ("clean", "other", "dev") for system in ("free", "ctc")
    }
    for (name, system), rows in by_speaker.items():
        for key in COUNTS:
            assert sum(int(row[key]) for row in rows.values()) == scores[name][system][key]
        for row in rows.values():
            assert float(row["wer"]) == pytest.approx(
                sum(int(row[key]) for key in COUNTS[:3]) / int(row["words"]), abs=1e-6
            )
    assert by_speaker["clean", "free"].keys() == {"ann", "bob", ""}


def test_a_name_with_a_comma_stays_one_name() -> None:
    named = [(name, 'Smith, "Ann"', *rest) for name, _, *rest in CLEAN]
    write_set("test/clean", build_hypotheses("free", named, 3))
    scores = run_score()
    assert speakers()["clean", "free"]['Smith, "Ann"']["words"] == str(
        scores["clean"]["free"]["words"]
    )


@pytest.mark.parametrize(
    ("change", "utterance_id"),
    [
        (lambda hypotheses: hypotheses[:-1], "c-4"),
        (lambda hypotheses: hypotheses[1:], "c-1"),
        (lambda hypotheses: [*hypotheses, hypotheses[-2]], "c-3"),
        (lambda hypotheses: [*hypotheses, replace(hypotheses[-1], utterance_id="c-9")], "c-9"),
        (lambda hypotheses: [*hypotheses[:-1], replace(hypotheses[-1], utterance_id="c-9")], "c-4"),
    ],
)
def test_incomplete_hypotheses_are_refused(change, utterance_id: str) -> None:
    """A missing, duplicate or unknown utterance makes figures incomparable."""
    free, ctc = build_hypotheses("free", CLEAN, 3), build_hypotheses("ctc", CLEAN, 4)
    for hypotheses in (free + change(ctc), change(free) + ctc):
        write_set("test/clean", hypotheses)
        with refused("clean", utterance_id):
            run_score()
        assert not METRICS.exists()
        assert not Path("data/score/inputs.json").exists()


def test_two_sets_of_one_name_are_refused() -> None:
    write_set("dev/clean", build_hypotheses("free", CLEAN, 3))
    with refused("clean"):
        run_score()


def test_hypotheses_without_their_record_are_refused() -> None:
    (Path("data/decode") / "inputs.json").unlink()
    with refused("data/decode"):
        run_score()


def test_two_runs_give_the_same_bytes() -> None:
    run_score()
    first, figures = folder_digests(Path("data/score")), METRICS.read_bytes()
    run_score()
    assert folder_digests(Path("data/score")) == first
    assert METRICS.read_bytes() == figures
    assert read_record(Path("data/score"))["parameters"] == {
        "text_form": "casefold",
        "resamples": 200,
    }


def test_hypotheses_come_back_as_they_were_written() -> None:
    hypotheses = [
        Hypothesis("\n ", [], math.nan, [], "ctc", "a", reference="四", duration_s=0.5),
        Hypothesis("x", [5, 2**40], -3.25, [], "free", "a", "ann", "en", "", 0.5),
    ]
    write_hypotheses(Path("some.parquet"), hypotheses)
    again = read_hypotheses(Path("some.parquet"))
    assert math.isnan(again[0].score)
    assert [replace(row, score=0.0) for row in again] == [
        replace(row, score=0.0) for row in hypotheses
    ]
    assert again[1].score == -3.25


def run_record(stage: str, name: str, started: str, seconds: float) -> None:
    path = Path("runs") / stage.split("@")[0] / f"{name}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps({"stage": stage, "started": started, "seconds": seconds}))


def test_the_tables_have_every_figure(capsys: pytest.CaptureFixture) -> None:
    scores = run_score()
    run_record("corpus@train", "one", "2026-01-01T10:00:00Z", 100.0)
    run_record("corpus@train", "two", "2026-01-02T10:00:00Z", 3.0)
    run_record("corpus@test", "one", "2026-01-02T10:00:05Z", 4.5)
    run_record("score", "one", "2026-01-02T10:01:00Z", 2.0)
    print_tables()
    cells = [
        re.split(r"\s*[│┃|]\s*", line.strip().strip("│┃|").strip())
        for line in capsys.readouterr().out.splitlines()
    ]
    for name in ("clean", "other", "dev"):
        for system, figures in scores[name].items():
            counts = [
                str(figures[key]) for key in ("substitutions", "deletions", "insertions", "words")
            ]
            rate = (
                f"{100 * figures['wer']:.2f} "
                f"({100 * figures['wer_low']:.2f}–{100 * figures['wer_high']:.2f})"
            )
            assert [
                name,
                system,
                rate,
                *counts,
                f"{100 * figures['cer']:.2f}",
                "0",  # at the limit of length
                figures["text_form"],
            ] in cells
    assert ["clean", "free", "0", "0", "0", "1", "0"] in cells  # inserted words by kind
    assert ["clean", "ctc", "1", "0", "0", "0", "0"] in cells
    assert ["nonspeech", "free", "25.0", "4", "15.0", "0", "0", "0", "1"] in cells
    assert ["nonspeech", "ctc", "50.0", "4", "90.0", "0", "0", "0", "2"] in cells
    # The latest run of each role, roles added up.
    assert ["corpus", "7.5"] in cells
    assert ["score", "2.0"] in cells
    assert ["all", "9.5"] in cells


def test_the_command_prints_the_tables_or_an_error() -> None:
    def table() -> subprocess.CompletedProcess:
        environment = {**os.environ, "PYTHONPATH": str(REPOSITORY)}
        command = [sys.executable, "-m", "components.score", "table"]
        return subprocess.run(command, capture_output=True, text=True, env=environment)

    missing = table()
    assert missing.returncode == 2
    assert missing.stderr.startswith("score: metrics/score.json")
    run_score()
    shutil.rmtree("data/decode")
    done = table()
    assert done.returncode == 0, done.stderr
    assert "Word error rate" in done.stdout
    assert "data/score/speakers.csv" in done.stdout
    assert "data/decode" not in done.stdout
