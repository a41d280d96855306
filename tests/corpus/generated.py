"""Generates the audio of a source in a process of its own, as the stage does."""

from __future__ import annotations

import json
import subprocess
import sys
from typing import Any

import pytest

from tests.conftest import REPOSITORY

SCRIPT = """
import json, sys
from components.corpus.source import build_source

name, settings = sys.argv[1], json.loads(sys.argv[2])
build_source(name, settings["split"], settings).list_utterances()
"""


def generate(name: str, settings: dict[str, Any]) -> None:
    """Fills the work cache with a source; the test is skipped where there is no package index."""
    command = [sys.executable, "-c", SCRIPT, name, json.dumps(settings)]
    run = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, timeout=600)
    if "TransientError" in run.stderr:
        pytest.skip(f"no package index: {run.stderr[-300:]}")
    assert run.returncode == 0, run.stderr[-3000:]
