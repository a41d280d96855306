"""Whether a sound file holds what its header tells: no less, where libsndfile does not notice, and
no sound behind it, at which libsndfile stops: a second stream of an Ogg or FLAC file, samples that
a stale length leaves out.

In: a binary stream of a file. Out: a word. Nothing is decoded. Cost: one pass over the page or
chunk headers; over the bytes of a FLAC.
"""

from __future__ import annotations

import io
import re
import struct
from collections.abc import Callable, Iterator
from typing import BinaryIO, Literal

from components.audio.container import PIPED_WAV_SIZE, ends_inside_ogg

Length = Literal["right", "shorter", "longer"]
TAIL = 4096  # bytes that are no chunk, as of tags that players append
BLOCK = 1 << 20  # bytes that are searched at once
FLAC_TAIL = 1 << 18  # bytes from the end in which a frame begins; a frame has some 10 kB
FLAC_START = b"fLaC\0\0\0\x22"  # with the header of its first block, which has 34 bytes
FLAC_SYNC = re.compile(rb"\xff[\xf8\xf9]")
SPHERE_FIELD = re.compile(rb"^(sample_count|channel_count|sample_n_bytes) -i (\d+)", re.MULTILINE)
UNKNOWN_AU = 0xFFFFFFFF  # length in its header
WAV_FORMS, AIFF_FORMS = (b"RIFF", b"RIFX", b"RF64"), (b"AIFF", b"AIFC")


def compare_length(stream: BinaryIO) -> Length:
    """How much a WAV, W64, AIFF, CAF, AU, SPHERE, FLAC or Ogg file holds, compared with its header;
    ``right`` for files of other forms, and where the header does not tell.
    """
    head = stream.read(24)
    form, kind = head[:4], head[8:12]
    if form == b"OggS":
        if _is_chained_ogg(stream):
            return "longer"
        stream.seek(0)
        return "shorter" if ends_inside_ogg(stream) else "right"
    if form == b"fLaC":
        is_longer = _is_joined_flac(stream) or _is_longer_flac(stream)
        return "longer" if is_longer else "right"
    if form in WAV_FORMS and kind == b"WAVE":
        return _compare_chunks(stream, 12, 8, _big_chunk if form == b"RIFX" else _little_chunk)
    if form == b"FORM" and kind in AIFF_FORMS:
        return _compare_chunks(stream, 12, 8, _big_chunk)
    if form == b"caff":
        return _compare_chunks(stream, 8, 12, _caf_chunk)
    if form == b"riff":
        return _compare_chunks(stream, 40, 24, _w64_chunk)
    if form == b".snd":
        start, length = struct.unpack(">II", head[4:12])
        return "right" if length == UNKNOWN_AU else _compare_end(stream, start + length)
    if head.startswith(b"NIST_1A"):
        return _compare_sphere(stream)
    return "right"


def _compare_end(stream: BinaryIO, end: int) -> Length:
    """``end`` is the position behind the last sample by the header."""
    if stream.seek(0, io.SEEK_END) < end:
        return "shorter"
    return "longer" if _has_bytes(stream, end) else "right"


def _compare_sphere(stream: BinaryIO) -> Length:
    """The header is text, 1,024 bytes in most files, and holds its own length (NIST)."""
    stream.seek(8)
    length = stream.read(8).strip()
    num_header = int(length) if length.isdigit() else 1024
    stream.seek(0)
    fields = {name: int(value) for name, value in SPHERE_FIELD.findall(stream.read(num_header))}
    if len(fields) < 3:
        return "right"
    num_samples = fields[b"sample_count"] * fields[b"channel_count"]
    return _compare_end(stream, num_header + num_samples * fields[b"sample_n_bytes"])


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


def _little_chunk(head: bytes) -> tuple[bytes, int, int]:
    """Name, bytes of content, and bytes to the next chunk."""
    name, length = struct.unpack("<4sI", head)
    return name, length, length + length % 2


def _big_chunk(head: bytes) -> tuple[bytes, int, int]:
    name, length = struct.unpack(">4sI", head)
    return name, length, length + length % 2


def _caf_chunk(head: bytes) -> tuple[bytes, int, int]:
    name, length = struct.unpack(">4sq", head)
    return name, length, length


def _w64_chunk(head: bytes) -> tuple[bytes, int, int]:
    """A GUID begins with the name; the length counts the head, and chunks begin at eight bytes."""
    name, length = struct.unpack("<4s12xQ", head)
    return name, length - 24, (length + 7) // 8 * 8 - 24


def _compare_chunks(
    stream: BinaryIO,
    position: int,
    num_head: int,
    parse: Callable[[bytes], tuple[bytes, int, int]],
) -> Length:
    size = stream.seek(0, io.SEEK_END)
    long_size = 0
    stream.seek(position)
    while len(head := stream.read(num_head)) == num_head:
        name, length, step = parse(head)
        start = position + num_head
        if name == b"ds64":  # of RF64: sizes of 64 bits (EBU Tech 3306)
            long_size = int.from_bytes(stream.read(16)[8:], "little")
        elif name == b"data" and parse is _little_chunk and long_size and length == 0xFFFFFFFF:
            length = step = long_size
        if name in (*WAV_FORMS, b"FORM", b"caff", b"riff"):
            return "longer"
        if name in (b"data", b"SSND"):
            has_length = length > 0 and not (parse is _little_chunk and length >= PIPED_WAV_SIZE)
            if not has_length:  # it was written to a pipe, or is empty
                return "right"
            if start + length > size:
                return "shorter"
        elif not all(0x20 <= byte < 0x7F for byte in name) or not 0 <= length <= size - start:
            return "longer" if _has_bytes(stream, position) else "right"
        position = start + step
        stream.seek(position)
    return "right"


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
