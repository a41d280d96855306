"""Progress: a rate and the remaining time for people, JSON lines for programs."""

from __future__ import annotations

import io
import json
import sys
from importlib import import_module
from pathlib import Path
from types import SimpleNamespace

import pytest

from components.runtime.progress import progress

FIELDS = {"stage", "task", "done", "total", "unit", "per_second", "seconds_left", "note"}


class Clock:
    """A clock that a test sets."""

    now = 100.0

    def monotonic(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(
        import_module("components.runtime.progress"),
        "time",
        SimpleNamespace(monotonic=clock.monotonic),
    )
    return clock


@pytest.fixture
def lines(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("LIBRETTO_PROGRESS", str(tmp_path / "progress.jsonl"))
    return tmp_path / "progress.jsonl"


def run(clock: Clock, task: str, total: float, seconds: float) -> None:
    """Advances by one unit every so many seconds."""
    with progress("features@train", task, total, "shards") as bar:
        for _ in range(int(total)):
            clock.now += seconds
            bar.advance()


def read(path: Path) -> list[dict]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_lines_have_rate_and_time_left(clock: Clock, lines: Path) -> None:
    run(clock, "digits", 10, 2.0)
    rows = read(lines)
    assert all(line.keys() == FIELDS for line in rows)
    assert {(line["stage"], line["task"], line["unit"], line["total"]) for line in rows} == {
        ("features@train", "digits", "shards", 10)
    }
    assert [line["done"] for line in rows] == list(range(1, 11))
    assert {line["per_second"] for line in rows} == {0.5}
    assert [line["seconds_left"] for line in rows] == [2.0 * (10 - done) for done in range(1, 11)]


def test_there_is_at_most_one_line_a_second_and_the_last_reaches_the_total(
    clock: Clock, lines: Path
) -> None:
    run(clock, "fast", 1000, 0.01)
    rows = read(lines)
    assert len(rows) <= 11
    assert rows[-1]["done"] == rows[-1]["total"] == 1000
    assert rows[-1]["seconds_left"] == 0


def test_a_task_too_short_for_a_line_still_reaches_its_total(clock: Clock, lines: Path) -> None:
    run(clock, "one", 1, 0.0)
    run(clock, "two", 2, 0.001)
    assert [(line["task"], line["done"], line["total"]) for line in read(lines)] == [
        ("one", 1, 1),
        ("two", 2, 2),
    ]


def test_work_counted_in_parts_reaches_its_total(clock: Clock, lines: Path) -> None:
    with progress("train", "audio", 2.5, "hours") as bar:
        for amount in (0.75, 1.5, 0.25):
            clock.now += 5
            bar.advance(amount, note="loss 1.5")
    assert [line["done"] for line in read(lines)] == [0.75, 2.25, 2.5]


def test_what_was_done_before_does_not_raise_the_rate(clock: Clock, lines: Path) -> None:
    with progress("train", "lora", 100, "steps", done_before=90) as bar:
        for _ in range(5):
            clock.now += 2
            bar.advance(1, "12 tokens/s")
    rows = read(lines)
    assert [line["done"] for line in rows] == [91, 92, 93, 94, 95]
    assert {line["per_second"] for line in rows} == {0.5}
    assert rows[-1]["seconds_left"] == 10
    assert rows[-1]["note"] == "12 tokens/s"


def test_work_that_ends_early_has_a_note_and_no_remaining_time(clock: Clock, lines: Path) -> None:
    with progress("train", "lora", 100, "steps") as bar:
        clock.now += 2
        bar.advance(3)
        bar.end("no better dev WER")
    assert read(lines)[-1] == {
        **read(lines)[-1],
        "done": 3,
        "total": 3,
        "seconds_left": 0,
        "note": "no better dev WER",
    }


def test_without_the_setting_no_file_is_written(
    clock: Clock, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("LIBRETTO_PROGRESS", raising=False)
    monkeypatch.chdir(tmp_path)
    run(clock, "silent", 10, 2.0)
    assert not list(tmp_path.iterdir())


def test_a_log_gets_a_line_now_and_then(
    clock: Clock, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    monkeypatch.delenv("LIBRETTO_PROGRESS", raising=False)
    run(clock, "digits", 60, 1.0)
    printed = capsys.readouterr().err.splitlines()
    assert 4 <= len(printed) <= 6
    assert printed[0].strip() == "features@train: digits 11/60 shards, 1/s, 49 s left"


def test_a_terminal_gets_a_bar(lines: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    monkeypatch.setattr(sys, "stderr", Terminal())
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "120")
    with progress("train", "steps", 20, "steps") as bar:
        for step in range(20):
            bar.advance(1, note=f"loss {step}")
    printed = sys.stderr.getvalue()
    assert "train: steps" in printed
    assert "20/20" in printed
    assert "loss 19" in printed
    assert read(lines)[-1]["done"] == 20
