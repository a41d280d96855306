"""Cutting long recordings: at pauses where there are some, with an overlap where not; nothing heard
is left out.
"""

from __future__ import annotations

import tracemalloc
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import soundfile
from hypothesis import given, settings
from hypothesis import strategies as st

from components.audio.segments import split_into_segments, stream_segments
from components.audio.sound import (
    RATE,
    SILENCE,
    BrokenSound,
    read_waveform,
    round_to_16_bits,
    stream_blocks,
)


def noise(seconds: float, level: float = 0.1, seed: int = 0) -> np.ndarray:
    return (level * np.random.default_rng(seed).standard_normal(int(seconds * RATE))).astype(
        np.float32
    )


def silence(seconds: float) -> np.ndarray:
    return np.zeros(int(seconds * RATE), np.float32)


def talk(parts: list[tuple[float, float]], floor: float = 1e-3) -> np.ndarray:
    """Noise for speech of the first seconds, and a floor for the pause of the second, for each
    part.
    """
    pairs = [
        (noise(speech_s, 0.1, seed), noise(pause_s, floor, seed + 99))
        for seed, (speech_s, pause_s) in enumerate(parts)
    ]
    return np.concatenate([samples for pair in pairs for samples in pair])


def test_a_split_is_in_a_pause() -> None:
    waveform = talk([(7.3, 0.4), (6.1, 0.5), (8.2, 0.3), (7.7, 0.6), (3.0, 0.0)])
    segments = split_into_segments(waveform, 10)
    edges = np.cumsum([7.3, 0.4, 6.1, 0.5, 8.2, 0.3, 7.7, 0.6])
    assert len(segments) == 5
    for piece, start, end in zip(segments, edges[::2], edges[1::2]):
        assert start <= piece.end / RATE <= end
        assert not piece.overlaps
    assert [segment.end for segment in segments[:-1]] == [segment.start for segment in segments[1:]]
    assert (segments[0].start, segments[-1].end) == (0, len(waveform))


def test_without_a_pause_two_segments_share_one_to_two_seconds() -> None:
    segments = split_into_segments(noise(61))
    assert len(segments) == 4
    assert not segments[0].overlaps
    for one, other in pairwise(segments):
        assert other.overlaps
        assert 0.9 <= (one.end - other.start) / RATE <= 2.1
        assert one.seconds > 18.9


def test_a_level_decides_what_a_pause_is_and_not_a_number_of_volts() -> None:
    loud = talk([(7, 0.4)] * 5)
    assert split_into_segments(loud, 10) == split_into_segments(0.01 * loud, 10)
    noisy = loud + noise(len(loud) / RATE, 0.08)
    assert all(segment.overlaps for segment in split_into_segments(noisy, 10)[1:])


def test_a_recording_that_fits_is_one_segment() -> None:
    waveform = np.concatenate([silence(3), noise(2), silence(4), noise(1), silence(2)])
    assert [(segment.start, segment.end) for segment in split_into_segments(waveform)] == [
        (0, len(waveform))
    ]
    assert len(split_into_segments(noise(0.001))) == 1
    assert split_into_segments(silence(5)) == []
    assert split_into_segments(silence(0)) == []


def test_what_has_no_sound_is_left_out() -> None:
    waveform = np.concatenate(
        [silence(30), noise(2), silence(50), noise(0.02), silence(40), noise(3), silence(9)]
    )
    segments = split_into_segments(waveform)
    spans = [(segment.start / RATE, segment.end / RATE) for segment in segments]
    assert spans == pytest.approx(
        np.array([(29.8, 32.2), (81.8, 82.3), (121.82, 125.22)]), abs=0.03
    )
    assert spans[1][1] - spans[1][0] >= 0.5  # the least that is asked for


@pytest.mark.parametrize(
    ("most", "least", "overlap"), [(5, 0.5, 1.5), (20, 0, 1), (20, 1, 0), (3, 1, 0.5)]
)
def test_lengths_that_do_not_go_together_are_refused(
    most: float, least: float, overlap: float
) -> None:
    with pytest.raises(ValueError, match="four times"):
        split_into_segments(noise(1), most, least, overlap)


part = st.tuples(st.floats(0.02, 9), st.floats(0, 1.5), st.sampled_from([0.0, 1e-3, 0.05]))


