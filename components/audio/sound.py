"""Reading, checking and writing sound files: anything that libsndfile reads → mono float32 at 16
kHz.

Cost: about 3,700 s of FLAC a second on one core; resampling 7,000 s a second.
"""

from __future__ import annotations

import io
import os
import re
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import soundfile
import soxr

RATE = 16_000  # Hz; what every encoder of the catalogue takes
SILENCE = 1e-4  # peak of full scale (-80 dB) under which a file holds no sound at all
BLOCK_SECONDS = 60  # of a long file, read at once: a few MB


@dataclass(frozen=True)
class Sound:
    """A decoded file: ``samples`` is mono float32 in [-1, 1] at ``rate`` Hz; ``channels`` is what
    the file had.
    """

    samples: np.ndarray
    rate: int
    channels: int


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


def decode_file(source: Path | bytes) -> Sound:
    """The whole file at its own rate, channels averaged.

    Raises BrokenSound with the reason: unreadable, empty, truncated, of untold length, not finite.
    """
    with _opened(source) as file:
        return _whole(file, _least(file, source))


def read_duration_s(source: Path | bytes) -> float:
    """Seconds of what ``stream_blocks`` gives, as the header tells them; raises BrokenSound."""
    with _opened(source, piped=True) as file:
        return file.frames / file.samplerate


@contextmanager
def _opened(source: Path | bytes, piped: bool = False) -> Iterator[soundfile.SoundFile]:
    """The file, with the sizes of a ``piped`` WAV put right; what goes wrong then or while it is
    read comes as BrokenSound.
    """
    try:
        with _handed(source, piped) as handed, _sound_file(handed) as file:
            yield file
    except (OSError, RuntimeError) as error:
        raise BrokenSound(f"unreadable: {_plain(error)}") from None


@contextmanager
def _handed(source: Path | bytes, piped: bool) -> Iterator[bytes | io.IOBase]:
    """What soundfile is to open: a path as the bytes that it is on the disk (it need not be text),
    or a stream.
    """
    head = _with_sizes(source) if piped else b""
    if isinstance(source, bytes):
        yield io.BytesIO(head + source[len(head) :])
    elif head:
        with _Headed(source, head) as stream:
            yield stream
    else:
        yield os.fsencode(source)


def _sound_file(handed: bytes | io.IOBase) -> soundfile.SoundFile:
    try:
        file = soundfile.SoundFile(handed)
    except (TypeError, ValueError) as error:  # of soundfile itself: a .raw, whose rate nobody knows
        raise BrokenSound(f"unreadable: {_plain(error)}") from None
    if file.frames == 2**63 - 1:  # libsndfile's word for a length that nobody knows
        file.close()
        raise BrokenSound(ENDLESS)
    return file


def _stream(source: Path | bytes) -> BinaryIO:
    return io.BytesIO(source) if isinstance(source, bytes) else source.open("rb")


def _whole(file: soundfile.SoundFile, least: int) -> Sound:
    samples = file.read(dtype="float32", always_2d=True)
    if len(samples) < least:
        raise BrokenSound(TRUNCATED)
    if len(samples) == 0:
        raise BrokenSound("empty: no samples")
    return Sound(_mono(samples), file.samplerate, file.channels)


def _least(file: soundfile.SoundFile, source: Path | bytes) -> int:
    """Samples that come at least of a file that is whole; raises BrokenSound where it is seen that
    this one is not.
    """
    if _SHORTENED.search(file.extra_info) or _ends_inside_ogg(source):
        raise BrokenSound(TRUNCATED)
    return _least_of_mp3(file, source) if file.subtype == "MPEG_LAYER_III" else file.frames


def _mono(samples: np.ndarray) -> np.ndarray:
    """The mean of the channels of samples, shape (samples, channels); raises BrokenSound where one
    is not finite.
    """
    mono = samples[:, 0] if samples.shape[1] == 1 else samples.mean(axis=1)
    if not np.isfinite(mono).all():
        raise BrokenSound("not finite: holds NaN or infinite samples")
    return np.ascontiguousarray(mono)


# libsndfile shortens a cut WAV, AIFF, AU, W64 or RF64 to what is there and says so only in its log.
_SHORTENED = re.compile(
    r"^\s*(data|SSND|Data Size|riff|Riff size)\s*:\s*\d+ \(should be \d+\)", re.MULTILINE
)


