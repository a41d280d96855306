"""Download of one file over HTTP that goes on where it stood.

In: an address and the path of a ``.part`` file, which may hold the first bytes. Out: that file,
complete by the length that catalogue and server give; what is in it is checked elsewhere. A cut
connection is taken up again as long as each try brings bytes. Proxies are those of the environment
(``https_proxy``, ``no_proxy``). Cost: the network's.
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
from components.corpus.fetch.archive import BLOCK, Archive, check_room
from components.runtime.progress import progress

TIMEOUT = 10.0  # seconds to connect, and without a byte: a server that is there answers sooner
PASSING = (408, 425, 429)  # statuses below 500 that may pass by themselves (RFC 9110; RFC 6585)


def download(archive: Archive, part: Path) -> None:
    """Completes ``part`` from the archive's address; asks nothing where it has all bytes that the
    catalogue gives.

    Raises InputError (no such file there, another size, full disk) or TransientError (no network,
    cut again and again).
    """
    size = archive.packed.bytes
    if size is not None and _held(part) > size:
        part.unlink()
    if size is not None and _held(part) == size:
        return
    if size is not None:
        check_room(
            archive, part.parent, 2 * size - _held(part)
        )  # the rest of it, and what it unpacks to
    before = _held(part)
    while fault := _attempt(archive, part):
        if _held(part) <= before:
            raise TransientError(
                f"{archive.entry}: {archive.url}: {fault}; {_held(part):,} bytes are kept.",
                subject=archive.file,
                hint=f"Fetch again to go on from there. {archive.hint}",
            )
        before = _held(part)


def _held(part: Path) -> int:
    return part.stat().st_size if part.exists() else 0


def _attempt(archive: Archive, part: Path) -> str:
    """One request for what is missing; returns why it ended early, or an empty string where the
    file is complete.
    """
    held = _held(part)
    headers = {"Accept-Encoding": "identity", **({"Range": f"bytes={held}-"} if held else {})}
    try:
        with urllib.request.urlopen(
            urllib.request.Request(archive.url, headers=headers), timeout=TIMEOUT
        ) as answer:
            start, total = _extent(answer)
            _check_size(archive, total)
            shown = progress("corpus", f"fetching {archive.file}", (total or 0) / 1e6, "MB")
            with shown as bar, part.open("r+b" if held else "wb", buffering=0) as out:
                bar.advance(start / 1e6)
                if held:
                    out.seek(start)  # 0 where the server sends all of it again
                    out.truncate()
                while block := answer.read1(
                    BLOCK
                ):  # what is there: a whole block would be lost where the line falls silent
                    _write(archive, out, block)
                    bar.advance(len(block) / 1e6)
        missing = (total or archive.packed.bytes or 0) - _held(part)
        return f"the connection ended {missing:,} bytes early" if missing > 0 else ""
    except urllib.error.HTTPError as error:
        return _refused(archive, part, error)
    except (OSError, http.client.HTTPException) as error:
        return f"no connection, or a broken one ({getattr(error, 'reason', None) or error})"


def _extent(answer: http.client.HTTPResponse) -> tuple[int, int | None]:
    """First byte and length of the whole file that an answer gives (RFC 9110, section 14.4)."""
    told = re.fullmatch(r"bytes (\d+)-\d+/(\d+|\*)", answer.headers.get("Content-Range", ""))
    if answer.status == 206 and told:
        return int(told[1]), None if told[2] == "*" else int(told[2])
    length = answer.headers.get("Content-Length")
    return 0, int(length) if length else None


def _check_size(archive: Archive, total: int | None) -> None:
    size = archive.packed.bytes
    if size is not None and total is not None and total != size:
        raise InputError(
            f"{archive.entry}: {archive.url} offers {total:,} bytes where the entry says {size:,}.",
            subject=archive.file,
            hint=f"It is another file, or an error page. {archive.hint}",
        )


def _write(archive: Archive, out: FileIO, block: bytes) -> None:
    rest = memoryview(block)
    try:
        while rest:
            rest = rest[out.write(rest) :]
    except OSError as error:
        free = shutil.disk_usage(Path(str(out.name)).parent).free
        raise InputError(
            f"{archive.entry}: writing stopped: {error.strerror}: {len(block):,} bytes needed, "
            f"{free:,} free.",
            subject=archive.file,
            hint="Make room and fetch again: it goes on from there.",
        ) from None


def _refused(archive: Archive, part: Path, error: urllib.error.HTTPError) -> str:
    """What an error status means; raises InputError for one that asking again can't change."""
    if error.code == 416 and part.exists():  # nothing lies behind the bytes that are here
        if error.headers.get("Content-Range") == f"bytes */{_held(part)}":
            return ""
        part.unlink()
        return "the bytes held are not the start of this file"
    if error.code >= 500 or error.code in PASSING:
        return f"the server answers {error.code} {error.reason}"
    raise InputError(
        f"{archive.entry}: {archive.url} answers {error.code} {error.reason}.",
        subject=archive.file,
        hint=archive.hint,
    ) from None
