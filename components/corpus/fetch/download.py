"""Download of one file over HTTP, with resume.

In: an archive and the path of a ``.part`` file, which may have the first bytes already. Out: that
file, complete by the length that catalogue and server give; its checksum is checked elsewhere
(``installation``). A broken connection is taken up again as long as each attempt brings bytes.
Proxies are those of the environment (``https_proxy``, ``no_proxy``). Cost: the network's.
"""

from __future__ import annotations

import http.client
import re
import shutil
import urllib.error
import urllib.request
from io import FileIO
from pathlib import Path

from components.config.errors import InputError, TransientError
from components.corpus.fetch.archive import Archive
from components.corpus.fetch.extraction import READ_SIZE, check_free_space
from components.runtime.progress import progress

TIMEOUT = 10.0  # seconds to connect, and without a byte: a server that is up answers sooner
TRANSIENT_STATUSES = (408, 425, 429)  # below 500 (RFC 9110; RFC 6585)


def download(archive: Archive, part: Path) -> None:
    """Completes ``part`` from the archive's address; sends no request if it has all bytes that the
    catalogue gives.

    Raises InputError (no such file there, another size, full disk) or TransientError (no network,
    or an attempt that brought no byte).
    """
    size = archive.entry.bytes
    if size is not None and _size_of(part) > size:
        part.unlink()
    if size is not None and _size_of(part) == size:
        return
    if size is not None:
        # what is missing, and what it unpacks to
        check_free_space(archive, part.parent, 2 * size - _size_of(part))
    size_before = _size_of(part)
    while fault := _attempt(archive, part):
        if _size_of(part) <= size_before:
            raise TransientError(
                f"{archive.catalogue_entry}: {archive.url}: {fault}; {_size_of(part):,} bytes are "
                "kept.",
                subject=archive.file,
                hint=f"Fetch again to go on from there. {archive.hint}",
            )
        size_before = _size_of(part)


def _size_of(part: Path) -> int:
    """Bytes of the file; 0 if it does not exist."""
    return part.stat().st_size if part.exists() else 0


def _attempt(archive: Archive, part: Path) -> str:
    """One request for what is missing; returns why it ended early, or an empty string if the file
    is complete.
    """
    offset = _size_of(part)
    headers = {"Accept-Encoding": "identity", **({"Range": f"bytes={offset}-"} if offset else {})}
    request = urllib.request.Request(archive.url, headers=headers)
    try:
        with urllib.request.urlopen(request, timeout=TIMEOUT) as response:  # http # nosec B310
            start, total = _content_range(response)
            _check_size(archive, total)
            bar_context = progress("corpus", f"fetching {archive.file}", (total or 0) / 1e6, "MB")
            with bar_context as bar, part.open("r+b" if offset else "wb", buffering=0) as out:
                bar.advance(start / 1e6)
                if offset:
                    out.seek(start)  # 0 if the server sends all of it again
                    out.truncate()
                # read1: a full block would be lost if the connection stalls within it
                while block := response.read1(READ_SIZE):
                    _write(archive, out, block)
                    bar.advance(len(block) / 1e6)
        missing = (total or archive.entry.bytes or 0) - _size_of(part)
        return f"the connection ended {missing:,} bytes early" if missing > 0 else ""
    except urllib.error.HTTPError as error:
        return _handle_status(archive, part, error)
    except (OSError, http.client.HTTPException) as error:
        return f"no connection, or a broken one ({getattr(error, 'reason', None) or error})"


def _content_range(response: http.client.HTTPResponse) -> tuple[int, int | None]:
    """(first byte of the response, length of the complete file or None) (RFC 9110, section
    14.4).
    """
    match = re.fullmatch(r"bytes (\d+)-\d+/(\d+|\*)", response.headers.get("Content-Range", ""))
    if response.status == 206 and match:
        return int(match[1]), None if match[2] == "*" else int(match[2])
    length = response.headers.get("Content-Length")
    return 0, int(length) if length else None


def _check_size(archive: Archive, total: int | None) -> None:
    size = archive.entry.bytes
    if size is not None and total is not None and total != size:
        raise InputError(
            f"{archive.catalogue_entry}: {archive.url} offers {total:,} bytes where the entry says "
            f"{size:,}.",
            subject=archive.file,
            hint=f"It is another file, or an error page. {archive.hint}",
        )


def _write(archive: Archive, out: FileIO, block: bytes) -> None:
    remaining = memoryview(block)
    try:
        while remaining:
            remaining = remaining[out.write(remaining) :]
    except OSError as error:
        free = shutil.disk_usage(Path(str(out.name)).parent).free
        raise InputError(
            f"{archive.catalogue_entry}: writing stopped: {error.strerror}: {len(block):,} bytes "
            f"are needed, {free:,} are free.",
            subject=archive.file,
            hint="Make room and fetch again: it goes on from there.",
        ) from None


def _handle_status(archive: Archive, part: Path, error: urllib.error.HTTPError) -> str:
    """What an error status means; raises InputError for one that another attempt can't change."""
    if error.code == 416 and part.exists():  # nothing behind the bytes of ``part``
        if error.headers.get("Content-Range") == f"bytes */{_size_of(part)}":
            return ""
        part.unlink()
        return "the bytes on disk are not the start of this file"
    if error.code >= 500 or error.code in TRANSIENT_STATUSES:
        return f"the server answers {error.code} {error.reason}"
    raise InputError(
        f"{archive.catalogue_entry}: {archive.url} answers {error.code} {error.reason}.",
        subject=archive.file,
        hint=archive.hint,
    ) from None
