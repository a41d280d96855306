"""Hypotheses → figures: their shape, what stops them, and that parts add up to the whole."""

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

from components.config.errors import InputError
from components.decode.hypotheses import read_hypotheses, write_hypotheses
from components.runtime.artifact import read_record
from components.runtime.hashing import folder_digests
from components.score.build import METRICS
from components.score.table import show
from components.text.hypothesis import Hypothesis
from components.text.wer import count_word_errors
from tests.conftest import REPOSITORY
from tests.score.workspace import CLEAN, COUNTS, KINDS, hold, rows, scores

pytestmark = pytest.mark.usefixtures("house")


def test_every_set_and_system_has_its_figures() -> None:
    found = scores()
    assert found.keys() == {"clean", "other", "dev", "quiet"}
    assert all(systems.keys() == {"free", "ctc"} for systems in found.values())
    for name in ("clean", "other", "dev"):
        for each in found[name].values():
            figures = {
                "wer",
                "wer_low",
                "wer_high",
                "interval_by",
                *COUNTS,
                "cer",
                "text_form",
                "forms",
                "insertion_kinds",
            }
            assert each.keys() - {"condition"} == figures
            assert each["text_form"] == "casefold"
            assert each["wer"] == pytest.approx(
                sum(each[key] for key in COUNTS[:3]) / each["words"], abs=1e-6
            )
            assert each["wer_low"] <= each["wer"] <= each["wer_high"]
            assert each["insertion_kinds"].keys() == KINDS
            assert sum(each["insertion_kinds"].values()) == each["insertions"]
            assert each["forms"].keys() == {"as-is", "casefold", "whisper"}
    for each in found["quiet"].values():
        assert each.keys() == {
            "text_rate",
            "clips",
            "characters_a_minute",
            "insertion_kinds",
            "condition",
        }
        assert sum(each["insertion_kinds"].values()) == each["text_rate"] * each["clips"]


def test_the_figures_are_those_of_the_texts() -> None:
    found = scores()
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
    assert {key: found["clean"]["free"][key] for key in free} == free
    assert found["clean"]["ctc"]["substitutions"] == found["clean"]["ctc"]["insertions"] == 1
    assert found["clean"]["ctc"]["insertion_kinds"]["loop"] == 1
    # Of 22 + 12 + 3 + 11 characters: 1 replaced, "on " and "yes" missing, " today" more, "this" for
    # "it" 3 wrong.
    assert found["clean"]["free"]["cer"] == round((1 + 3 + 6 + 3 + 3) / 48, 6)
    kinds = {"loop": 0, "echo": 0, "refusal": 0, "text": 1}
    assert {
        key: found["quiet"]["free"][key]
        for key in ("text_rate", "clips", "characters_a_minute", "insertion_kinds")
    } == {"text_rate": 0.25, "clips": 4, "characters_a_minute": 15.0, "insertion_kinds": kinds}
    assert found["quiet"]["ctc"]["text_rate"] == 0.5
    for name, told in (("clean", CLEAN), ("other", CLEAN[:2]), ("dev", CLEAN[1:])):
        errors = count_word_errors([row[2] for row in told], [row[3] for row in told], "casefold")
        assert {key: found[name]["free"][key] for key in COUNTS} == {
            key: getattr(errors, key) for key in COUNTS
        }


def test_the_text_form_is_the_one_asked_for() -> None:
    folded, exact = scores("casefold"), scores("as-is")
    assert exact["clean"]["free"]["text_form"] == "as-is"
    assert exact["clean"]["free"]["substitutions"] == folded["clean"]["free"]["substitutions"] + 1


def speakers() -> dict[tuple[str, str], dict[str, dict[str, str]]]:
    """Rows of ``speakers.csv`` by set and system, and by speaker."""
    found: dict = defaultdict(dict)
    with Path("data/score/speakers.csv").open(encoding="utf-8", newline="") as stream:
        for row in csv.DictReader(stream):
            found[row["set"], row["system"]][row["speaker"]] = row
    return found


def test_speakers_add_up_to_the_whole() -> None:
    found, by_speaker = scores(), speakers()
    assert by_speaker.keys() == {
        (name, system) for name in ("clean", "other", "dev") for system in ("free", "ctc")
    }
    for (name, system), held in by_speaker.items():
        for key in COUNTS:
            assert sum(int(row[key]) for row in held.values()) == found[name][system][key]
        for row in held.values():
            assert float(row["wer"]) == pytest.approx(
                sum(int(row[key]) for key in COUNTS[:3]) / int(row["words"]), abs=1e-6
            )
    assert by_speaker["clean", "free"].keys() == {"ann", "bob", ""}


def test_a_name_with_a_comma_stays_one_name() -> None:
    named = [(name, 'Smith, "Ann"', *rest) for name, _, *rest in CLEAN]
    hold("test/clean", rows("free", named, 3))
    found = scores()
    assert speakers()["clean", "free"]['Smith, "Ann"']["words"] == str(
        found["clean"]["free"]["words"]
    )


