"""The model that comes with the repository, as a person uses it: one command in an empty folder,
recordings of people, words. Its base checkpoints come from a package index; skipped where there is
none.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from components.audio.sound import RATE, encode_flac
from components.config.errors import TransientError
from components.text.wer import compute_wer
from components.transcribe.published import PUBLISHED
from tests.conftest import REPOSITORY

FOLDER = REPOSITORY / PUBLISHED
MAX_BYTES = 25_000_000  # of a clone
COMMAND = Path(sys.executable).with_name("libretto")


def transcribe(files: list[Path], folder: Path) -> list[str]:
    """One line of text for each file, by the command, in an empty folder."""
    environment = {name: value for name, value in os.environ.items() if name != "LIBRETTO_MODELS"}
    run = subprocess.run(
        [str(COMMAND), "transcribe", *map(str, files)],
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
        timeout=600,
    )
    if run.returncode == TransientError.exit_code:
        pytest.skip(f"no package index: {run.stderr[-300:]}")
    assert run.returncode == 0, run.stderr[-3000:]
    lines = run.stdout.splitlines()
    assert len(lines) == len(files)
    return [line.partition("\t")[2] for line in lines]


def read_references(recordings: Path, count: int) -> dict[Path, str]:
    """The shortest recordings of clear speech, each of another speaker, and their transcripts."""
    references: dict[Path, str] = {}
    for table in sorted((recordings / "real-librispeech/train-clean-100").rglob("*.trans.txt")):
        name, text = table.read_text().splitlines()[0].split(" ", 1)
        references[table.with_name(f"{name}.flac")] = text
    shortest = sorted(references, key=lambda path: (path.stat().st_size, path))[:count]
    return {path: references[path] for path in shortest}


def test_the_folder_is_small() -> None:
    sizes = [path.stat().st_size for path in FOLDER.rglob("*") if path.is_file()]
    assert sizes and sum(sizes) <= MAX_BYTES


@pytest.mark.slow
def test_people_are_understood_and_silence_is_no_text(recordings: Path, tmp_path: Path) -> None:
    references = read_references(recordings, 8)
    silence = tmp_path / "silence.flac"
    silence.write_bytes(encode_flac(np.zeros(3 * RATE, np.float32)))
    *texts, nothing = transcribe([*references, silence], tmp_path)
    assert nothing == ""
    assert compute_wer(list(references.values()), texts, "whisper", ["en"] * len(texts)) < 0.4
