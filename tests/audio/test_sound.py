"""Reading sound: any rate and format comes out as mono at 16 kHz, and what cannot be trusted is refused with its reason."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest
import soundfile

from components.audio.sound import RATE, BrokenSound, as_flac, decode, is_silent, read, resample

# libsndfile's format and subtype → how far a decoded sample may be from the one that was written.
FORMATS = {
    ("WAV", "PCM_16"): 2**-15, ("WAV", "PCM_24"): 2**-22, ("WAV", "FLOAT"): 1e-7, ("WAV", "PCM_U8"): 2**-6,
    ("FLAC", "PCM_16"): 2**-15, ("FLAC", "PCM_24"): 2**-22, ("AIFF", "PCM_16"): 2**-15, ("AU", "PCM_16"): 2**-15,
    ("W64", "PCM_16"): 2**-15, ("RF64", "PCM_16"): 2**-15, ("OGG", "VORBIS"): 0.05, ("OGG", "OPUS"): 0.1,
}  # fmt: skip


def tone(rate: int, seconds: float = 0.5, hertz: float = 440.0) -> np.ndarray:
    """A sine that rises and falls softly, so that nothing rings at its ends."""
    time = np.arange(int(rate * seconds)) / rate
    return 0.5 * np.sin(2 * np.pi * hertz * time) * np.sin(np.pi * time / seconds) ** 2


def noise(samples: int, channels: int = 1, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).uniform(-0.5, 0.5, (samples, channels))


def written(samples: np.ndarray, rate: int = RATE, form: str = "WAV", subtype: str | None = None) -> bytes:
    stream = io.BytesIO()
    soundfile.write(stream, samples, rate, format=form, subtype=subtype)
    return stream.getvalue()


def reason(source: bytes | Path) -> str:
    with pytest.raises(BrokenSound) as refused:
        decode(source)
    return str(refused.value)


@pytest.mark.parametrize("rate", [8_000, 11_025, 16_000, 22_050, 44_100, 48_000, 96_000])
def test_any_rate_comes_out_at_16_khz(rate: int) -> None:
    samples = read(written(tone(rate), rate, subtype="PCM_24"))
    wanted = tone(RATE)
    assert samples.dtype == np.float32
    assert abs(len(samples) - len(wanted)) <= 1
    length = min(len(samples), len(wanted))
    assert np.abs(samples[:length] - wanted[:length]).max() < 0.005


def test_what_16_khz_cannot_hold_is_taken_out_and_the_rest_kept() -> None:
    """A tone above 8 kHz would come back as another one that nobody played."""
    assert np.abs(read(written(tone(44_100, hertz=10_000), 44_100, subtype="PCM_24"))).max() < 1e-3
    kept = read(written(tone(44_100, hertz=6_500), 44_100, subtype="PCM_24"))[: RATE // 2]
    assert np.abs(kept - tone(RATE, hertz=6_500)[: len(kept)]).max() < 0.005


@pytest.mark.parametrize(("form", "subtype"), FORMATS, ids=lambda part: str(part))
def test_any_format_gives_the_sound_that_was_written(form: str, subtype: str) -> None:
    wanted = tone(RATE)
    sound = decode(written(wanted, RATE, form, subtype))
    assert (sound.rate, sound.channels, sound.samples.ndim) == (RATE, 1, 1)
    assert len(sound.samples) == len(wanted)
    assert np.abs(sound.samples - wanted).max() <= FORMATS[form, subtype]


def test_a_path_and_its_bytes_give_the_same(tmp_path: Path) -> None:
    for form in ("WAV", "FLAC", "OGG"):
        data = written(noise(5_000, 2), 22_050, form)
        (tmp_path / "clip").write_bytes(data)
        assert np.array_equal(read(tmp_path / "clip"), read(data))


def test_channels_are_averaged() -> None:
    stereo = noise(4_000, 2)
    sound = decode(written(stereo, 8_000, "WAV", "FLOAT"))
    assert (sound.channels, sound.rate) == (2, 8_000)
    assert np.allclose(sound.samples, stereo.mean(axis=1), atol=1e-7)
    opposite = noise(4_000) * [[1, -1]]
    assert np.abs(decode(written(opposite, RATE, "WAV", "FLOAT")).samples).max() < 1e-7
    assert np.allclose(decode(written(noise(900, 5), RATE, "WAV", "FLOAT")).samples, noise(900, 5).mean(axis=1), atol=1e-6)


@pytest.mark.parametrize(("form", "subtype"), FORMATS, ids=lambda part: str(part))
@pytest.mark.parametrize("length", [778, 50_000])  # even, so that no last byte is padding
@pytest.mark.filterwarnings("ignore:Exception ignored from cffi callback")  # libsndfile seeks before the start of a cut AIFF
def test_a_cut_file_is_refused_wherever_it_was_cut(form: str, subtype: str, length: int, tmp_path: Path) -> None:
    """A copy that was broken off must never pass for a shorter recording."""
    data = written(noise(length), RATE, form, subtype)
    assert len(decode(data).samples) >= length
    step = max(1, len(data) // 40)
    for end in {*range(0, len(data), step), *range(len(data) - 200, len(data), 9), len(data) - 1}:
        assert reason(data[:end]).startswith(("truncated", "unreadable", "empty")), end
    (tmp_path / "cut").write_bytes(data[: len(data) * 2 // 3])
    assert reason(tmp_path / "cut").startswith(("truncated", "unreadable", "empty"))


@pytest.mark.parametrize(("form", "subtype"), [*FORMATS, ("FLAC", "PCM_S8"), ("AIFF", "PCM_S8")], ids=lambda part: str(part))
def test_a_whole_file_of_any_length_is_taken(form: str, subtype: str) -> None:
    """An odd number of bytes is padded in some formats, which is no cut."""
    for length in (1, 2, 3, 255, 4_097):
        found = len(decode(written(noise(length), RATE, form, subtype)).samples)
        # libsndfile counts the padding of an AIFF of 8 bits when it writes one.
        assert found in ((length, length + 1) if (form, subtype) == ("AIFF", "PCM_S8") else (length,))


def test_notes_after_the_sound_are_no_cut() -> None:
    stream = io.BytesIO()
    with soundfile.SoundFile(stream, "w", RATE, 1, "PCM_16", format="WAV") as file:
        file.write(noise(3_001))
        file.title = "a title that stands behind the samples"
    assert len(decode(stream.getvalue()).samples) == 3_001


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_what_is_not_finite_is_refused(value: float) -> None:
    samples = noise(2_000).astype(np.float32)
    samples[1_234] = value
    assert reason(written(samples, RATE, "WAV", "FLOAT")).startswith("not finite")


@pytest.mark.parametrize("form", ["WAV", "FLAC", "AIFF", "AU"])
def test_a_file_without_samples_is_refused(form: str) -> None:
    assert reason(written(np.zeros((0, 1)), RATE, form)).startswith(("empty", "unreadable"))


@pytest.mark.parametrize("data", [b"", b"no sound\n" * 99, b"RIFF", b"OggS", b"fLaC" + bytes(50)])
def test_what_is_no_sound_is_refused_without_a_path(data: bytes, tmp_path: Path) -> None:
    """A manifest of rejects is the same wherever the data lies."""
    (tmp_path / "clip.wav").write_bytes(data)
    assert reason(tmp_path / "clip.wav") == reason(data)
    assert str(tmp_path) not in reason(tmp_path / "clip.wav")


def test_a_missing_file_is_refused(tmp_path: Path) -> None:
    assert reason(tmp_path / "gone.flac").startswith("unreadable")


def test_resampling_leaves_what_has_the_rate_already() -> None:
    samples = noise(100)[:, 0].astype(np.float32)
    assert np.array_equal(resample(samples, RATE), samples)
    assert len(resample(samples, RATE, 8_000)) == 50


def test_flac_repeats_to_the_byte_and_loses_nothing() -> None:
    steps = np.random.default_rng(3).integers(-(2**15), 2**15, 20_000)
    samples = (steps / 2**15).astype(np.float32)
    data = as_flac(samples)
    assert data == as_flac(samples.copy())
    facts = soundfile.info(io.BytesIO(data))
    assert (facts.format, facts.subtype, facts.samplerate, facts.channels) == ("FLAC", "PCM_16", RATE, 1)
    assert np.array_equal(read(data), samples)
    assert as_flac(read(data)) == data


def test_flac_is_clipped_and_never_wraps() -> None:
    samples = decode(as_flac(np.array([2.0, -2.0, 1.0, -1.0, 0.0] * 20, np.float32))).samples
    assert np.abs(samples - np.array([1, -1, 1, -1, 0] * 20)).max() <= 2**-15


@pytest.mark.parametrize(("peak", "silent"), [(0.0, True), (5e-5, True), (-5e-5, True), (2e-4, False), (-2e-4, False)])
def test_silence_is_what_stays_under_80_db(peak: float, silent: bool) -> None:
    samples = np.zeros(1_000, np.float32)
    samples[500] = peak
    assert is_silent(samples) == silent
    assert is_silent(samples[:0])