@pytest.mark.parametrize(
    ("change", "names"),
    [
        (lambda held: held[:-1], "c-4"),
        (lambda held: held[1:], "c-1"),
        (lambda held: [*held, held[-2]], "c-3"),
        (lambda held: [*held, replace(held[-1], utterance_id="c-9")], "c-9"),
        (lambda held: [*held[:-1], replace(held[-1], utterance_id="c-9")], "c-4"),
    ],
)
def test_hypotheses_that_are_not_whole_stop(change, names: str) -> None:
    """One missing, doubled or strange utterance makes a figure that compares nothing."""
    free, ctc = rows("free", CLEAN, 3), rows("ctc", CLEAN, 4)
    for found in (free + change(ctc), change(free) + ctc):
        hold("test/clean", found)
        with pytest.raises(
            InputError,
            match=(
                rf"clean: the hypotheses of '(free|ctc)' miss or double .*{names}.*dvc repro "
                r"-f decode"
            ),
        ):
            scores()
        assert not METRICS.exists()
        assert not Path("data/score/inputs.json").exists()


def test_two_sets_of_one_name_stop() -> None:
    hold("dev/clean", rows("free", CLEAN, 3))
    with pytest.raises(InputError, match=r"Two sources are called 'clean'.*catalogue/corpus\.yaml"):
        scores()


def test_hypotheses_without_their_record_stop() -> None:
    (Path("data/decode") / "inputs.json").unlink()
    with pytest.raises(InputError, match=r"data/decode is missing or not whole"):
        scores()


def test_two_runs_give_the_same_bytes() -> None:
    scores()
    first, figures = folder_digests(Path("data/score")), METRICS.read_bytes()
    scores()
    assert folder_digests(Path("data/score")) == first
    assert METRICS.read_bytes() == figures
    assert read_record(Path("data/score"))["parameters"] == {
        "text_form": "casefold",
        "resamples": 200,
    }


def test_hypotheses_come_back_as_they_were_written() -> None:
    found = [
        Hypothesis("\n ", [], math.nan, [], "ctc", "a", reference="四", duration_s=0.5),
        Hypothesis("x", [5, 2**40], -3.25, [], "free", "a", "ann", "en", "", 0.5),
    ]
    write_hypotheses(Path("some.parquet"), found)
    again = read_hypotheses(Path("some.parquet"))
    assert math.isnan(again[0].score)
    assert [replace(row, score=0.0) for row in again] == [replace(row, score=0.0) for row in found]
    assert again[1].score == -3.25


def run_record(stage: str, name: str, started: str, seconds: float) -> None:
    path = Path("runs") / stage.split("@")[0] / f"{name}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps({"stage": stage, "started": started, "seconds": seconds}))


def test_the_table_shows_every_figure(capsys: pytest.CaptureFixture) -> None:
    found = scores()
    run_record("corpus@train", "one", "2026-01-01T10:00:00Z", 100.0)
    run_record("corpus@train", "two", "2026-01-02T10:00:00Z", 3.0)
    run_record("corpus@test", "one", "2026-01-02T10:00:05Z", 4.5)
    run_record("score", "one", "2026-01-02T10:01:00Z", 2.0)
    show()
    cells = [
        re.split(r"\s*[│┃|]\s*", line.strip().strip("│┃|").strip())
        for line in capsys.readouterr().out.splitlines()
    ]
    for name in ("clean", "other", "dev"):
        for system, each in found[name].items():
            counts = [
                str(each[key]) for key in ("substitutions", "deletions", "insertions", "words")
            ]
            rate = (
                f"{100 * each['wer']:.2f} "
                f"({100 * each['wer_low']:.2f}–{100 * each['wer_high']:.2f})"
            )
            assert [
                name,
                system,
                rate,
                *counts,
                f"{100 * each['cer']:.2f}",
                each["text_form"],
            ] in cells
    assert ["clean", "free", "0", "0", "0", "1", "0"] in cells  # inserted words by kind
    assert ["clean", "ctc", "1", "0", "0", "0", "0"] in cells
    assert ["quiet", "free", "25.0", "4", "15.0", "0", "0", "0", "1"] in cells
    assert ["quiet", "ctc", "50.0", "4", "90.0", "0", "0", "0", "2"] in cells
    # The latest run of each role, roles added up.
    assert ["corpus", "7.5"] in cells
    assert ["score", "2.0"] in cells
    assert ["all", "9.5"] in cells


def test_the_command_prints_the_table_or_the_way_out() -> None:
    def table() -> subprocess.CompletedProcess:
        environment = {**os.environ, "PYTHONPATH": str(REPOSITORY)}
        command = [sys.executable, "-m", "components.score", "table"]
        return subprocess.run(command, capture_output=True, text=True, env=environment)

    missing = table()
    assert missing.returncode == 1
    assert missing.stderr == "score: metrics/score.json is not there. Run 'dvc repro'.\n"
    scores()
    shutil.rmtree("data/decode")
    done = table()
    assert done.returncode == 0, done.stderr
    assert "Word error rate" in done.stdout
    assert "data/score/speakers.csv" in done.stdout
    assert "data/decode" not in done.stdout
