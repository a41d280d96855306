"""Several runs on one page: rates, differences to the first run, systems in the error browser."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from components.report.comparison import write_comparison
from components.score import significance
from tests.conftest import REPOSITORY
from tests.errors import refused
from tests.report import finished
from tests.report.finished import CLEAN, ROLES
from tests.report.test_report import ReportPage, data_of

BETTER = [
    replace(utterance, texts=(utterance.reference, *utterance.texts[1:])) for utterance in CLEAN
]


@pytest.fixture(autouse=True)
def runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Two workspaces, ``old`` and ``new``, on the same sets; the first has its audio."""
    for name, utterances in (("old", CLEAN), ("new", BETTER)):
        (tmp_path / name).mkdir()
        monkeypatch.chdir(tmp_path / name)
        finished.write_run(
            {**ROLES, "test": {"clean": utterances, "noisy": CLEAN[:2]}}, audio=name == "old"
        )
    monkeypatch.chdir(tmp_path)
    shutil.copyfile("old/params.yaml", "params.yaml")
    return tmp_path


def score(folder: str) -> dict[str, Any]:
    return json.loads(Path(folder, "metrics/score.json").read_text())


def test_rates_and_their_difference() -> None:
    write_comparison(["old", "second=new"])
    page = ReportPage(Path("runs/report/compare.html").read_text())
    head = next(row for row in page.rows if row[:3] == ["Set", "System", "Rate"])
    assert head[3:6] == ["old", "second", "second − old"]
    row = next(row for row in page.rows if row[:3] == ["clean", "free", "WER"])
    rates = [100 * score(name)["clean"]["free"]["wer"] for name in ("old", "new")]
    assert row[3].startswith(f"{rates[0]:.2f} (") and row[4].startswith(f"{rates[1]:.2f} (")
    assert float(row[5]) == pytest.approx(rates[1] - rates[0], abs=0.02) and float(row[5]) < 0
    assert next(row for row in page.rows if row[:3] == ["noisy", "free", "WER"])[5] == "+0.00"
    assert ["nonspeech", "free", "clips with text", "33.33", "33.33", "+0.00"] in [
        row[:6] for row in page.rows
    ]


def test_the_error_browser_has_the_systems_of_all_runs_and_the_audio_of_the_first() -> None:
    write_comparison(["old", "new", "--out", "page.html"])
    data = data_of(Path("page.html").read_text())
    assert data["systems"] == [
        f"{run}/{system}" for run in ("old", "new") for system in finished.SYSTEMS
    ]
    rows = {(data["sets"][row[0]], row[1]): row for row in data["utterances"]}
    assert (
        rows["clean", "c-1"][8][0][0] == CLEAN[0].texts[0]
        and rows["clean", "c-1"][8][3][0] == CLEAN[0].reference
    )
    assert rows["clean", "c-1"][7] >= 0


def test_a_folder_may_have_only_the_two_files_and_lack_a_set() -> None:
    Path("flat").mkdir()
    scores = score("new")
    del scores["noisy"]
    Path("flat/score.json").write_text(json.dumps(scores))
    shutil.copyfile("new/data/score/utterances.parquet", "flat/utterances.parquet")
    write_comparison(["old", "flat"])
    page = ReportPage(Path("runs/report/compare.html").read_text())
    row = next(row for row in page.rows if row[:3] == ["noisy", "free", "WER"])
    assert row[3] and not any(row[4:])


def test_an_additional_set_of_a_later_run_has_no_audio(
    monkeypatch: pytest.MonkeyPatch, runs: Path
) -> None:
    monkeypatch.chdir(runs / "new")
    finished.write_run({**ROLES, "test": {**ROLES["test"], "extra": CLEAN}}, audio=False)
    monkeypatch.chdir(runs)
    write_comparison(["old", "new"])
    page = Path("runs/report/compare.html").read_text()
    row = next(row for row in ReportPage(page).rows if row[:3] == ["extra", "free", "WER"])
    assert not row[3] and row[4] and not row[5]
    data = data_of(page)
    clips = {(data["sets"][row[0]], row[1]): row[7] for row in data["utterances"]}
    assert clips["extra", "c-4"] == -1 and clips["clean", "c-4"] >= 0


