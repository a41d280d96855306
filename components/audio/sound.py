"""Reading, checking and writing sound files: anything that libsndfile reads → mono float32 at 16
kHz. Every reader of recordings uses it, so that all hear the same.

In: a path or the bytes of a file. Out: samples, shape (samples,), or FLAC bytes. A file that is
truncated, that goes on behind the end that its header tells, or whose length cannot be trusted,
raises BrokenSound with the reason (``container`` and ``remainder`` read what libsndfile does not
tell). Channels are averaged; where that cancels most of the sound, the loudest one counts. What is
beyond full scale is clipped, as it is in shards. Cost: about 3,700 s of FLAC a second on one core,
half of that with several channels; resampling 7,000 s a second.
"""

from __future__ import annotations

import io
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import numpy as np
import soundfile
import soxr

from components.audio.container import (
    FileWithHeader,
    corrected_wav_header,
    count_mp3_frames,
    path_without_fork,
)
from components.audio.remainder import compare_length

RATE = 16_000  # Hz; what every encoder of the catalogue takes
SILENCE = 1e-4  # peak of full scale (-80 dB) below which a file is silent
BLOCK_SECONDS = 60  # of a long file, read at once: a few MB
BLOCK_VALUES = 1 << 22  # samples of all channels that are decoded at once: 16 MB
MIN_RATE, MAX_RATE = 1_000, 768_000  # Hz: below telephones, and twice what studios use
MAX_CHANNELS = 64
MAX_SECONDS = 4 * 3600  # of a file that is decoded as one utterance: 1 GB in memory
# Of full scale. Lossy codings decode to twice full scale at most; integers in a file of floats are
# 128 times and more, and would be noise if they were clipped.
MAX_PEAK = 8.0
# Power of the mean of the channels by that of the loudest, below which that one counts: 0.25 if one
# of two is silent, 0.03 if of six the centre alone has speech, 0 in opposite phases.
CANCELLED = 0.2
MP3_TOLERANCE = 2  # MPEG frames, about 0.05 s, by which an estimated length may be off
UNKNOWN_FRAMES = 2**63 - 1  # what libsndfile gives as the length if it is not known
# libsndfile shortens a truncated WAV, AIFF, AU, W64 or RF64 and says so only in its log.
SHORTENED = re.compile(
    r"^\s*(data|SSND|Data Size|riff|Riff size)\s*:\s*\d+ \(should be \d+\)", re.MULTILINE
)
# reasons
TRUNCATED = "truncated: the file ends before the length that its header gives"
ENDLESS = "length not in the header, so that a cut would not show, as of a FLAC written to a pipe: "
ENDLESS += "re-encode it into a file"
LONGER = "longer than its header tells, as one joined from several files, or an MP3 of changing "
LONGER += "bitrate without a header: re-encode it"


class BrokenSound(ValueError):
    """A file that gives no trustworthy sound; the message is the reason."""


@dataclass(frozen=True)
class Sound:
    """A decoded file."""

    samples: np.ndarray  # mono float32 in [-1, 1], shape (samples,)
    rate: int  # Hz
    channels: int  # of the file


def decode_file(source: Path | bytes) -> Sound:
    """The complete file at its own rate, mono.

    Raises BrokenSound with the reason: unreadable, empty, truncated, of unknown length or longer
    than it tells, not finite, far beyond full scale, too long for an utterance.
    """
    channel = _choose_channel(source)
    with _open_sound(source) as file:
        if file.frames > MAX_SECONDS * file.samplerate:
            raise BrokenSound(
                f"too long: {file.frames / file.samplerate / 3600:.1f} h where an utterance has at "
                f"most {MAX_SECONDS / 3600:g} h; cut it"
            )
        blocks = list(_mono_blocks(file, channel, _min_samples(file, source), BLOCK_SECONDS))
        return Sound(np.concatenate(blocks), file.samplerate, file.channels)


def read_duration_s(source: Path | bytes) -> float:
    """Seconds of what ``stream_blocks`` gives, by the header; raises BrokenSound."""
    with _open_sound(source, allows_piped=True) as file:
        duration_s: float = file.frames / file.samplerate
    return duration_s


def read_waveform(source: Path | bytes) -> np.ndarray:
    """Mono float32 at 16 kHz, shape (samples,); raises BrokenSound."""
    sound = decode_file(source)
    return resample(sound.samples, sound.rate)


def read_stored(source: Path | bytes) -> tuple[bytes | None, int]:
    """What shards store of a file: FLAC bytes, mono at 16 kHz, or None where that is the file
    itself, and the number of samples; raises BrokenSound.
    """
    with _open_sound(source) as file:
        if _is_stored_as_it_is(file):
            return None, file.frames
    waveform = read_waveform(source)
    return encode_flac(waveform), len(waveform)


