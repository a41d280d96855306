"""Tars of the store, read ahead: whole, in the background, in the order in which a reader says that
it will want them.

In: digests, as they are announced. Out: bytes of a tar; from memory where it was announced, by a
request for just these where it was not. A tar that was read whole is checked by its SHA-256. A tar
costs one request each time that it comes in, and memory up to ``LIBRETTO_READ_AHEAD_MB`` for all;
with less than the window of shards that a training mixes, tars come in more than once.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from functools import lru_cache

from components.config.errors import InputError
from components.runtime.s3 import read_verified
from components.runtime.settings import read_ahead_bytes
from components.shards.store import stored_tar

STREAMS = 4  # tars that come in at once: enough for a network's bandwidth, no burst of requests


class TarPrefetcher:
    """Tars in memory, the least recently used first; for any thread."""

    def __init__(self, most: int) -> None:
        self._most, self._largest = most, 0  # bytes
        self._tars: OrderedDict[str, Future[bytes]] = OrderedDict()
        self._wanted: dict[str, None] = {}  # in the order of reading
        self._lock = threading.Lock()
        self._pool = ThreadPoolExecutor(STREAMS, thread_name_prefix="read-ahead")

    def prefetch(self, wanted: Sequence[str]) -> None:
        """Has the tars come in that are not there, the first ones first, as many as there is room
        for; others make room.
        """
        with self._lock:
            self._wanted = dict.fromkeys(wanted)
            self._fill()

    def _fill(self) -> None:
        for digest in self._wanted:
            if digest in self._tars:
                continue
            if not self._room():
                return
            self._tars[digest] = self._pool.submit(self._fetch, digest)

    def _room(self) -> bool:
        """Whether one more has room, once those have gone that nobody waits for."""
        if not self._largest:
            return (
                len(self._tars) < STREAMS
            )  # until the first is here, nobody knows how large they are
        while self._tars and (len(self._tars) + 1) * self._largest > self._most:
            spare = next((digest for digest in self._tars if digest not in self._wanted), None)
            if spare is None:
                return False
            del self._tars[spare]
        return True

    def _fetch(self, digest: str) -> bytes:
        data = _whole(digest)
        with self._lock:
            self._largest = max(self._largest, len(data))
            self._fill()
        return data

    def part(self, digest: str, offset: int, size: int) -> bytes:
        """``size`` bytes of a tar from ``offset`` on, fewer where it ends earlier; raises
        FileNotFoundError where it is not there.
        """
        with self._lock:
            coming = self._tars.get(digest)
            if coming is not None:
                self._tars.move_to_end(digest)
        if coming is None:
            return stored_tar(digest).read_bytes(offset, offset + size)
        try:
            return coming.result()[offset : offset + size]
        except BaseException:
            with self._lock:
                self._tars.pop(digest, None)  # asked anew the next time
            raise


def _whole(digest: str) -> bytes:
    """A tar of the store; asked for once more where other bytes came. Raises InputError where they
    come again.
    """
    data = read_verified(stored_tar(digest), digest)
    if data is not None:
        return data
    raise InputError(
        f"{stored_tar(digest)} holds other bytes than its name says.",
        subject=digest,
        hint="Remove it there, then run 'dvc repro -f shards' (or features): it is made again.",
    )


@lru_cache(maxsize=1)
def tar_prefetcher() -> TarPrefetcher:
    """Of this process."""
    return TarPrefetcher(read_ahead_bytes())