def _ends_inside_ogg(source: Path | bytes) -> bool:
    """Whether an Ogg stream stops before the end of its last page, which carries the flag 4 (RFC
    3533, section 6).
    """
    with _stream(source) as stream:
        if stream.read(4) != b"OggS":
            return False
        size = stream.seek(0, io.SEEK_END)
        stream.seek(max(0, size - (1 << 17)))  # a page is at most 65,307 bytes
        tail = stream.read()
    page = tail[tail.rfind(b"OggS") :]
    return (
        len(page) < 27
        or not page[5] & 4
        or len(page) < 27 + page[26] + sum(page[27 : 27 + page[26]])
    )


# An MP3 has no length of its own. Its first frame may be a header (Xing, Info) that counts the
# others; without one libsndfile estimates from the first frame's bitrate. It gives that many
# samples and no more, so the frames themselves are counted here.
# kbit/s of MPEG 1 and of MPEG 2, layer III, by the index 1 to 14 (ISO 11172-3 and 13818-3)
_BITRATES = {
    1: (32, 40, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320),
    2: (8, 16, 24, 32, 40, 48, 56, 64, 80, 96, 112, 128, 144, 160),
}
_RATES = {
    44_100: (1, 3, 0),
    48_000: (1, 3, 1),
    32_000: (1, 3, 2),
    22_050: (2, 2, 0),
    24_000: (2, 2, 1),
    16_000: (2, 2, 2),
    11_025: (2, 0, 0),
    12_000: (2, 0, 1),
    8_000: (2, 0, 2),
}
_SLACK = 2  # MPEG frames, about 0.05 s, by which an estimate may be off


def _least_of_mp3(file: soundfile.SoundFile, source: Path | bytes) -> int:
    with _stream(source) as stream:
        found, told, cut = _mp3_frames(stream, file.samplerate)
    each = 1152 if _RATES[file.samplerate][0] == 1 else 576  # samples in a frame
    if cut:
        raise BrokenSound(TRUNCATED)
    if found > (told or file.frames / each) + _SLACK:
        raise BrokenSound(LONGER)
    return file.frames if told else min(file.frames, (found - _SLACK) * each)


def _mp3_frames(stream: BinaryIO, rate: int) -> tuple[int, int, bool]:
    """Frames of sound in an MP3 of so many Hz, what its header tells of their number (0: nothing),
    and whether the last is cut.
    """
    version, bits, index = _RATES[rate]
    size = stream.seek(0, io.SEEK_END)
    place = found = told = 0
    stream.seek(0)
    while len(head := stream.read(_HEAD)) > 3:
        length = _tag_bytes(head)
        if (
            head[0] == 0xFF
            and head[1] & 0xFE == 0xE2 | bits << 3
            and head[2] & 0x0C == index << 2
            and 0 < head[2] >> 4 < 15
        ):
            length = 144_000 // version * _BITRATES[version][(head[2] >> 4) - 1] // rate + (
                head[2] >> 1 & 1
            )
            if not found and (header := _XING.search(head)):
                told = int.from_bytes(header[2]) if header[1][3] & 1 else 0
            else:
                found += 1
        place += length
        stream.seek(place)
    return found, told, place > size


_HEAD = 50  # bytes of a frame in which the count of a Xing or Info header ends at the latest
_XING = re.compile(
    rb"(?:Xing|Info)(.{4})(.{4})", re.DOTALL
)  # flags, of which 1 says that the number of frames follows


def _tag_bytes(head: bytes) -> int:
    """Bytes to the end of the tag (ID3v2, APE) that begins here; 1 where none does."""
    if head[:3] == b"ID3" and len(head) >= 10:
        return 10 + sum(byte << shift for byte, shift in zip(head[6:10], (21, 14, 7, 0)))
    if (
        head[:8] == b"APETAGEX" and len(head) >= 32 and head[23] & 0x20
    ):  # the one at its beginning, not at its end
        return 32 + int.from_bytes(head[12:16], "little")
    return 1


# bytes; what writes a WAV to a pipe tells this size or a larger one, or 0, since it can't know
PIPED = 0x7FFFF000


class _Headed(io.FileIO):
    """A file that reads as if it began with ``head``."""

    def __init__(self, path: Path, head: bytes) -> None:
        super().__init__(path)
        self._head = head

    def readinto(self, buffer: Any) -> int:
        place = self.tell()
        count = super().readinto(buffer) or 0
        part = self._head[place : place + count]
        buffer[: len(part)] = part
        return count


