"""A workspace with hypotheses to score."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from tests.score.workspace import (
    CLEAN,
    CORPUS,
    LLM,
    NONSPEECH,
    build_hypotheses,
    write_catalogue,
    write_set,
)


@pytest.fixture
def workspace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A workspace with the hypotheses of two systems on two test sets, a dev set and a set without
    speech.
    """
    monkeypatch.chdir(tmp_path)
    write_catalogue({"embedded": CORPUS})
    Path("catalogue/llm.yaml").write_text(yaml.safe_dump({"plain": LLM}))
    for name, utterances in (
        ("test/clean", CLEAN),
        ("test/other", CLEAN[:2]),
        ("dev/dev", CLEAN[1:]),
        ("nonspeech-test/nonspeech", NONSPEECH),
    ):
        write_set(
            name, build_hypotheses("free", utterances, 3) + build_hypotheses("ctc", utterances, 4)
        )
    return tmp_path
