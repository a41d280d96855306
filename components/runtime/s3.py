"""A place in a bucket of S3 (``s3://bucket/key``), with as much of ``pathlib.Path`` as this project
asks of a folder of recordings or tars. The extra ``s3`` installs what it stands on, s3fs.

Where the server is and who asks comes from the environment alone, as everywhere with S3
(``AWS_ENDPOINT_URL``, ``AWS_ACCESS_KEY_ID``, ``AWS_PROFILE`` …). What may pass (a refused or cut
answer, a stall, "slow down") is asked again ``LIBRETTO_S3_TRIES`` times with waits that double;
then TransientError tells it. Missing files raise FileNotFoundError as on a disk; what only a hand
can mend (no rights, an expired token) InputError. Files are read and written whole, in memory.
"""

from __future__ import annotations

import errno
import hashlib
import io
import os
import random
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path, PurePosixPath
from typing import Any, TypeVar

from components.config.errors import InputError, TransientError
from components.runtime.settings import s3_timeout, s3_tries

Response = TypeVar("Response")
SCHEME = "s3://"
REFUSALS = (
    "xpired",
    "Bad Request",
)  # of a token: in words, or for a question whose answer has no body by its status alone
FIRST_WAIT, LONGEST_WAIT = (
    0.25,
    20.0,
)  # seconds before asking again; doubled each time, a random half taken off


@dataclass(frozen=True)
class RemoteStatus:
    """Of a file, as ``os.stat`` names it."""

    st_size: int  # bytes
    st_mtime_ns: int


@dataclass(frozen=True, order=True)
class RemotePath:
    """One place; nothing is asked before a method that does."""

    url: str  # without a slash at the end

    def __str__(self) -> str:
        return self.url

    def __truediv__(self, name: str | PurePosixPath) -> RemotePath:
        below = str(PurePosixPath(name))
        return self if below == "." else RemotePath(f"{self.url}/{below}")

    @property
    def name(self) -> str:
        return self.url.rpartition("/")[2]

    @property
    def suffix(self) -> str:
        return PurePosixPath(self.name).suffix

    @property
    def parent(self) -> RemotePath:
        return RemotePath(self.url.rpartition("/")[0])

    def relative_to(self, above: Any) -> PurePosixPath:
        return PurePosixPath(self.url).relative_to(str(above))

    def is_file(self) -> bool:
        return self._kind() == "file"

    def is_dir(self) -> bool:
        return self._kind() == "directory"

    def _kind(self) -> str:
        try:
            return self._request(lambda system: system.info(self.url)["type"])
        except FileNotFoundError:
            return ""

    def stat(self) -> RemoteStatus:
        info = self._request(lambda system: system.info(self.url))
        changed = info.get("LastModified")
        return RemoteStatus(info["size"] or 0, int(changed.timestamp() * 1e9) if changed else 0)

    def iterdir(self) -> Iterator[RemotePath]:
        """What lies directly in the folder."""
        return (
            RemotePath(f"{SCHEME}{name}")
            for name in self._request(lambda system: system.ls(self.url, detail=False))
        )

    def file_sizes(self) -> dict[RemotePath, int]:
        """Bytes of each file at any depth; a folder that is not there gives nothing. A request for
        each thousand files.
        """
        entries = self._request(lambda system: system.find(self.url, detail=True))
        return {RemotePath(f"{SCHEME}{name}"): facts["size"] for name, facts in entries.items()}

    def rglob(self, pattern: str) -> Iterator[RemotePath]:
        """The files at any depth whose name matches."""
        return (path for path in self.file_sizes() if PurePosixPath(path.url).match(pattern))

    def glob(self, pattern: str) -> Iterator[RemotePath]:
        """The files whose path below this one matches, as many folders deep as the pattern is."""
        depth = len(PurePosixPath(pattern).parts)
        return (path for path in self.rglob(pattern) if len(path.relative_to(self).parts) == depth)

    def read_bytes(self, start: int | None = None, end: int | None = None) -> bytes:
        """The file, or its bytes from ``start`` up to ``end``; fewer where it ends earlier."""

        def read(system: Any) -> bytes:
            try:
                return system.cat_file(self.url, start=start, end=end)
            except OSError as error:
                if "not satisfiable" in str(error):  # ``start`` is beyond the end
                    return b""
                raise

        return self._request(read)

    def read_text(self, encoding: str = "utf-8", errors: str = "strict") -> str:
        return self.read_bytes().decode(encoding, errors)

    def open(self, mode: str = "r", encoding: str | None = None, newline: str | None = None) -> Any:
        """A stream over the file, read whole."""
        stream = io.BytesIO(self.read_bytes())
        return (
            stream
            if "b" in mode
            else io.TextIOWrapper(stream, encoding or "utf-8", newline=newline)
        )

    def write_bytes(self, data: bytes) -> None:
        """Writes the file; another reader sees all of it or what was there before."""
        self._request(lambda system: system.pipe_file(self.url, data))

    def unlink(self) -> None:
        self._request(lambda system: system.rm_file(self.url))

    def _request(self, question: Callable[[Any], Response]) -> Response:
        return with_retries(lambda: question(_filesystem()), self.url)


