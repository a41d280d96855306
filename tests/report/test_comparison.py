"""Several runs on one page: rates side by side, differences to the first, all systems in the error
browser.
"""

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

from components.config.errors import InputError
from components.report import comparison
from components.report.comparison import compare
from tests.conftest import REPOSITORY
from tests.report import finished
from tests.report.finished import CLEAN, ROLES
from tests.report.test_report import Page, data_of

BETTER = [replace(each, texts=(each.reference, *each.texts[1:])) for each in CLEAN]


@pytest.fixture(autouse=True)
def runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Two workspaces, ``old`` and ``new``, on the same sets; the first has its audio."""
    for name, heard in (("old", CLEAN), ("new", BETTER)):
        (tmp_path / name).mkdir()
        monkeypatch.chdir(tmp_path / name)
        finished.write({**ROLES, "test": {"clean": heard, "noisy": CLEAN[:2]}}, audio=name == "old")
    monkeypatch.chdir(tmp_path)
    shutil.copyfile("old/params.yaml", "params.yaml")
    return tmp_path


def score(folder: str) -> dict[str, Any]:
    return json.loads(Path(folder, "metrics/score.json").read_text())


def test_rates_stand_side_by_side_with_their_difference() -> None:
    compare(["old", "second=new"])
    page = Page(Path("runs/report/compare.html").read_text())
    head = next(row for row in page.rows if row[:3] == ["Set", "System", "Rate"])
    assert head[3:6] == ["old", "second", "second − old"]
    row = next(row for row in page.rows if row[:3] == ["clean", "free", "WER"])
    rates = [100 * score(name)["clean"]["free"]["wer"] for name in ("old", "new")]
    assert row[3].startswith(f"{rates[0]:.2f} (") and row[4].startswith(f"{rates[1]:.2f} (")
    assert float(row[5]) == pytest.approx(rates[1] - rates[0], abs=0.02) and float(row[5]) < 0
    assert next(row for row in page.rows if row[:3] == ["noisy", "free", "WER"])[5] == "+0.00"
    assert ["quiet", "free", "clips with text", "33.33", "33.33", "+0.00"] in [
        row[:6] for row in page.rows
    ]


def test_the_error_browser_has_the_systems_of_all_runs_and_the_audio_of_the_first() -> None:
    compare(["old", "new", "--out", "page.html"])
    data = data_of(Path("page.html").read_text())
    assert data["systems"] == [
        f"{run}/{system}" for run in ("old", "new") for system in finished.SYSTEMS
    ]
    held = {(data["sets"][row[0]], row[1]): row for row in data["utterances"]}
    assert (
        held["clean", "c-1"][8][0][0] == CLEAN[0].texts[0]
        and held["clean", "c-1"][8][3][0] == CLEAN[0].reference
    )
    assert held["clean", "c-1"][7] >= 0


def test_a_folder_may_hold_the_two_files_alone_and_lack_a_set() -> None:
    Path("flat").mkdir()
    scores = score("new")
    del scores["noisy"]
    Path("flat/score.json").write_text(json.dumps(scores))
    shutil.copyfile("new/data/score/utterances.parquet", "flat/utterances.parquet")
    compare(["old", "flat"])
    page = Page(Path("runs/report/compare.html").read_text())
    row = next(row for row in page.rows if row[:3] == ["noisy", "free", "WER"])
    assert row[3] and not any(row[4:])


def test_a_later_run_may_have_a_set_more_which_has_no_audio(
    monkeypatch: pytest.MonkeyPatch, runs: Path
) -> None:
    monkeypatch.chdir(runs / "new")
    finished.write({**ROLES, "test": {**ROLES["test"], "extra": CLEAN}}, audio=False)
    monkeypatch.chdir(runs)
    compare(["old", "new"])
    page = Path("runs/report/compare.html").read_text()
    row = next(row for row in Page(page).rows if row[:3] == ["extra", "free", "WER"])
    assert not row[3] and row[4] and not row[5]
    data = data_of(page)
    clips = {(data["sets"][row[0]], row[1]): row[7] for row in data["utterances"]}
    assert clips["extra", "c-4"] == -1 and clips["clean", "c-4"] >= 0


def test_perplexities_name_their_run() -> None:
    for name, value in (("old", 31.5), ("new", 12.25)):
        scores = score(name)
        scores["clean"]["llm"] = {"perplexity": value, "words": 20}
        Path(name, "metrics/score.json").write_text(json.dumps(scores))
    compare(["a/b=old", "new"])
    page = Page(Path("runs/report/compare.html").read_text())
    assert ["Set", "Run", "Perplexity", "Words"] in page.rows
    assert [row for row in page.rows if row[-2:] in (["31.50", "20"], ["12.25", "20"])] == [
        ["clean", "a/b", "31.50", "20"],
        ["clean", "new", "12.25", "20"],
    ]


def test_labels_and_folders_may_hold_an_equals_sign() -> None:
    shutil.copytree("new", "exp/lr=0.1")
    for text, label in (
        ("exp/lr=0.1", "lr=0.1"),
        ("lr=3=exp/lr=0.1", "lr=3"),
        ("lr=1=new", "lr=1"),
    ):
        compare(["old", text])
        head = next(
            row
            for row in Page(Path("runs/report/compare.html").read_text()).rows
            if row[:3] == ["Set", "System", "Rate"]
        )
        assert head[3:5] == ["old", label]


def test_what_tests_a_difference_gets_the_same_utterances_in_one_order(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    asked = []

    def tested(
        first: np.ndarray,
        second: np.ndarray,
        words: np.ndarray,
        speakers: list[str],
        resamples: int,
    ) -> SimpleNamespace:
        asked.append((first.tolist(), second.tolist(), words.tolist(), speakers))
        return SimpleNamespace(low=-0.5, high=0.25, matched_p=0.0312)

    monkeypatch.setattr(comparison, "tested", tested)
    compare(["old", "new"])
    held = {
        row[1]: row
        for row in data_of(Path("runs/report/compare.html").read_text())["utterances"]
        if row[0] == 0
    }
    old = [sum(held[each.id][8][0][3:6]) for each in CLEAN]
    assert (
        old,
        [0] * len(CLEAN),
        [len(each.reference.split()) for each in CLEAN],
        [each.speaker for each in CLEAN],
    ) in asked
    assert len(asked) == 9, "nothing is tested without speech"
    page = Page(Path("runs/report/compare.html").read_text())
    assert (
        next(row for row in page.rows if row[:3] == ["clean", "free", "WER"])[6]
        == "-50.00 to +25.00, p = 0.031"
    )
    assert (
        next(row for row in page.rows if row[0] == "quiet" and row[2] == "clips with text")[6] == ""
    )


def test_the_tests_of_score_are_understood() -> None:
    compare(["old", "new"])
    page = Page(Path("runs/report/compare.html").read_text())
    assert re.fullmatch(
        r"[+-]\S+ to [+-]\S+, p = [01]\.\d{3}",
        next(row for row in page.rows if row[:2] == ["clean", "free"])[6],
    )


def test_the_same_runs_give_the_same_page() -> None:
    compare(["old", "new", "--out", "one.html"])
    compare(["old", "new", "--out", "two.html"])
    assert Path("one.html").read_bytes() == Path("two.html").read_bytes()


def refused(*arguments: str) -> str:
    with pytest.raises(InputError) as stopped:
        compare(list(arguments))
    assert not Path("runs/report/compare.html").exists()
    return str(stopped.value)


def test_what_can_not_be_compared_stops(monkeypatch: pytest.MonkeyPatch, runs: Path) -> None:
    assert "Two runs or more" in refused("old")
    assert "LABEL=FOLDER" in refused("old", "old=new")
    assert "nowhere/metrics/score.json is missing" in refused("old", "nowhere")
    scores = score("new")
    for name in ("clean", "noisy", "dev"):
        for own in scores[name].values():
            own["text_form"] = "as-is"
    Path("new/metrics/score.json").write_text(json.dumps(scores))
    assert "'old' was scored in the form casefold, 'new' in as-is" in refused("old", "new")
    monkeypatch.chdir(runs / "new")
    finished.write(
        {**ROLES, "test": {"clean": [replace(CLEAN[0], reference="another")], "noisy": []}},
        audio=False,
    )
    monkeypatch.chdir(runs)
    assert "'c-1' of clean has another reference in 'new'" in refused("old", "new")


def test_the_command_ends_with_2_for_a_wrong_folder() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "components.report", "compare", "old", "nowhere"],
        env={"PYTHONPATH": str(REPOSITORY)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 2
    assert "nowhere/metrics/score.json is missing" in done.stderr
