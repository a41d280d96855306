"""What sound containers say of their own length, where libsndfile does not tell: the frames of an
MP3, the last page of an Ogg stream, the sizes of a WAV that was written to a pipe.

In: a binary stream of a file. Out: counts, flags, or a corrected header. Nothing is decoded. Cost:
one pass over the frame headers of an MP3; a few kB of the others.
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

OGG_TAIL = 1 << 17  # bytes from the end; a page is at most 65,307
# An MP3 has no length of its own. Its first frame may be a header (Xing, Info) that counts the
# other frames; without one libsndfile estimates the length from the bitrate of the first frame. It
# gives that many samples and no more, so the frames themselves are counted here.
# kbit/s of MPEG 1 and of MPEG 2, layer III, by the index 1 to 14 (ISO 11172-3 and 13818-3)
BITRATES = {
    1: (32, 40, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320),
    2: (8, 16, 24, 32, 40, 48, 56, 64, 80, 96, 112, 128, 144, 160),
}
# Hz → (row of BITRATES, version bits, index of the rate) in the frame header
MP3_RATES = {
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
# tags: ID3v2, and an APE tag that has a header (flag 0x20)
MP3_TAG = rb"ID3.{7}|APETAGEX.{15}[\x20-\x3f\x60-\x7f\xa0-\xbf\xe0-\xff].{8}"
SKIPPED_BLOCK = 4096  # bytes that are searched at once for what comes next
MP3_HEAD = 50  # bytes of a frame within which the count of a Xing or Info header ends
# flags, of which 1 says that the number of frames follows; then that number
MP3_COUNT = re.compile(rb"(?:Xing|Info)(.{4})(.{4})", re.DOTALL)
# bytes; what writes a WAV to a pipe cannot know the size and writes this or more, or 0
PIPED_WAV_SIZE = 0x7FFFF000


@contextmanager
def path_without_fork(path: Path) -> Iterator[bytes]:
    """A path to the file beside which there is no resource fork, valid within the block.

    A Mac writes ``._talk.mp3`` beside ``talk.mp3`` on disks and servers of another kind. libsndfile
    1.2.2 takes it for a part of an MP3, and then does not open it ("bad resource fork").
    """
    if not any(
        os.path.lexists(path.parent / fork)
        for fork in (f"._{path.name}", f".AppleDouble/{path.name}")
    ):
        yield os.fsencode(path)
        return
    with path.open("rb") as stream:
        yield f"/proc/self/fd/{stream.fileno()}".encode()


@dataclass(frozen=True)
class Mp3Frames:
    """The frames of an MP3 file."""

    num_frames: int  # counted
    num_declared: int  # by its header; 0: it has none
    samples_per_frame: int
    is_truncated: bool  # the last frame is cut off


def ends_inside_ogg(stream: BinaryIO) -> bool:
    """Whether the stream is an Ogg stream that stops before the end of its last page, which carries
    the flag 4 (RFC 3533, section 6).
    """
    if stream.read(4) != b"OggS":
        return False
    size = stream.seek(0, io.SEEK_END)
    stream.seek(max(0, size - OGG_TAIL))
    tail = stream.read()
    page = tail[tail.rfind(b"OggS") :]
    return (
        len(page) < 27
        or not page[5] & 4
        or len(page) < 27 + page[26] + sum(page[27 : 27 + page[26]])
    )


def count_mp3_frames(stream: BinaryIO, sample_rate: int) -> Mp3Frames:
    """The frames of an MP3 of ``sample_rate`` Hz; raises KeyError for a rate that MP3 does not
    have.
    """
    version, bits, rate_index = MP3_RATES[sample_rate]
    third = bytes(b for b in range(256) if b & 0x0C == rate_index << 2 and 0 < b >> 4 < 15)
    frame = (
        rb"\xff[" + bytes([0xE2 | bits << 3, 0xE3 | bits << 3]) + rb"][" + re.escape(third) + rb"]"
    )
    frame_or_tag = re.compile(frame + rb"|" + MP3_TAG, re.DOTALL)
    size = stream.seek(0, io.SEEK_END)
    position = num_frames = num_declared = 0
    stream.seek(0)
    while len(head := stream.read(MP3_HEAD)) > 3:
        length = _tag_length(head)
        if (
            head[0] == 0xFF
            and head[1] & 0xFE == 0xE2 | bits << 3
            and head[2] & 0x0C == rate_index << 2
            and 0 < head[2] >> 4 < 15
        ):
            bitrate, padding = BITRATES[version][(head[2] >> 4) - 1], head[2] >> 1 & 1
            length = 144_000 // version * bitrate // sample_rate + padding
            if not num_frames and (header := MP3_COUNT.search(head)):
                num_declared = int.from_bytes(header[2]) if header[1][3] & 1 else 0
            else:
                num_frames += 1
        elif not length:
            length = _skipped_length(head + stream.read(SKIPPED_BLOCK), frame_or_tag)
        position += length
        stream.seek(position)
    samples_per_frame = 1152 if version == 1 else 576
    return Mp3Frames(num_frames, num_declared, samples_per_frame, position > size)


def _tag_length(head: bytes) -> int:
    """Bytes to the end of the tag (ID3v2, APE) that starts here; 0 if none does."""
    if head[:3] == b"ID3" and len(head) >= 10:
        return 10 + sum(byte << shift for byte, shift in zip(head[6:10], (21, 14, 7, 0)))
    # The APE tag's header is at its start, its footer at its end.
    if head[:8] == b"APETAGEX" and len(head) >= 32 and head[23] & 0x20:
        return 32 + int.from_bytes(head[12:16], "little")
    return 0


def _skipped_length(block: bytes, frame_or_tag: re.Pattern[bytes]) -> int:
    """Bytes from the start of ``block`` to the next frame or tag, at least one."""
    match = frame_or_tag.search(block, 1)
    return match.start() if match else max(1, len(block) - MP3_HEAD)


def corrected_wav_header(stream: BinaryIO) -> bytes:
    """The bytes before the samples of a WAV that was written to a pipe, with the sizes corrected;
    empty for any other file.
    """
    size = stream.seek(0, io.SEEK_END)
    stream.seek(0)
    start = _first_sample_of_piped_wav(stream, size)
    if not start or size - 8 > 0xFFFFFFFE:
        return b""
    stream.seek(0)
    header = bytearray(stream.read(start))
    struct.pack_into("<I", header, 4, size - 8)
    struct.pack_into("<I", header, start - 4, size - start)
    return bytes(header)


def _first_sample_of_piped_wav(stream: BinaryIO, size: int) -> int:
    """Byte position of the samples of a WAV whose header does not know their number; else 0."""
    form, declared_size, kind = struct.unpack("<4sI4s", stream.read(12).ljust(12))
    if form != b"RIFF" or kind != b"WAVE" or declared_size == size - 8:
        return 0
    position = 12
    while len(chunk := stream.read(8)) == 8:
        name, declared_size = struct.unpack("<4sI", chunk)
        position += 8
        if name == b"data":
            is_piped = declared_size == 0 or PIPED_WAV_SIZE <= declared_size > size - position
            return position if is_piped else 0
        position += declared_size + declared_size % 2
        stream.seek(position)
    return 0


class FileWithHeader(io.FileIO):
    """A file whose first bytes are replaced by ``header``."""

    def __init__(self, path: Path, header: bytes) -> None:
        super().__init__(path)
        self._header = header

    def readinto(self, buffer: Any) -> int:
        """As that of a file."""
        position = self.tell()
        count = super().readinto(buffer) or 0
        part = self._header[position : position + count]
        buffer[: len(part)] = part
        return count