def local_path_or_bytes(path: Path | RemotePath) -> Path | bytes:
    """What components.audio reads: a file of this machine as it lies there, one of a bucket as its
    bytes.
    """
    return path.read_bytes() if isinstance(path, RemotePath) else path


def as_path(value: str | Path) -> Path | RemotePath:
    """The path that a setting names: of a bucket where it begins with ``s3://``, else of this
    machine.
    """
    text = str(value)
    return RemotePath(text.rstrip("/")) if text.startswith(SCHEME) else Path(value)


def read_verified(path: Path | RemotePath, digest: str) -> bytes | None:
    """The file where its SHA-256 is this one, else None; what came over a network is asked for once
    more before it counts as changed.
    """
    for _ in range(2 if isinstance(path, RemotePath) else 1):
        data = path.read_bytes()
        if hashlib.sha256(data).hexdigest() == digest:
            return data
    return None


def write_atomically(path: Path | RemotePath, data: bytes) -> None:
    """Writes a file, and its folder, that others see whole or not at all, whatever is killed
    meanwhile.
    """
    if isinstance(path, RemotePath):
        path.write_bytes(data)
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.partial")
    partial.write_bytes(data)
    partial.replace(path)


def with_retries(request: Callable[[], Response], url: str) -> Response:
    """What ``ask`` answers, asked again where that may help; raises as this module's first lines
    say.
    """
    from botocore.exceptions import BotoCoreError, NoCredentialsError, TokenRetrievalError

    tries = s3_tries()
    for number in range(1, tries + 1):
        try:
            return request()
        except FileNotFoundError:
            raise FileNotFoundError(
                errno.ENOENT, os.strerror(errno.ENOENT), url
            ) from None  # as a disk says it
        except (PermissionError, NoCredentialsError, TokenRetrievalError) as error:
            raise _refusal(url, error) from None
        except (OSError, BotoCoreError, *_network_errors()) as error:
            if any(word in str(error) for word in REFUSALS):
                raise _refusal(url, error) from None
            if number == tries:
                raise TransientError(
                    f"{url}: no whole answer in {tries} tries: {_message_of(error)}.",
                    subject=url,
                    hint="Run again: what is done is kept. Raise LIBRETTO_S3_TRIES or "
                    "LIBRETTO_S3_TIMEOUT.",
                ) from None
            time.sleep(min(FIRST_WAIT * 2 ** (number - 1), LONGEST_WAIT) * random.uniform(0.5, 1))
    raise AssertionError("unreachable")


def _refusal(url: str, error: BaseException) -> InputError:
    return InputError(
        f"{url}: refused: {_message_of(error)}.",
        subject=url,
        hint=(
            "Renew the keys or the token in the environment (AWS_…), or ask for the "
            "rights, then run again."
        ),
    )


def _message_of(error: BaseException) -> str:
    return (str(error) or type(error).__name__).strip().rstrip(".")


def _network_errors() -> tuple[type[Exception], ...]:
    from aiohttp import ClientError
    from botocore.exceptions import ClientError as Answered

    return ClientError, Answered, TimeoutError, EOFError


@lru_cache(maxsize=1)
def _filesystem() -> Any:
    """s3fs, which asks once and leaves patience to ``patiently``; raises InputError where it is not
    installed.
    """
    try:
        from s3fs import S3FileSystem
    except ModuleNotFoundError:
        raise InputError(
            "A path begins with s3://, but s3fs is not installed.",
            subject="s3fs",
            hint="Install the extra 's3' (pip install '.[s3]').",
        ) from None
    limits = {
        "connect_timeout": s3_timeout(),
        "read_timeout": s3_timeout(),
        "retries": {"total_max_attempts": 1},
    }
    system = S3FileSystem(
        config_kwargs=limits,
        use_listings_cache=False,
        default_cache_type="none",
        skip_instance_cache=True,
    )
    system.retries = 1
    return system