def _with_sizes(source: Path | bytes) -> bytes:
    """All before the samples of a WAV that was written to a pipe, with the sizes of what there is;
    of anything else nothing.
    """
    with _stream(source) as stream:
        size = stream.seek(0, io.SEEK_END)
        stream.seek(0)
        if not (start := _start_of_piped(stream, size)) or size - 8 > 0xFFFFFFFE:
            return b""
        stream.seek(0)
        head = bytearray(stream.read(start))
    struct.pack_into("<I", head, 4, size - 8)
    struct.pack_into("<I", head, start - 4, size - start)
    return bytes(head)


def _start_of_piped(stream: BinaryIO, size: int) -> int:
    """Where the samples of a WAV begin, if its header does not know how many there are; else 0."""
    form, told, kind = struct.unpack("<4sI4s", stream.read(12).ljust(12))
    if form != b"RIFF" or kind != b"WAVE" or told == size - 8:
        return 0
    place = 12
    while len(chunk := stream.read(8)) == 8:
        name, told = struct.unpack("<4sI", chunk)
        place += 8
        if name == b"data":
            return place if told == 0 or PIPED <= told > size - place else 0
        place += told + told % 2
        stream.seek(place)
    return 0


def _plain(error: Exception) -> str:
    """The library's reason without addresses or paths, so that two runs give the same text."""
    reason = error.strerror if isinstance(error, OSError) else getattr(error, "error_string", None)
    return (reason or str(error)).strip().rstrip(".")


def resample(samples: np.ndarray, rate: int, target: int = RATE) -> np.ndarray:
    """Mono float32 from ``rate`` to ``target`` Hz (soxr, high quality)."""
    if rate == target:
        return samples
    return soxr.resample(samples, rate, target, quality="HQ").astype(np.float32)


def read_waveform(source: Path | bytes) -> np.ndarray:
    """Mono float32 at 16 kHz, shape (samples,); raises BrokenSound."""
    sound = decode_file(source)
    return resample(sound.samples, sound.rate)


def stream_blocks(source: Path | bytes, block_s: float = BLOCK_SECONDS) -> Iterator[np.ndarray]:
    """The file as ``read`` gives it, in blocks of about so many seconds: hours of it take the
    memory of one block.

    A file of one block comes with the bits of ``read``; a longer one is resampled as it comes,
    which differs from that by rounding. A WAV that was written to a pipe, which ``read`` refuses
    since a cut in it does not show, is taken as far as it goes. Raises BrokenSound as ``decode``
    does; where the file is found broken behind its first block, after that has come.
    """
    with _opened(source, piped=True) as file:
        least, block = _least(file, source), int(block_s * file.samplerate)
        if file.frames > block:
            yield from _blocks(file, least, block)
        else:
            yield resample(_whole(file, least).samples, file.samplerate)


def _blocks(file: soundfile.SoundFile, least: int, block: int) -> Iterator[np.ndarray]:
    resampler = (
        None
        if file.samplerate == RATE
        else soxr.ResampleStream(file.samplerate, RATE, 1, dtype="float32", quality="HQ")
    )
    done, short = 0, False
    while not short:
        samples = file.read(block, dtype="float32", always_2d=True)
        done, short = done + len(samples), len(samples) < block
        if short and done < least:
            raise BrokenSound(TRUNCATED)
        mono = _mono(samples)
        yield mono if resampler is None else resampler.resample_chunk(mono, last=short)


def read_excerpt(data: bytes, start: int, num_samples: int) -> np.ndarray:
    """``count`` samples from ``start`` on of a mono file at 16 kHz, as float32; what lies before
    them is skipped, not decoded. Fewer come where the file ends earlier; raises BrokenSound.
    """
    try:
        return soundfile.read(io.BytesIO(data), num_samples, start, dtype="float32")[0]
    except (soundfile.LibsndfileError, OSError, RuntimeError) as error:
        raise BrokenSound(f"unreadable: {_plain(error)}") from None


def is_silent(samples: np.ndarray) -> bool:
    """Whether nothing in it is louder than -80 dB of full scale."""
    return bool(np.abs(samples).max(initial=0.0) < SILENCE)


def encode_flac(samples: np.ndarray, rate: int = RATE) -> bytes:
    """16-bit FLAC; the same samples give the same bytes with one libsndfile."""
    stream = io.BytesIO()
    soundfile.write(stream, np.clip(samples, -1.0, 1.0), rate, format="FLAC", subtype="PCM_16")
    return stream.getvalue()