def stream_blocks(source: Path | bytes, block_s: float = BLOCK_SECONDS) -> Iterator[np.ndarray]:
    """The file as shards store it, mono float32 at 16 kHz, in blocks of about ``block_s`` seconds:
    hours of it take the memory of one block.

    A longer file is resampled block by block, which differs by rounding. A WAV that was written to
    a pipe is read as far as it goes (``read_waveform`` refuses it, since a cut in it does not
    show). Raises BrokenSound as ``decode_file`` does, but for the length; a fault behind the first
    block is raised after that block.
    """
    channel = _choose_channel(source, allows_piped=True)
    with _open_sound(source, allows_piped=True) as file:
        is_stored = _is_stored_as_it_is(file)
        blocks = _mono_blocks(file, channel, _min_samples(file, source), block_s)
        for block in _resample_blocks(
            blocks, file.samplerate, file.frames <= block_s * file.samplerate
        ):
            yield block if is_stored else round_to_16_bits(block)


def read_excerpt(data: bytes, start: int, num_samples: int) -> np.ndarray:
    """``num_samples`` samples from sample ``start`` on of a mono file at 16 kHz, float32.

    Earlier samples are skipped, not decoded. Fewer are returned if the file ends earlier; raises
    BrokenSound.
    """
    try:
        samples: np.ndarray = soundfile.read(io.BytesIO(data), num_samples, start, dtype="float32")[
            0
        ]
    except (soundfile.LibsndfileError, OSError, RuntimeError) as error:
        raise BrokenSound(f"unreadable: {_reason(error)}") from None
    return samples


def resample(samples: np.ndarray, rate: int, target: int = RATE) -> np.ndarray:
    """Mono float32 from ``rate`` to ``target`` Hz (soxr, high quality)."""
    if rate == target:
        return samples
    resampled: np.ndarray = soxr.resample(samples, rate, target, quality="HQ")
    return resampled.astype(np.float32)


def round_to_16_bits(samples: np.ndarray) -> np.ndarray:
    """The samples as they come back from 16-bit FLAC (``encode_flac``), float32."""
    full_scale = np.float32(1 << 15)
    rounded: np.ndarray = np.rint(samples * full_scale).clip(-full_scale, full_scale - 1)
    rounded /= full_scale
    return rounded


def is_silent(samples: np.ndarray) -> bool:
    """Whether no sample is louder than -80 dB of full scale."""
    return bool(np.abs(samples).max(initial=0.0) < SILENCE)


def encode_flac(samples: np.ndarray, rate: int = RATE) -> bytes:
    """16-bit FLAC; the same samples give the same bytes with one libsndfile."""
    stream = io.BytesIO()
    soundfile.write(stream, np.clip(samples, -1.0, 1.0), rate, format="FLAC", subtype="PCM_16")
    return stream.getvalue()


@contextmanager
def _open_sound(source: Path | bytes, allows_piped: bool = False) -> Iterator[soundfile.SoundFile]:
    """The open file; a WAV that was written to a pipe has its sizes corrected with
    ``allows_piped``. Errors while it is opened or read are raised as BrokenSound.
    """
    try:
        with (
            _sndfile_input(source, allows_piped) as sndfile_input,
            _open_sndfile(sndfile_input) as file,
        ):
            _check_form(file)
            yield file
    except (OSError, RuntimeError) as error:
        raise BrokenSound(f"unreadable: {_reason(error)}") from None


@contextmanager
def _sndfile_input(source: Path | bytes, allows_piped: bool) -> Iterator[bytes | io.IOBase]:
    """What soundfile opens: a path as the bytes that it is on the disk (it need not be text), or a
    stream.
    """
    header = _corrected_header(source) if allows_piped else b""
    if isinstance(source, bytes):
        yield io.BytesIO(header + source[len(header) :])
    elif header:
        with FileWithHeader(source, header) as stream:
            yield stream
    else:
        with path_without_fork(source) as path:
            yield path


def _open_sndfile(sndfile_input: bytes | io.IOBase) -> soundfile.SoundFile:
    try:
        file = soundfile.SoundFile(sndfile_input)
    except (TypeError, ValueError) as error:  # of soundfile itself: a .raw has no rate
        raise BrokenSound(f"unreadable: {_reason(error)}") from None
    if file.frames == UNKNOWN_FRAMES:
        file.close()
        raise BrokenSound(ENDLESS)
    return file


def _open_stream(source: Path | bytes) -> BinaryIO:
    return io.BytesIO(source) if isinstance(source, bytes) else source.open("rb")


def _corrected_header(source: Path | bytes) -> bytes:
    with _open_stream(source) as stream:
        return corrected_wav_header(stream)


def _is_stored_as_it_is(file: soundfile.SoundFile) -> bool:
    return (file.format, file.samplerate, file.channels) == ("FLAC", RATE, 1)


