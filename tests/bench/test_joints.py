"""What joints lose and double is counted from words and their times."""

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


def test_a_word_counts_as_lost_or_doubled_by_what_covers_it() -> None:
    over = joints.count_coverage([Word("a", 0.0, 1.0), Word("b", 0.9, 2.0), Word("c", 3.0, 3.4)], 4)
    heard = [
        Word("a", 0.0, 0.9),
        Word("lost", 2.2, 3.1),
        Word("half", 2.9, 3.3),
        Word("twice", 0.85, 1.0),
    ]
    assert joints.count_faults(heard, over) == (1, 1)
    assert joints.count_faults([], over) == (0, 0)


@pytest.mark.usefixtures("world")
def test_joints_and_middles_are_counted_by_the_encoder_of_the_workspace(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    save_bridge()
    for number in range(3):
        soundfile.write(tmp_path / f"{number}.wav", long_tone(60, number, pauses=True), RATE)
    joints.main([str(tmp_path), "--minutes", "1", "--near", "1", "4"])
    rows = [
        line.split()
        for line in capsys.readouterr().out.splitlines()
        if " joints " in line or " middles " in line
    ]
    assert [row[-4] for row in rows] == ["1", "4"] * 4
    assert all(int(row[-5]) > 0 for row in rows), "both recordings have joints and middles"


def test_only_words_that_are_heard_whatever_stands_around_count() -> None:
    def listener(waveform: np.ndarray) -> Any:
        start = waveform[0] / RATE
        words = [Word("always", 20.0, 20.5), Word("at times" if start > 8 else "else", 21.0, 21.5)]
        words += [Word("once", 22.0, 22.5)] if start == 10 else []
        return SimpleNamespace(
            words=[Word(each.text, each.start - start, each.end - start) for each in words]
        )

    whole = np.arange(40 * RATE, dtype=np.float64)  # a sample says where it stands
    assert joints.find_reliable_words(listener, whole, 20.0) == [Word("always", 20.0, 20.5)]  # type: ignore[arg-type]


def test_pauses_are_cut_out_and_sound_stays() -> None:
    sound = np.sin(np.arange(3 * RATE) * 0.3).astype(np.float32)
    quiet = sound.copy()
    quiet[RATE : 2 * RATE] *= 1e-3
    assert abs(len(joints.cut_pauses(quiet)) - 2 * RATE) < 0.1 * RATE
    assert len(joints.cut_pauses(sound)) == len(sound)