def test_perplexities_name_their_run() -> None:
    for name, value in (("old", 31.5), ("new", 12.25)):
        scores = score(name)
        scores["clean"]["llm"] = {"perplexity": value, "words": 20}
        Path(name, "metrics/score.json").write_text(json.dumps(scores))
    write_comparison(["a/b=old", "new"])
    page = ReportPage(Path("runs/report/compare.html").read_text())
    assert ["Set", "Run", "Perplexity", "Words"] in page.rows
    assert [row for row in page.rows if row[-2:] in (["31.50", "20"], ["12.25", "20"])] == [
        ["clean", "a/b", "31.50", "20"],
        ["clean", "new", "12.25", "20"],
    ]


def test_labels_and_folders_may_contain_an_equals_sign() -> None:
    shutil.copytree("new", "exp/lr=0.1")
    for text, label in (
        ("exp/lr=0.1", "lr=0.1"),
        ("lr=3=exp/lr=0.1", "lr=3"),
        ("lr=1=new", "lr=1"),
    ):
        write_comparison(["old", text])
        head = next(
            row
            for row in ReportPage(Path("runs/report/compare.html").read_text()).rows
            if row[:3] == ["Set", "System", "Rate"]
        )
        assert head[3:5] == ["old", label]


def test_the_significance_test_gets_the_same_utterances_in_one_order(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    calls = []

    def compare(
        first: np.ndarray,
        second: np.ndarray,
        words: np.ndarray,
        speakers: list[str],
        resamples: int,
    ) -> SimpleNamespace:
        calls.append((first.tolist(), second.tolist(), words.tolist(), speakers))
        return SimpleNamespace(low=-0.5, high=0.25, matched_p=0.0312)

    monkeypatch.setattr(significance, "compare", compare)
    write_comparison(["old", "new"])
    rows = {
        row[1]: row
        for row in data_of(Path("runs/report/compare.html").read_text())["utterances"]
        if row[0] == 0
    }
    old = [sum(rows[utterance.id][8][0][3:6]) for utterance in CLEAN]
    assert (
        old,
        [0] * len(CLEAN),
        [len(utterance.reference.split()) for utterance in CLEAN],
        [utterance.speaker for utterance in CLEAN],
    ) in calls
    assert len(calls) == 9, "no test on sets without speech"
    page = ReportPage(Path("runs/report/compare.html").read_text())
    assert (
        next(row for row in page.rows if row[:3] == ["clean", "free", "WER"])[6]
        == "-50.00 to +25.00, p = 0.031"
    )
    assert (
        next(row for row in page.rows if row[0] == "nonspeech" and row[2] == "clips with text")[6]
        == ""
    )


def test_differences_have_an_interval_and_a_p_value() -> None:
    write_comparison(["old", "new"])
    page = ReportPage(Path("runs/report/compare.html").read_text())
    assert re.fullmatch(
        r"[+-]\S+ to [+-]\S+, p = [01]\.\d{3}",
        next(row for row in page.rows if row[:2] == ["clean", "free"])[6],
    )


def test_the_same_runs_give_the_same_page() -> None:
    write_comparison(["old", "new", "--out", "one.html"])
    write_comparison(["old", "new", "--out", "two.html"])
    assert Path("one.html").read_bytes() == Path("two.html").read_bytes()


def assert_refused(arguments: list[str], subject: str, *names: str) -> None:
    with refused(subject, *names):
        write_comparison(arguments)
    assert not Path("runs/report/compare.html").exists()


def test_runs_that_cannot_be_compared_are_refused(
    monkeypatch: pytest.MonkeyPatch, runs: Path
) -> None:
    assert_refused(["old"], "runs", "old")
    assert_refused(["old", "old=new"], "runs", "LABEL=FOLDER")
    assert_refused(["old", "nowhere"], "nowhere", "nowhere/metrics/score.json")
    scores = score("new")
    for name in ("clean", "noisy", "dev"):
        for figures in scores[name].values():
            figures["text_form"] = "as-is"
    Path("new/metrics/score.json").write_text(json.dumps(scores))
    assert_refused(["old", "new"], "score.text_form", "'old'", "casefold", "'new'", "as-is")
    monkeypatch.chdir(runs / "new")
    changed = [replace(CLEAN[0], reference="another")]
    finished.write_run({**ROLES, "test": {"clean": changed, "noisy": []}}, audio=False)
    monkeypatch.chdir(runs)
    assert_refused(["old", "new"], "c-1", "clean", "'new'")


def test_the_command_exits_with_2_for_a_wrong_folder() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "components.report", "compare", "old", "nowhere"],
        env={"PYTHONPATH": str(REPOSITORY)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 2
    assert "nowhere/metrics/score.json" in done.stderr
