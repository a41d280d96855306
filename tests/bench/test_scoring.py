"""The measurement of the stage ``score`` runs and says what it measured."""

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
    assert re.search(
        r"scored 2,000 reference words, 2 systems, in [0-9.]+ s; [0-9.]+ s of a core",
        capsys.readouterr().out,
    )
    made = scoring.generate_hypotheses(2000, 2, 5, seed=1)
    assert sum(len(row.reference.split()) for row in made if row.system == "system-0") >= 2000
    assert {row.speaker for row in made} == {f"speaker-{number}" for number in range(5)}
