"""A workspace for tests of checkpoints from outside."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from tests import world as tones


@pytest.fixture
def project(tmp_path: Path, work: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A workspace with parameters and a catalogue, and neither corpus nor shards: a hub model needs
    none.
    """
    folder = tmp_path / "project"
    (folder / "catalogue").mkdir(parents=True)
    monkeypatch.chdir(folder)
    params, entries = tones.settings()
    Path("params.yaml").write_text(yaml.safe_dump(params))
    for kind, content in entries.items():
        Path(f"catalogue/{kind}.yaml").write_text(yaml.safe_dump(content))
    monkeypatch.setenv("LIBRETTO_WORKERS", "1")
    return folder