def _check_form(file: soundfile.SoundFile) -> None:
    """Raises BrokenSound for a rate or a number of channels that no recording of speech has."""
    if not MIN_RATE <= file.samplerate <= MAX_RATE:
        raise BrokenSound(
            f"wrong rate: {file.samplerate} Hz where {MIN_RATE} to {MAX_RATE} are possible"
        )
    if file.channels > MAX_CHANNELS:
        raise BrokenSound(
            f"too many channels: {file.channels} where at most {MAX_CHANNELS} are possible"
        )


def _read_blocks(file: soundfile.SoundFile, block_s: float) -> Iterator[np.ndarray]:
    """What libsndfile decodes, each (samples, channels). The samples are counted here: some codings
    can't be sought, and tell no end.
    """
    most = BLOCK_VALUES // file.channels
    count = max(1, min(most, int(block_s * file.samplerate)))
    while len(samples := file.read(count, dtype="float32", always_2d=True)):
        yield samples


def _choose_channel(source: Path | bytes, *, allows_piped: bool = False) -> int | None:
    """The channel that counts where the mean of all cancels most of the sound; else None. Decodes
    the file where it has several.
    """
    with _open_sound(source, allows_piped) as file:
        if file.channels == 1:
            return None
        powers, power_of_mean = np.zeros(file.channels), 0.0
        for samples in _read_blocks(file, BLOCK_SECONDS):
            powers += np.square(samples, dtype=np.float64).sum(axis=0)
            power_of_mean += float(np.square(samples.mean(axis=1), dtype=np.float64).sum())
    loudest = int(powers.argmax())
    return loudest if power_of_mean < CANCELLED * powers[loudest] else None


def _mono_blocks(
    file: soundfile.SoundFile, channel: int | None, min_samples: int, block_s: float
) -> Iterator[np.ndarray]:
    """Blocks of shape (samples,), within full scale; raises BrokenSound where the file ends before
    ``min_samples``.
    """
    num_read = 0
    for samples in _read_blocks(file, block_s):
        num_read += len(samples)
        yield _to_mono(samples, channel)
    if num_read < min_samples:
        raise BrokenSound(TRUNCATED)
    if not num_read:
        raise BrokenSound("empty: no samples")


def _resample_blocks(
    blocks: Iterator[np.ndarray], rate: int, is_one_block: bool
) -> Iterator[np.ndarray]:
    """The blocks at 16 kHz; a single one as ``resample`` gives it."""
    if is_one_block or rate == RATE:
        for block in blocks:
            yield resample(block, rate)
        return
    resampler = soxr.ResampleStream(rate, RATE, 1, dtype="float32", quality="HQ")
    for block in blocks:
        yield resampler.resample_chunk(block)
    yield resampler.resample_chunk(np.zeros(0, np.float32), last=True)


def _min_samples(file: soundfile.SoundFile, source: Path | bytes) -> int:
    """Samples that an intact file has at least; raises BrokenSound if the file shows that it is
    not intact.
    """
    num_frames: int = file.frames
    with _open_stream(source) as stream:
        length = compare_length(stream)
    if length == "longer":
        raise BrokenSound(LONGER)
    if length == "shorter" or SHORTENED.search(file.extra_info):
        raise BrokenSound(TRUNCATED)
    if file.subtype != "MPEG_LAYER_III":
        return num_frames
    with _open_stream(source) as stream:
        mp3 = count_mp3_frames(stream, file.samplerate)
    if mp3.is_truncated:
        raise BrokenSound(TRUNCATED)
    expected_frames = mp3.num_declared or num_frames / mp3.samples_per_frame
    if mp3.num_frames > expected_frames + MP3_TOLERANCE:
        raise BrokenSound(LONGER)
    if mp3.num_declared:
        return num_frames
    return min(num_frames, (mp3.num_frames - MP3_TOLERANCE) * mp3.samples_per_frame)


def _to_mono(samples: np.ndarray, channel: int | None) -> np.ndarray:
    """One channel of samples, (samples, channels), or the mean of all (None), within full scale,
    shape (samples,); raises BrokenSound if a sample is not finite or far beyond full scale.
    """
    if samples.shape[1] == 1:
        mono = samples[:, 0]
    else:
        mono = samples.mean(axis=1) if channel is None else samples[:, channel]
    if not np.isfinite(mono).all():
        raise BrokenSound("not finite: holds NaN or infinite samples")
    peak = float(np.abs(mono).max(initial=0.0))
    if peak > MAX_PEAK:
        raise BrokenSound(
            f"too loud: a sample is {peak:,.0f} times full scale, as of integers in a file of "
            "floats; divide them by their full scale"
        )
    mono = np.clip(mono, -1.0, 1.0) if peak > 1 else mono
    contiguous: np.ndarray = np.ascontiguousarray(mono)
    return contiguous


def _reason(error: Exception) -> str:
    """The library's reason without addresses or paths, so that two runs give the same text."""
    reason = error.strerror if isinstance(error, OSError) else getattr(error, "error_string", None)
    return (reason or str(error)).strip().rstrip(".")
