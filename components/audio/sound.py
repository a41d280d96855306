"""Reading, checking and writing sound files: anything that libsndfile reads → mono float32 at 16
kHz.

In: a path or the bytes of a file. Out: samples, shape (samples,), or FLAC bytes. A file that is
truncated, or whose length cannot be trusted, raises BrokenSound with the reason
(``components.audio.container`` reads what libsndfile does not tell). Cost: about 3,700 s of FLAC a
second on one core; resampling 7,000 s a second.
"""

from __future__ import annotations

import io
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import soundfile
import soxr

from components.audio.container import (
    corrected_wav_header,
    count_mp3_frames,
    ends_inside_ogg,
)

RATE = 16_000  # Hz; what every encoder of the catalogue takes
SILENCE = 1e-4  # peak of full scale (-80 dB) below which a file is silent
BLOCK_SECONDS = 60  # of a long file, read at once: a few MB
MP3_TOLERANCE = 2  # MPEG frames, about 0.05 s, by which an estimated length may be off
UNKNOWN_FRAMES = 2**63 - 1  # what libsndfile gives as the length if it is not known
# libsndfile shortens a truncated WAV, AIFF, AU, W64 or RF64 and says so only in its log.
SHORTENED = re.compile(
    r"^\s*(data|SSND|Data Size|riff|Riff size)\s*:\s*\d+ \(should be \d+\)", re.MULTILINE
)
# reasons
TRUNCATED = "truncated: the file ends before the length that its header gives"
ENDLESS = (
    "length not in the header, as of a FLAC written to a pipe, so that a cut would not "
    "show: re-encode it into a file"
)
LONGER = (
    "longer than its header tells, as an MP3 joined from several, or of changing bitrate "
    "without a header: re-encode it"
)


class BrokenSound(ValueError):
    """A file that gives no trustworthy sound; the message is the reason."""


@dataclass(frozen=True)
class Sound:
    """A decoded file."""

    samples: np.ndarray  # mono float32 in [-1, 1], shape (samples,)
    rate: int  # Hz
    channels: int  # of the file


def decode_file(source: Path | bytes) -> Sound:
    """The complete file at its own rate, channels averaged.

    Raises BrokenSound with the reason: unreadable, empty, truncated, of unknown length, not finite.
    """
    with _open_sound(source) as file:
        return _decode_all(file, _min_samples(file, source))


def read_duration_s(source: Path | bytes) -> float:
    """Seconds of what ``stream_blocks`` gives, by the header; raises BrokenSound."""
    with _open_sound(source, allows_piped=True) as file:
        duration_s: float = file.frames / file.samplerate
    return duration_s


def read_waveform(source: Path | bytes) -> np.ndarray:
    """Mono float32 at 16 kHz, shape (samples,); raises BrokenSound."""
    sound = decode_file(source)
    return resample(sound.samples, sound.rate)


def stream_blocks(source: Path | bytes, block_s: float = BLOCK_SECONDS) -> Iterator[np.ndarray]:
    """The file as ``read_waveform`` gives it, in blocks of about ``block_s`` seconds: hours of it
    take the memory of one block.

    A file of one block has the bits of ``read_waveform``; a longer one is resampled block by block,
    which differs by rounding. A WAV that was written to a pipe is read as far as it goes
    (``read_waveform`` refuses it, since a cut in it does not show). Raises BrokenSound as
    ``decode_file`` does; a fault behind the first block is raised after that block.
    """
    with _open_sound(source, allows_piped=True) as file:
        min_samples, block_samples = _min_samples(file, source), int(block_s * file.samplerate)
        if file.frames > block_samples:
            yield from _stream_resampled(file, min_samples, block_samples)
        else:
            yield resample(_decode_all(file, min_samples).samples, file.samplerate)


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
        with _FileWithHeader(source, header) as stream:
            yield stream
    else:
        yield os.fsencode(source)


def _open_sndfile(sndfile_input: bytes | io.IOBase) -> soundfile.SoundFile:
    try:
        file = soundfile.SoundFile(sndfile_input)
    except (TypeError, ValueError) as error:  # of soundfile itself: a .raw has no rate
        raise BrokenSound(f"unreadable: {_reason(error)}") from None
    if file.frames == UNKNOWN_FRAMES:
        file.close()
        raise BrokenSound(ENDLESS)
    return file


class _FileWithHeader(io.FileIO):
    """A file whose first bytes are replaced by ``header``."""

    def __init__(self, path: Path, header: bytes) -> None:
        super().__init__(path)
        self._header = header

    def readinto(self, buffer: Any) -> int:
        position = self.tell()
        count = super().readinto(buffer) or 0
        part = self._header[position : position + count]
        buffer[: len(part)] = part
        return count


def _open_stream(source: Path | bytes) -> BinaryIO:
    return io.BytesIO(source) if isinstance(source, bytes) else source.open("rb")


def _corrected_header(source: Path | bytes) -> bytes:
    with _open_stream(source) as stream:
        return corrected_wav_header(stream)


def _decode_all(file: soundfile.SoundFile, min_samples: int) -> Sound:
    samples = file.read(dtype="float32", always_2d=True)  # (samples, channels)
    if len(samples) < min_samples:
        raise BrokenSound(TRUNCATED)
    if len(samples) == 0:
        raise BrokenSound("empty: no samples")
    return Sound(_to_mono(samples), file.samplerate, file.channels)


def _stream_resampled(
    file: soundfile.SoundFile, min_samples: int, block_samples: int
) -> Iterator[np.ndarray]:
    resampler = (
        None
        if file.samplerate == RATE
        else soxr.ResampleStream(file.samplerate, RATE, 1, dtype="float32", quality="HQ")
    )
    num_read, is_last = 0, False
    while not is_last:
        samples = file.read(block_samples, dtype="float32", always_2d=True)
        num_read, is_last = num_read + len(samples), len(samples) < block_samples
        if is_last and num_read < min_samples:
            raise BrokenSound(TRUNCATED)
        mono = _to_mono(samples)
        yield mono if resampler is None else resampler.resample_chunk(mono, last=is_last)


def _min_samples(file: soundfile.SoundFile, source: Path | bytes) -> int:
    """Samples that an intact file has at least; raises BrokenSound if the file shows that it is
    not intact.
    """
    num_frames: int = file.frames
    if SHORTENED.search(file.extra_info) or _is_cut_ogg(source):
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


def _is_cut_ogg(source: Path | bytes) -> bool:
    with _open_stream(source) as stream:
        return ends_inside_ogg(stream)


def _to_mono(samples: np.ndarray) -> np.ndarray:
    """The mean of the channels of samples, shape (samples, channels) → (samples,); raises
    BrokenSound if a sample is not finite.
    """
    mono: np.ndarray = samples[:, 0] if samples.shape[1] == 1 else samples.mean(axis=1)
    if not np.isfinite(mono).all():
        raise BrokenSound("not finite: holds NaN or infinite samples")
    contiguous: np.ndarray = np.ascontiguousarray(mono)
    return contiguous


def _reason(error: Exception) -> str:
    """The library's reason without addresses or paths, so that two runs give the same text."""
    reason = error.strerror if isinstance(error, OSError) else getattr(error, "error_string", None)
    return (reason or str(error)).strip().rstrip(".")
