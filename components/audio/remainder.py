"""Sound behind the end at which libsndfile stops: a second stream of an Ogg or FLAC file, samples
that a stale length leaves out.

In: a binary stream of a file. Out: whether it holds more than its header tells. Nothing is decoded.
Cost: one pass over the page or chunk headers; over the bytes of a FLAC.
"""

from __future__ import annotations

import io
import re
from collections.abc import Iterator
from typing import BinaryIO, Literal

TAIL = 4096  # bytes that are no chunk, as of tags that players append
BLOCK = 1 << 20  # bytes that are searched at once
FLAC_TAIL = 1 << 18  # bytes from the end in which a frame begins; a frame has some 10 kB
FLAC_START = b"fLaC\0\0\0\x22"  # with the header of its first block, which has 34 bytes
FLAC_SYNC = re.compile(rb"\xff[\xf8\xf9]")


def holds_more_sound(stream: BinaryIO) -> bool:
    """Whether a WAV, AIFF, FLAC or Ogg file goes on with sound behind the end that its header
    tells; False for files of other forms.
    """
    form, kind = stream.read(4), stream.read(8)[4:]
    if form == b"OggS":
        return _is_chained_ogg(stream)
    if form == b"fLaC":
        return _is_joined_flac(stream) or _is_longer_flac(stream)
    if form in (b"RIFF", b"RF64", b"RIFX") and kind == b"WAVE":
        return _has_more_chunks(stream, "big" if form == b"RIFX" else "little")
    if form == b"FORM" and kind in (b"AIFF", b"AIFC"):
        return _has_more_chunks(stream, "big")
    return False


def _is_chained_ogg(stream: BinaryIO) -> bool:
    """Whether a stream begins after another has ended (RFC 3533, section 4)."""
    position, has_ended = 0, False
    stream.seek(0)
    while len(head := stream.read(27)) == 27 and head.startswith(b"OggS"):
        flags = head[5]
        if has_ended and flags & 2:
            return True
        has_ended = has_ended or bool(flags & 4)
        lengths = stream.read(head[26])
        position += 27 + len(lengths) + sum(lengths)
        stream.seek(position)
    return False


def _has_more_chunks(stream: BinaryIO, order: Literal["little", "big"]) -> bool:
    """Whether what follows the samples of a WAV or AIFF is no chunk."""
    size = stream.seek(0, io.SEEK_END)
    position, long_size = 12, 0
    stream.seek(position)
    while len(head := stream.read(8)) == 8:
        name, length = head[:4], int.from_bytes(head[4:], order)
        if name == b"ds64":  # of RF64: sizes of 64 bits (EBU Tech 3306)
            long_size = int.from_bytes(stream.read(16)[8:], order)
        elif name == b"data" and length == 0xFFFFFFFF:
            length = long_size
        is_chunk = all(0x20 <= byte < 0x7F for byte in name) and position + 8 + length <= size
        if name in (b"RIFF", b"RIFX", b"RF64", b"FORM"):
            return True
        if not is_chunk:
            return name not in (b"data", b"SSND") and _has_bytes(stream, position)
        position += 8 + length + length % 2
        stream.seek(position)
    return False


def _has_bytes(stream: BinaryIO, position: int) -> bool:
    """Whether more than ``TAIL`` bytes other than zero follow."""
    stream.seek(position)
    count = 0
    while (block := stream.read(BLOCK)) and count <= TAIL:
        count += len(block) - block.count(0)
    return count > TAIL


def _is_joined_flac(stream: BinaryIO) -> bool:
    """Whether a second FLAC stream begins in the file."""
    stream.seek(4)
    before = b""
    while block := stream.read(BLOCK):
        if FLAC_START in before + block:
            return True
        before = block[1 - len(FLAC_START) :]
    return False


def _is_longer_flac(stream: BinaryIO) -> bool:
    """Whether the last frame ends behind the number of samples that the header tells (RFC 9639,
    sections 8.2 and 9.1).
    """
    stream.seek(0)
    head = stream.read(42)
    block_size = int.from_bytes(head[10:12])
    declared = int.from_bytes(head[21:26]) & (1 << 36) - 1
    first = _first_flac_frame(stream)
    if not declared or not first:
        return False
    size = stream.seek(0, io.SEEK_END)
    stream.seek(max(0, size - FLAC_TAIL))
    tail = stream.read()
    ends = [
        end
        for match in FLAC_SYNC.finditer(tail)
        if (end := _end_of_frame(tail[match.start() : match.start() + 16], first, block_size))
    ]
    return bool(ends) and ends[-1] > declared


def _first_flac_frame(stream: BinaryIO) -> bytes:
    """The first four bytes of the first frame; empty where the header is broken."""
    position, is_last = 4, False
    while not is_last:
        stream.seek(position)
        head = stream.read(4)
        if len(head) < 4:
            return b""
        is_last = bool(head[0] & 0x80)
        position += 4 + int.from_bytes(head[1:])
    stream.seek(position)
    frame = stream.read(4)
    return frame if FLAC_SYNC.match(frame) and len(frame) == 4 else b""


def _end_of_frame(head: bytes, first: bytes, block_size: int) -> int:
    """Number of the sample behind the frame that begins with ``head``; 0 if it is no frame of the
    file whose first one begins with ``first``.
    """
    if (
        len(head) < 16
        or head[1] != first[1]
        or (head[2] ^ first[2]) & 15
        or (head[3] ^ first[3]) & 15
    ):
        return 0
    fields = iter(head[4:])
    number = _coded_number(fields)
    code = head[2] >> 4
    samples = _samples_of_frame(code, fields)
    for _ in range({12: 1, 13: 2, 14: 2}.get(head[2] & 15, 0)):
        next(fields)
    used = 16 - len(list(fields))
    if number < 0 or not samples or _crc8(head[:used]) != head[used]:
        return 0
    return (number if head[1] & 1 else number * block_size) + samples


def _coded_number(fields: Iterator[int]) -> int:
    """The number of the frame or its first sample, coded as UTF-8 codes letters; -1 if it is
    none.
    """
    first = next(fields)
    if first < 0x80:
        return first
    num_more = 7 - (first ^ 0xFF).bit_length()  # ones at the start, less one
    if not 1 <= num_more <= 6:
        return -1
    number = first & (0x3F >> num_more)
    for byte in (next(fields) for _ in range(num_more)):
        if byte & 0xC0 != 0x80:
            return -1
        number = number << 6 | byte & 0x3F
    return number


def _samples_of_frame(code: int, fields: Iterator[int]) -> int:
    """Samples of a frame with this block size code; 0 for the reserved one."""
    if code == 6:
        return next(fields) + 1
    if code == 7:
        return (next(fields) << 8 | next(fields)) + 1
    if code >= 8:
        return 256 << code - 8
    return 192 if code == 1 else 576 << code - 2 if code >= 2 else 0


def _crc8(data: bytes) -> int:
    """With the polynomial x^8 + x^2 + x + 1 (RFC 9639, section 9.1.8)."""
    value = 0
    for byte in data:
        value ^= byte
        for _ in range(8):
            value = value << 1 ^ (0x107 if value & 0x80 else 0)
    return value
