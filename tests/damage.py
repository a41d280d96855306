"""Damage as a disk does it: one flipped bit in place, so that all links of a file have it, with
size and times as before.
"""

from __future__ import annotations

import os
from pathlib import Path


def flip_bit(file: Path, byte: int | None = None, *, keeps_time: bool = True) -> None:
    """Flips the lowest bit of a byte of a file, by default of the one in its middle; read-only
    files stay read-only.
    """
    status = file.stat()
    byte = status.st_size // 2 if byte is None else byte
    file.chmod(0o644)
    with file.open("r+b") as stream:
        stream.seek(byte)
        value = stream.read(1)[0]
        stream.seek(byte)
        stream.write(bytes([value ^ 1]))
    file.chmod(status.st_mode)
    if keeps_time:
        os.utime(file, ns=(status.st_atime_ns, status.st_mtime_ns))
