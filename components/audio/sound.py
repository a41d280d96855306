"""Reading, checking and writing sound files: anything that libsndfile reads → mono float32 at 16 kHz.

Cost: about 3,700 s of FLAC a second on one core; resampling 7,000 s a second.
"""

from __future__ import annotations

import io
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import soundfile
import soxr

RATE = 16_000  # Hz; what every encoder of the catalogue takes
SILENCE = 1e-4  # peak of full scale (-80 dB) under which a file holds no sound at all
BLOCK_SECONDS = 60  # of a long file, read at once: a few MB


@dataclass(frozen=True)
class Sound:
    """A decoded file: ``samples`` is mono float32 in [-1, 1] at ``rate`` Hz; ``channels`` is what the file had."""

    samples: np.ndarray
    rate: int
    channels: int


TRUNCATED = "truncated: the file ends before the length that its header gives"


class BrokenSound(ValueError):
    """A file that gives no trustworthy sound; the message is the reason."""


def decode(source: Path | bytes) -> Sound:
    """The whole file at its own rate, channels averaged.

    Raises BrokenSound with the reason: unreadable, empty, truncated, not finite.
    """
    stream = io.BytesIO(source) if isinstance(source, bytes) else source
    try:
        with soundfile.SoundFile(stream) as file:
            frames, rate, channels, told = file.frames, file.samplerate, file.channels, file.extra_info
            samples = file.read(dtype="float32", always_2d=True)
    except (soundfile.LibsndfileError, OSError, RuntimeError) as error:
        raise BrokenSound(f"unreadable: {_plain(error)}") from None
    if len(samples) < frames or _SHORTENED.search(told) or _ends_inside_ogg(source):
        raise BrokenSound(TRUNCATED)
    if len(samples) == 0:
        raise BrokenSound("empty: no samples")
    return Sound(_mono(samples), rate, channels)


def _mono(samples: np.ndarray) -> np.ndarray:
    """The mean of the channels of samples, shape (samples, channels); raises BrokenSound where one is not finite."""
    mono = samples[:, 0] if samples.shape[1] == 1 else samples.mean(axis=1)
    if not np.isfinite(mono).all():
        raise BrokenSound("not finite: holds NaN or infinite samples")
    return np.ascontiguousarray(mono)


# libsndfile shortens a cut WAV, AIFF, AU, W64 or RF64 to what is there and says so only in its log.
_SHORTENED = re.compile(r"^\s*(data|SSND|Data Size|riff|Riff size)\s*:\s*\d+ \(should be \d+\)", re.MULTILINE)


def _ends_inside_ogg(source: Path | bytes) -> bool:
    """Whether an Ogg stream stops before the end of its last page, which carries the flag 4 (RFC 3533, section 6)."""
    with io.BytesIO(source) if isinstance(source, bytes) else source.open("rb") as stream:
        if stream.read(4) != b"OggS":
            return False
        size = stream.seek(0, io.SEEK_END)
        stream.seek(max(0, size - (1 << 17)))  # a page is at most 65,307 bytes
        tail = stream.read()
    page = tail[tail.rfind(b"OggS") :]
    return len(page) < 27 or not page[5] & 4 or len(page) < 27 + page[26] + sum(page[27 : 27 + page[26]])


def _plain(error: Exception) -> str:
    """The library's reason without addresses or paths, so that two runs give the same text."""
    return getattr(error, "error_string", str(error)).strip().rstrip(".")


def resample(samples: np.ndarray, rate: int, target: int = RATE) -> np.ndarray:
    """Mono float32 from ``rate`` to ``target`` Hz (soxr, high quality)."""
    if rate == target:
        return samples
    return soxr.resample(samples, rate, target, quality="HQ").astype(np.float32)


def read(source: Path | bytes) -> np.ndarray:
    """Mono float32 at 16 kHz, shape (samples,); raises BrokenSound."""
    sound = decode(source)
    return resample(sound.samples, sound.rate)


def streamed(source: Path | bytes, seconds: float = BLOCK_SECONDS) -> Iterator[np.ndarray]:
    """The file as ``read`` gives it, in blocks of about so many seconds: hours of it take the memory of one block.

    A file of one block comes with the bits of ``read``; a longer one is resampled as it comes, which differs from that by rounding.
    Raises BrokenSound as ``decode`` does; where the file is found broken behind its first block, after that has come.
    """
    stream = io.BytesIO(source) if isinstance(source, bytes) else source
    try:
        with soundfile.SoundFile(stream) as file:
            frames, rate, told = file.frames, file.samplerate, file.extra_info
            block = int(seconds * rate)
            if frames > block:
                if _SHORTENED.search(told) or _ends_inside_ogg(source):
                    raise BrokenSound(TRUNCATED)
                yield from _blocks(file, frames, block)
                return
    except (soundfile.LibsndfileError, OSError, RuntimeError) as error:
        raise BrokenSound(f"unreadable: {_plain(error)}") from None
    yield read(source)


def _blocks(file: soundfile.SoundFile, frames: int, block: int) -> Iterator[np.ndarray]:
    resampler = None if file.samplerate == RATE else soxr.ResampleStream(file.samplerate, RATE, 1, dtype="float32", quality="HQ")
    done = 0
    while done < frames:
        samples = file.read(block, dtype="float32", always_2d=True)
        if len(samples) == 0:
            raise BrokenSound(TRUNCATED)
        done += len(samples)
        mono = _mono(samples)
        yield mono if resampler is None else resampler.resample_chunk(mono, last=done >= frames)


def read_part(data: bytes, start: int, count: int) -> np.ndarray:
    """``count`` samples from ``start`` on of a mono file at 16 kHz, as float32; what lies before them is skipped, not decoded.
    Fewer come where the file ends earlier; raises BrokenSound."""
    try:
        return soundfile.read(io.BytesIO(data), count, start, dtype="float32")[0]
    except (soundfile.LibsndfileError, OSError, RuntimeError) as error:
        raise BrokenSound(f"unreadable: {_plain(error)}") from None


def is_silent(samples: np.ndarray) -> bool:
    """Whether nothing in it is louder than -80 dB of full scale."""
    return bool(np.abs(samples).max(initial=0.0) < SILENCE)


def as_flac(samples: np.ndarray, rate: int = RATE) -> bytes:
    """16-bit FLAC; the same samples give the same bytes with one libsndfile."""
    stream = io.BytesIO()
    soundfile.write(stream, np.clip(samples, -1.0, 1.0), rate, format="FLAC", subtype="PCM_16")
    return stream.getvalue()