@settings(max_examples=60, deadline=None)
@given(
    st.lists(part, min_size=1, max_size=9),
    st.integers(1, 3 * RATE),
    st.sampled_from([(6.0, 0.5, 1.5), (8.0, 1.0, 1.0)]),
)
def test_segments_contain_all_sound_in_any_blocks(
    parts: list[tuple[float, float, float]], size: int, lengths: tuple[float, float, float]
) -> None:
    waveform = np.concatenate(
        [
            samples
            for seed, (speech_s, pause_s, floor) in enumerate(parts)
            for samples in (noise(speech_s, 0.1, seed), noise(pause_s, floor, seed + 99))
        ]
    )
    segments = split_into_segments(waveform, *lengths)
    pieces = list(
        stream_segments(
            (waveform[start : start + size] for start in range(0, len(waveform), size)), *lengths
        )
    )
    assert [piece.segment for piece in pieces] == segments
    is_covered = np.zeros(len(waveform), bool)
    for piece in pieces:
        part = piece.segment
        assert np.array_equal(piece.samples, waveform[part.start : part.end])
        assert 0 < part.seconds <= lengths[0] + 1e-9
        is_covered[part.start : part.end] = True
    assert not (np.abs(waveform[~is_covered]) >= SILENCE).any()
    for one, other in pairwise(segments):
        assert other.start > one.start and other.end > one.end
        assert (other.start < one.end) == other.overlaps
    if len(waveform) > lengths[0] * RATE:
        assert all(segment.seconds >= lengths[1] - 0.011 for segment in segments[:-1])


def test_ten_hours_of_silence_take_the_memory_of_a_minute() -> None:
    minute = silence(60)
    tracemalloc.start()
    pieces = list(stream_segments(minute for _ in range(600)))
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert pieces == []
    assert peak < 5 * minute.nbytes


def test_an_hour_of_sound_needs_the_memory_of_a_segment() -> None:
    minute = noise(60)
    tracemalloc.start()
    count = sum(1 for _ in stream_segments(minute for _ in range(60)))
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert 180 < count < 240
    assert peak < 5 * minute.nbytes


@pytest.mark.parametrize("rate", [8_000, 16_000, 44_100])
@pytest.mark.parametrize("kind", ["wav", "flac", "ogg"])
def test_a_file_comes_in_blocks_as_it_is_read_at_once(rate: int, kind: str, tmp_path: Path) -> None:
    file = tmp_path / f"a.{kind}"
    time = np.arange(int(7.3 * rate)) / rate
    soundfile.write(file, np.stack([0.3 * np.sin(700 * time), 0.1 * np.sin(1900 * time)], 1), rate)
    waveform_read = read_waveform(file)
    blocks = list(stream_blocks(file, 2))
    assert len(blocks) > 2
    joined = np.concatenate(blocks)
    assert len(joined) == len(waveform_read)
    assert np.abs(joined - waveform_read).max() < 1e-4
    assert np.array_equal(
        np.concatenate(list(stream_blocks(file.read_bytes(), 20))), round_to_16_bits(waveform_read)
    )


def broken_files(folder: Path) -> Iterator[tuple[str, Path]]:
    long = noise(8)
    soundfile.write(folder / "cut.wav", long, RATE)
    (folder / "cut.wav").write_bytes((folder / "cut.wav").read_bytes()[:150_000])
    yield "truncated", folder / "cut.wav"
    soundfile.write(folder / "cut.ogg", long, RATE)
    (folder / "cut.ogg").write_bytes((folder / "cut.ogg").read_bytes()[:-3000])
    yield "truncated", folder / "cut.ogg"
    long[-5] = np.nan
    soundfile.write(folder / "nan.wav", long, RATE, subtype="FLOAT")
    yield "not finite", folder / "nan.wav"
    soundfile.write(folder / "empty.wav", long[:0], RATE)
    yield "empty", folder / "empty.wav"
    (folder / "text.wav").write_text("no sound")
    yield "unreadable", folder / "text.wav"


def test_a_broken_file_is_refused_in_blocks_too(tmp_path: Path) -> None:
    for reason, file in broken_files(tmp_path):
        with pytest.raises(BrokenSound, match=reason):
            list(stream_blocks(file, 2))
