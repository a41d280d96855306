"""A workspace with hypotheses to score."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from tests.score.workspace import CLEAN, CORPUS, LLM, QUIET, hold, lists, rows


@pytest.fixture
def house(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A workspace with the hypotheses of two systems on two test sets, a dev set and a set without
    speech.
    """
    monkeypatch.chdir(tmp_path)
    lists({"mine": CORPUS})
    Path("catalogue/llm.yaml").write_text(yaml.safe_dump({"plain": LLM}))
    for name, told in (
        ("test/clean", CLEAN),
        ("test/other", CLEAN[:2]),
        ("dev/dev", CLEAN[1:]),
        ("nonspeech-test/quiet", QUIET),
    ):
        hold(name, rows("free", told, 3) + rows("ctc", told, 4))
    return tmp_path
