"""Prefetching tars of the store: in the background, each as one object, in the order in which a
reader will need them.

In: digests of tars. Out: bytes of a tar; from memory if it was prefetched, else by a request for
these bytes alone. A prefetched tar is checked by its SHA-256. Cost: one request each time that a
tar is fetched, and memory up to ``LIBRETTO_READ_AHEAD_MB`` for all of them. If that is less than
the window of shards that training mixes, tars are fetched more than once.
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

REWRITE = "Remove it there, then run 'dvc repro -f shards' (or features) to write it again."
STREAMS = 4  # tars that are fetched at once: enough for a network's bandwidth, few requests at once


class TarPrefetcher:
    """Tars in memory, the least recently used ones first; safe to use from any thread."""

    def __init__(self, max_bytes: int) -> None:
        self._max_bytes, self._largest = max_bytes, 0  # bytes; of the largest tar so far
        self._tars: OrderedDict[str, Future[bytes]] = OrderedDict()
        self._queue: dict[str, None] = {}  # digests in the order of reading
        self._lock = threading.Lock()
        self._pool = ThreadPoolExecutor(STREAMS, thread_name_prefix="read-ahead")

    def prefetch(self, digests: Sequence[str]) -> None:
        """Fetches the tars that are not in memory, the first ones first, as many as there is memory
        for; tars that are not among ``digests`` are dropped for them.
        """
        with self._lock:
            self._queue = dict.fromkeys(digests)
            self._fill()

    def _fill(self) -> None:
        for digest in self._queue:
            if digest in self._tars:
                continue
            if not self._has_room():
                return
            self._tars[digest] = self._pool.submit(self._fetch, digest)

    def _has_room(self) -> bool:
        """Whether one more tar has room, after tars that are not in the queue are dropped."""
        if not self._largest:  # until the first tar is complete, their size is unknown
            return len(self._tars) < STREAMS
        while self._tars and (len(self._tars) + 1) * self._largest > self._max_bytes:
            unused = next((digest for digest in self._tars if digest not in self._queue), None)
            if unused is None:
                return False
            del self._tars[unused]
        return True

    def _fetch(self, digest: str) -> bytes:
        data = _read_tar(digest)
        with self._lock:
            self._largest = max(self._largest, len(data))
            self._fill()
        return data

    def read(self, digest: str, offset: int, size: int) -> bytes:
        """``size`` bytes of a tar from ``offset`` on, fewer if it ends before.

        Raises FileNotFoundError if the store has no such tar, and InputError if a prefetched tar
        has another content than its name says.
        """
        with self._lock:
            future = self._tars.get(digest)
            if future is not None:
                self._tars.move_to_end(digest)
        if future is None:
            return stored_tar(digest).read_bytes(offset, offset + size)
        try:
            return future.result()[offset : offset + size]
        except BaseException:
            with self._lock:
                self._tars.pop(digest, None)  # the next read fetches it again
            raise


def _read_tar(digest: str) -> bytes:
    """All bytes of a tar of the store; a second request is made if the digest is wrong. Raises
    InputError if it is wrong again.
    """
    data = read_verified(stored_tar(digest), digest)
    if data is not None:
        return data
    raise InputError(
        f"{stored_tar(digest)} has another content than its name says.",
        subject=digest,
        hint=REWRITE,
    )


@lru_cache(maxsize=1)
def tar_prefetcher() -> TarPrefetcher:
    """The prefetcher of this process."""
    return TarPrefetcher(read_ahead_bytes())
