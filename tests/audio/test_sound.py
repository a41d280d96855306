"""Reading sound: any rate and format comes out as mono at 16 kHz, and what cannot be trusted is
refused with its reason.
"""

from __future__ import annotations

import io
import os
import struct
from pathlib import Path

import numpy as np
import pytest
import soundfile

from components.audio.sound import (
    RATE,
    BrokenSound,
    decode_file,
    encode_flac,
    is_silent,
    read_duration_s,
    read_stored,
    read_waveform,
    resample,
    round_to_16_bits,
    stream_blocks,
)

# libsndfile's format and subtype → how far a decoded sample may be from the one that was written.
FORMATS = {
    ("WAV", "PCM_16"): 2**-15,
    ("WAV", "PCM_24"): 2**-22,
    ("WAV", "FLOAT"): 1e-7,
    ("WAV", "PCM_U8"): 2**-6,
    ("FLAC", "PCM_16"): 2**-15,
    ("FLAC", "PCM_24"): 2**-22,
    ("AIFF", "PCM_16"): 2**-15,
    ("AU", "PCM_16"): 2**-15,
    ("W64", "PCM_16"): 2**-15,
    ("RF64", "PCM_16"): 2**-15,
    ("CAF", "PCM_16"): 2**-15,
    ("NIST", "PCM_16"): 2**-15,
    ("OGG", "VORBIS"): 0.05,
    ("OGG", "OPUS"): 0.1,
}


def tone(rate: int, seconds: float = 0.5, hertz: float = 440.0) -> np.ndarray:
    """A sine that rises and falls softly, so that nothing rings at its ends."""
    time = np.arange(int(rate * seconds)) / rate
    return 0.5 * np.sin(2 * np.pi * hertz * time) * np.sin(np.pi * time / seconds) ** 2


def noise(samples: int, channels: int = 1, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).uniform(-0.5, 0.5, (samples, channels))


def written(
    samples: np.ndarray, rate: int = RATE, form: str = "WAV", subtype: str | None = None
) -> bytes:
    stream = io.BytesIO()
    soundfile.write(stream, samples, rate, format=form, subtype=subtype)
    return stream.getvalue()


def reason(source: bytes | Path) -> str:
    with pytest.raises(BrokenSound) as refused:
        decode_file(source)
    return str(refused.value)


@pytest.mark.parametrize("rate", [8_000, 11_025, 16_000, 22_050, 44_100, 48_000, 96_000])
def test_any_rate_comes_out_at_16_khz(rate: int) -> None:
    samples = read_waveform(written(tone(rate), rate, subtype="PCM_24"))
    expected = tone(RATE)
    assert samples.dtype == np.float32
    assert abs(len(samples) - len(expected)) <= 1
    length = min(len(samples), len(expected))
    assert np.abs(samples[:length] - expected[:length]).max() < 0.005


