"""The measurement of the stage ``score`` runs and prints its seconds."""

from __future__ import annotations

import re
import sys

import pytest

from bench import scoring
from tests.conftest import REPOSITORY


def test_it_measures_so_many_words(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    monkeypatch.chdir(REPOSITORY)
    monkeypatch.setattr(
        sys, "argv", ["scoring", "--words", "2000", "--systems", "2", "--speakers", "5"]
    )
    scoring.main()
    assert re.search(r"2,000 .* 2 .* [0-9.]+ s.* [0-9.]+ s", capsys.readouterr().out)
    hypotheses = scoring.generate_hypotheses(2000, 2, 5, seed=1)
    assert sum(len(row.reference.split()) for row in hypotheses if row.system == "system-0") >= 2000
    assert {row.speaker for row in hypotheses} == {f"speaker-{index}" for index in range(5)}
