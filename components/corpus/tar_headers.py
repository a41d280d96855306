"""Headers of tars from elsewhere that tell of themselves: long names, and further fields.

The standard library reads such a header into memory, whatever size it claims; a few kilobytes of a
compressed tar can claim more than a machine has.
"""

from __future__ import annotations

import tarfile
from typing import Self

MAX_BYTES = 2**20  # of such a header; paths have some thousand bytes at most
EXTENSIONS = (
    tarfile.GNUTYPE_LONGNAME,
    tarfile.GNUTYPE_LONGLINK,
    tarfile.XHDTYPE,
    tarfile.XGLTYPE,
    tarfile.SOLARIS_XHDTYPE,
)


class BoundedTarInfo(tarfile.TarInfo):
    """A member whose header is no larger than names are: ``tarfile.open(…, tarinfo=…)``."""

    @classmethod
    def frombuf(cls, buf: bytes | bytearray, encoding: str, errors: str) -> Self:
        """The member of a header block; raises tarfile.ReadError for one that claims too much."""
        member = super().frombuf(buf, encoding, errors)
        if member.type in EXTENSIONS and not 0 <= member.size <= MAX_BYTES:
            raise tarfile.ReadError(f"a header that claims {member.size:,} bytes")
        return member