def test_what_16_khz_cannot_represent_is_removed_and_the_rest_remains() -> None:
    """A tone above 8 kHz would come back as another one that nobody played."""
    assert (
        np.abs(read_waveform(written(tone(44_100, hertz=10_000), 44_100, subtype="PCM_24"))).max()
        < 1e-3
    )
    low = read_waveform(written(tone(44_100, hertz=6_500), 44_100, subtype="PCM_24"))[: RATE // 2]
    assert np.abs(low - tone(RATE, hertz=6_500)[: len(low)]).max() < 0.005


@pytest.mark.parametrize(("form", "subtype"), FORMATS, ids=lambda part: str(part))
def test_any_format_gives_the_sound_that_was_written(form: str, subtype: str) -> None:
    expected = tone(RATE)
    sound = decode_file(written(expected, RATE, form, subtype))
    assert (sound.rate, sound.channels, sound.samples.ndim) == (RATE, 1, 1)
    assert len(sound.samples) == len(expected)
    assert np.abs(sound.samples - expected).max() <= FORMATS[form, subtype]


def test_a_path_and_its_bytes_give_the_same(tmp_path: Path) -> None:
    for form in ("WAV", "FLAC", "OGG"):
        data = written(noise(5_000, 2), 22_050, form)
        (tmp_path / "clip").write_bytes(data)
        assert np.array_equal(read_waveform(tmp_path / "clip"), read_waveform(data))


def test_channels_are_averaged() -> None:
    stereo = noise(4_000, 2)
    sound = decode_file(written(stereo, 8_000, "WAV", "FLOAT"))
    assert (sound.channels, sound.rate) == (2, 8_000)
    assert np.allclose(sound.samples, stereo.mean(axis=1), atol=1e-7)


@pytest.mark.parametrize("block_s", [60, 0.05])
def test_where_the_mean_cancels_the_sound_the_loudest_channel_counts(block_s: float) -> None:
    """Opposite phases; speech in the centre of six channels; not where one of two is silent."""
    samples = noise(4_000)
    centre = np.zeros((4_000, 6))
    centre[:, 2:3] = samples
    cases = [
        (samples * [[1, -1]], samples[:, 0]),
        (samples * [[0.5, -1, 0.5]], -samples[:, 0]),
        (centre, samples[:, 0]),
        (samples * [[1, 0]], samples[:, 0] / 2),
    ]
    for channels, expected in cases:
        data = written(channels, RATE, "WAV", "FLOAT")
        assert np.allclose(decode_file(data).samples, expected, atol=1e-7)
        streamed = np.concatenate(list(stream_blocks(data, block_s)))
        assert np.allclose(streamed, expected, atol=2**-14)


@pytest.mark.parametrize(("form", "subtype"), [("WAV", "FLOAT"), ("OGG", "VORBIS")])
def test_what_is_beyond_full_scale_is_clipped_for_all_readers(form: str, subtype: str) -> None:
    loud = written(3 * noise(20_000), 16_000, form, subtype)
    waveform = read_waveform(loud)
    assert np.abs(waveform).max() == 1 and np.mean(np.abs(waveform) == 1) > 0.2
    streamed = np.concatenate(list(stream_blocks(loud)))
    stored, num_samples = read_stored(loud)
    assert stored is not None and num_samples == len(streamed)
    assert np.array_equal(streamed, decode_file(stored).samples)


def test_integers_in_a_file_of_floats_are_refused() -> None:
    data = written(6_000 * tone(RATE), RATE, "WAV", "FLOAT")
    assert "full scale" in reason(data)
    with pytest.raises(BrokenSound, match="full scale"):
        list(stream_blocks(data, 0.1))


@pytest.mark.parametrize(
    "source",
    [
        ("WAV", "PCM_16", 16_000),
        ("WAV", "PCM_24", 44_100),
        ("OGG", "OPUS", 48_000),
        ("FLAC", "PCM_24", 16_000),
        ("FLAC", "PCM_16", 8_000),
    ],
)
@pytest.mark.parametrize("level", [1.9, 0.001])
def test_what_is_transcribed_is_what_shards_store(
    source: tuple[str, str, int], level: float
) -> None:
    """To the bit: the text of a file is that of its utterance."""
    form, subtype, rate = source
    data = written(level * noise(2 * rate), rate, form, subtype)
    stored, num_samples = read_stored(data)
    assert (stored is None) == (source == ("FLAC", "PCM_24", 16_000))
    streamed = np.concatenate(list(stream_blocks(data)))
    assert num_samples == len(streamed)
    assert np.array_equal(streamed, read_waveform(stored or data))


@pytest.mark.parametrize("change", [{"rate": 1}, {"rate": 2**31 - 1}, {"channels": 200}])
def test_rates_and_channels_that_no_recording_has_are_refused(change: dict[str, int]) -> None:
    channels = change.get("channels", 1)
    data = written(noise(50, channels), change.get("rate", RATE))
    assert reason(data).startswith(("wrong rate", "too many channels"))
    for read in (read_duration_s, read_waveform):
        with pytest.raises(BrokenSound, match="possible"):
            read(data)


@pytest.mark.parametrize(
    "coding",
    [
        ("WAV", "GSM610"),
        ("AU", "G721_32"),
        ("AU", "G723_24"),
        ("WAV", "NMS_ADPCM_16"),
        ("XI", "DPCM_16"),
    ],
)
def test_codings_that_cannot_be_sought_are_read(coding: tuple[str, str]) -> None:
    form, subtype = coding
    data = written(tone(8_000), 44_100 if form == "XI" else 8_000, form, subtype)
    num_samples = len(decode_file(data).samples)
    assert 4_000 <= num_samples <= 4_000 + 640  # whole blocks of the coding
    assert sum(map(len, stream_blocks(data))) > 0


@pytest.mark.parametrize(("form", "subtype"), FORMATS, ids=lambda part: str(part))
@pytest.mark.parametrize("length", [778, 50_000])  # even, so that no last byte is padding
@pytest.mark.filterwarnings(
    "ignore:Exception ignored from cffi callback"
)  # libsndfile seeks before the start of a cut AIFF
def test_a_cut_file_is_refused_wherever_it_was_cut(
    form: str, subtype: str, length: int, tmp_path: Path
) -> None:
    """A copy that was broken off must never pass for a shorter recording."""
    data = written(noise(length), RATE, form, subtype)
    assert len(decode_file(data).samples) >= length
    step = max(1, len(data) // 40)
    for end in {*range(0, len(data), step), *range(len(data) - 200, len(data), 9), len(data) - 1}:
        assert reason(data[:end]).startswith(("truncated", "unreadable", "empty")), end
    (tmp_path / "cut").write_bytes(data[: len(data) * 2 // 3])
    assert reason(tmp_path / "cut").startswith(("truncated", "unreadable", "empty"))


@pytest.mark.parametrize(
    ("form", "subtype"),
    [*FORMATS, ("FLAC", "PCM_S8"), ("AIFF", "PCM_S8")],
    ids=lambda part: str(part),
)
def test_a_complete_file_of_any_length_is_read(form: str, subtype: str) -> None:
    """An odd number of bytes is padded in some formats, which is no cut."""
    for length in (1, 2, 3, 255, 4_097):
        sound = len(decode_file(written(noise(length), RATE, form, subtype)).samples)
        # libsndfile counts the padding of an AIFF of 8 bits when it writes one.
        assert sound in (
            (length, length + 1) if (form, subtype) == ("AIFF", "PCM_S8") else (length,)
        )


def test_notes_after_the_sound_are_no_cut() -> None:
    stream = io.BytesIO()
    with soundfile.SoundFile(stream, "w", RATE, 1, "PCM_16", format="WAV") as file:
        file.write(noise(3_001))
        file.title = "a title that stands behind the samples"
    assert len(decode_file(stream.getvalue()).samples) == 3_001


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


@pytest.mark.parametrize("name", ["talk.raw", os.fsdecode("caf\xe9.flac".encode("latin-1"))])
def test_an_odd_name_is_no_accident(name: str, tmp_path: Path) -> None:
    """Raw samples have no rate, so that they are refused; a name need not be UTF-8."""
    data = encode_flac(tone(RATE).astype(np.float32))
    (tmp_path / name).write_bytes(data)
    if name.endswith(".raw"):
        assert reason(tmp_path / name).startswith("unreadable: samplerate")
        with pytest.raises(BrokenSound, match="unreadable"):
            list(stream_blocks(tmp_path / name))
    else:
        assert np.array_equal(read_waveform(tmp_path / name), read_waveform(data))
        assert np.array_equal(
            np.concatenate(list(stream_blocks(tmp_path / name))),
            round_to_16_bits(read_waveform(data)),
        )
        assert read_duration_s(tmp_path / name) == 0.5


def mp3(seconds: float, rate: int, mode: str = "CONSTANT", begin: int = 0) -> bytes:
    """A second of noise (0) and one of silence (1) in turn, so that a variable bitrate
    does vary.
    """
    samples = noise(int(seconds * rate))[:, 0] * (
        (np.arange(int(seconds * rate)) // rate + begin) % 2 == 0
    )
    stream = io.BytesIO()
    with soundfile.SoundFile(
        stream, "w", rate, 1, format="MP3", compression_level=0.5, bitrate_mode=mode
    ) as file:
        file.write(samples)
    return stream.getvalue()


def bare(data: bytes) -> bytes:
    """An MP3 without its first frame, which is the header that counts the others."""
    second = data.index(data[:2], 4)
    while data[second + 2] & 0x0C != data[2] & 0x0C or data[second + 2] >> 4 in (0, 15):
        second = data.index(data[:2], second + 1)
    return data[second:]


def block_by_block(source: bytes | Path) -> int:
    """Samples at 16 kHz that come of a file in blocks of 2 s."""
    return sum(len(block) for block in stream_blocks(source, 2))


@pytest.mark.parametrize(("form", "subtype"), [*FORMATS, ("MP3", None)], ids=lambda part: str(part))
@pytest.mark.parametrize("second", [0.3, 2.0])
def test_two_files_behind_each_other_are_refused(
    form: str, subtype: str | None, second: float
) -> None:
    """libsndfile would give the first one, and no word."""
    both = written(tone(RATE, 1), RATE, form, subtype) + written(
        tone(RATE, second), RATE, form, subtype
    )
    assert reason(both).startswith(("longer", "unreadable"))
    with pytest.raises(BrokenSound, match=r"longer|unreadable"):
        block_by_block(both)


@pytest.mark.parametrize(("form", "size_at"), [("WAV", 40), ("AIFF", 42)])
def test_a_length_of_an_earlier_moment_is_refused(form: str, size_at: int) -> None:
    data = bytearray(written(tone(RATE, 3), RATE, form))
    order = "<I" if form == "WAV" else ">I"
    size = struct.unpack_from(order, data, size_at)[0]
    assert size == 3 * RATE * 2 + (8 if form == "AIFF" else 0)
    struct.pack_into(order, data, size_at, size - 2 * RATE * 2)
    assert reason(bytes(data)).startswith(("longer", "unreadable"))


@pytest.mark.parametrize("subtype", ["PCM_16", "PCM_24"])
@pytest.mark.parametrize("channels", [1, 2])
def test_a_flac_whose_header_tells_less_is_refused(subtype: str, channels: int) -> None:
    samples = 0.3 * np.sin(np.arange(3 * RATE) / 7)[:, None] * np.ones((1, channels))
    data = bytearray(written(samples, RATE, "FLAC", subtype))
    data[22:26] = RATE.to_bytes(4)  # samples
    assert reason(bytes(data)).startswith("longer")


def test_what_stands_behind_an_mp3_costs_little() -> None:
    """Zeros, and bytes that look like the start of a frame."""
    data = mp3(2, 16_000)
    for behind in (bytes(5_000_000), b"\xff" * 1_000_000, b"\xff\xf3" * 500_000):
        assert len(decode_file(data + behind).samples) == 2 * 16_000


TAG = b"ID3\4\0\0\0\0\x27\x08" + b"\xff\xfb\x90\xc4" * 1250  # 5,000 bytes that look like frames
MP3_RATES = [16_000, 44_100, 48_000]


@pytest.mark.parametrize("fork", ["._talk.mp3", ".AppleDouble/talk.mp3"])
def test_an_mp3_is_read_beside_its_resource_fork(fork: str, tmp_path: Path) -> None:
    """A Mac writes one beside each file on a disk or server of another kind."""
    data = mp3(1, 16_000, "CONSTANT")
    (tmp_path / "talk.mp3").write_bytes(data)
    (tmp_path / fork).parent.mkdir(exist_ok=True)
    (tmp_path / fork).write_bytes(bytes.fromhex("0005160700020000") + bytes(4088))
    assert np.array_equal(decode_file(tmp_path / "talk.mp3").samples, decode_file(data).samples)
    assert block_by_block(tmp_path / "talk.mp3") == 16_000


@pytest.mark.parametrize("rate", MP3_RATES)
@pytest.mark.parametrize("mode", ["CONSTANT", "VARIABLE"])
def test_an_mp3_with_a_header_is_complete_or_refused(rate: int, mode: str, tmp_path: Path) -> None:
    data = mp3(7, rate, mode)
    assert len(decode_file(data).samples) == 7 * rate
    assert len(decode_file(TAG + data + b"TAG".ljust(128)).samples) == 7 * rate
    assert abs(block_by_block(data) - 7 * RATE) <= 1
    for end in (len(data) // 2, len(data) - 700, len(data) - 1):
        assert reason(data[:end]).startswith("truncated")
        with pytest.raises(BrokenSound, match="truncated"):
            block_by_block(data[:end])
    (tmp_path / "both.mp3").write_bytes(data + TAG + mp3(0.3, rate, mode))
    assert "re-encode" in reason(tmp_path / "both.mp3")
    with pytest.raises(BrokenSound, match="re-encode"):
        block_by_block(tmp_path / "both.mp3")


@pytest.mark.parametrize("rate", MP3_RATES)
def test_an_mp3_without_a_header_is_complete_or_refused(rate: int) -> None:
    """libsndfile estimates its length from its beginning, and would end a recording of changing
    bitrate there.
    """
    data = bare(mp3(7, rate))
    for samples in (data, data + b"TAG".ljust(128), TAG + data):
        assert 7 <= len(decode_file(samples).samples) / rate < 7.15
        assert 7 <= block_by_block(samples) / RATE < 7.15
    assert reason(data[:-50]).startswith("truncated")
    varying = bare(mp3(7, rate, "VARIABLE"))
    assert "re-encode" in reason(varying)
    with pytest.raises(BrokenSound, match="re-encode"):
        block_by_block(varying)
    longer = bare(mp3(7, rate, "VARIABLE", begin=1))  # than it is, by the estimate
    assert 7 <= len(decode_file(longer).samples) / rate < 7.15
    assert 7 <= block_by_block(longer) / RATE < 7.15


def test_a_flac_of_untold_length_is_refused() -> None:
    """A cut in it would not show."""
    data = bytearray(encode_flac(tone(RATE).astype(np.float32)))
    data[21] &= 0xF0
    data[22:26] = bytes(4)  # the number of samples
    for take in (decode_file, read_duration_s, block_by_block):
        with pytest.raises(BrokenSound, match="re-encode"):
            take(bytes(data))


@pytest.mark.parametrize("declared_size", [0, 0x7FFFF000, 0x7FFFFFFF, 0xFFFFFFFF])
@pytest.mark.parametrize("length", [1_001, 50_000])
def test_a_wav_written_to_a_pipe_is_read_in_blocks_only(
    declared_size: int, length: int, tmp_path: Path
) -> None:
    """A cut in it does not show, so that no corpus takes it."""
    data = written(noise(length), RATE, subtype="PCM_24")
    position = data.index(b"data")
    piped = bytearray(data)
    struct.pack_into("<I", piped, position + 4, declared_size)
    struct.pack_into("<I", piped, 4, min(declared_size + 36, 0xFFFFFFFF))
    (tmp_path / "piped.wav").write_bytes(piped)
    for source in (bytes(piped), tmp_path / "piped.wav"):
        streamed = np.concatenate(list(stream_blocks(source, 1)))
        assert np.array_equal(streamed, round_to_16_bits(read_waveform(data)))
        assert read_duration_s(source) == length / RATE
        assert reason(source).startswith(("truncated", "empty", "unreadable"))
    assert (tmp_path / "piped.wav").read_bytes() == piped
    with pytest.raises(BrokenSound, match="truncated"):
        block_by_block(data[:-100])


def test_resampling_leaves_what_has_the_rate_already() -> None:
    samples = noise(100)[:, 0].astype(np.float32)
    assert np.array_equal(resample(samples, RATE), samples)
    assert len(resample(samples, RATE, 8_000)) == 50


def test_flac_repeats_to_the_byte_and_loses_nothing() -> None:
    steps = np.random.default_rng(3).integers(-(2**15), 2**15, 20_000)
    samples = (steps / 2**15).astype(np.float32)
    data = encode_flac(samples)
    assert data == encode_flac(samples.copy())
    facts = soundfile.info(io.BytesIO(data))
    assert (facts.format, facts.subtype, facts.samplerate, facts.channels) == (
        "FLAC",
        "PCM_16",
        RATE,
        1,
    )
    assert np.array_equal(read_waveform(data), samples)
    assert encode_flac(read_waveform(data)) == data


def test_flac_is_clipped_and_never_wraps() -> None:
    samples = decode_file(
        encode_flac(np.array([2.0, -2.0, 1.0, -1.0, 0.0] * 20, np.float32))
    ).samples
    assert np.abs(samples - np.array([1, -1, 1, -1, 0] * 20)).max() <= 2**-15


@pytest.mark.parametrize(
    ("peak", "silent"), [(0.0, True), (5e-5, True), (-5e-5, True), (2e-4, False), (-2e-4, False)]
)
def test_silence_is_what_stays_under_80_db(peak: float, silent: bool) -> None:
    samples = np.zeros(1_000, np.float32)
    samples[500] = peak
    assert is_silent(samples) == silent
    assert is_silent(samples[:0])
