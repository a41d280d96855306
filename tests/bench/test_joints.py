"""Words that joints lose or double are counted from words and their times."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import soundfile

from bench import joints
from components.audio.sound import RATE
from components.text.joining import Word
from tests.transcribe.test_transcriber import long_tone, save_bridge


def test_a_word_counts_as_lost_or_doubled_by_its_coverage() -> None:
    coverage = joints.count_coverage(
        [Word("a", 0.0, 1.0), Word("b", 0.9, 2.0), Word("c", 3.0, 3.4)], 4
    )
    words = [
        Word("a", 0.0, 0.9),
        Word("missing", 2.2, 3.1),
        Word("half", 2.9, 3.3),
        Word("twice", 0.85, 1.0),
    ]
    assert joints.count_faults(words, coverage) == (1, 1)
    assert joints.count_faults([], coverage) == (0, 0)


@pytest.mark.usefixtures("world")
def test_joints_and_middles_are_counted_by_the_encoder_of_the_workspace(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    save_bridge()
    for seed in range(3):
        soundfile.write(tmp_path / f"{seed}.wav", long_tone(60, seed, pauses=True), RATE)
    joints.main([str(tmp_path), "--minutes", "1", "--near", "1", "4"])
    rows = [
        line.split()
        for line in capsys.readouterr().out.splitlines()
        if " joints " in line or " middles " in line
    ]
    assert [row[-4] for row in rows] == ["1", "4"] * 4
    assert all(int(row[-5]) > 0 for row in rows), "both recordings have joints and middles"


def test_only_words_that_are_found_in_every_context_count() -> None:
    def transcribe(waveform: np.ndarray) -> Any:
        start = waveform[0] / RATE
        words = [Word("always", 20.0, 20.5), Word("at times" if start > 8 else "else", 21.0, 21.5)]
        words += [Word("once", 22.0, 22.5)] if start == 10 else []
        return SimpleNamespace(
            words=[Word(word.text, word.start - start, word.end - start) for word in words]
        )

    recording = np.arange(40 * RATE, dtype=np.float64)  # a sample is its own position
    assert joints.find_reliable_words(transcribe, recording, 20.0) == [Word("always", 20.0, 20.5)]  # type: ignore[arg-type]


def test_pauses_are_cut_and_sound_is_not() -> None:
    sound = np.sin(np.arange(3 * RATE) * 0.3).astype(np.float32)
    with_pause = sound.copy()
    with_pause[RATE : 2 * RATE] *= 1e-3
    assert abs(len(joints.cut_pauses(with_pause)) - 2 * RATE) < 0.1 * RATE
    assert len(joints.cut_pauses(sound)) == len(sound)
