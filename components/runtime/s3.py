"""Paths in a bucket of S3 (``s3://bucket/key``), with the methods of ``pathlib.Path`` that this
project needs for folders of recordings and tars, over s3fs.

Address and keys come from the environment alone, as with all clients of S3 (``AWS_ENDPOINT_URL``,
``AWS_ACCESS_KEY_ID``, ``AWS_PROFILE`` …). A request whose failure may pass (an error of the server,
an incomplete response, a timeout, "slow down") is sent up to ``LIBRETTO_S3_TRIES`` times, with
waits that double, before TransientError is raised. A missing file raises FileNotFoundError, as on
a disk; missing rights or an expired token raise InputError. Files are read and written as a whole,
in memory.

The retries of s3fs and botocore are off: botocore does not see a body that ends early, and those of
s3fs are nested for a download, so that a server which does not answer gets the square of the tries.
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
from typing import Any, Protocol, TypeVar, cast

from components.config.errors import InputError, TransientError
from components.runtime.durability import replaced_file
from components.runtime.settings import has_bucket, s3_timeout, s3_tries

Response = TypeVar("Response")
SCHEME = "s3://"
# Of a token, in the message of an error; a response without a body has its status alone.
REFUSALS = ("xpired", "Bad Request")
FIRST_WAIT_S = 0.25  # before the second try; doubled each time, minus a random half
LONGEST_WAIT_S = 20.0


@dataclass(frozen=True)
class RemoteStatus:
    """Size and time of a file, with the names of ``os.stat``."""

    st_size: int  # bytes
    st_mtime_ns: int


@dataclass(frozen=True, order=True)
class RemotePath:
    """A file or folder of a bucket. Methods below ``is_file`` send requests, and raise as this
    module's docstring says.
    """

    url: str  # without a slash at the end

    def __str__(self) -> str:
        return self.url

    def __truediv__(self, name: str | PurePosixPath) -> RemotePath:
        below = str(PurePosixPath(name))
        return self if below == "." else RemotePath(f"{self.url}/{below}")

    @property
    def name(self) -> str:
        """The last part of the path."""
        return self.url.rpartition("/")[2]

    @property
    def suffix(self) -> str:
        """The file's extension, with its dot."""
        return PurePosixPath(self.name).suffix

    @property
    def parent(self) -> RemotePath:
        """The folder of this path."""
        return RemotePath(self.url.rpartition("/")[0])

    def relative_to(self, parent: Any) -> PurePosixPath:
        """The path below ``parent``; raises ValueError where it is not below it."""
        return PurePosixPath(self.url).relative_to(str(parent))

    def is_file(self) -> bool:
        """Whether there is a file of this name."""
        return self._kind() == "file"

    def is_dir(self) -> bool:
        """Whether there are files below this path."""
        return self._kind() == "directory"

    def _kind(self) -> str:
        try:
            return str(self._request(lambda system: system.info(self.url)["type"]))
        except FileNotFoundError:
            return ""

    def stat(self) -> RemoteStatus:
        """Size and time of the file."""
        info = self._request(lambda system: system.info(self.url))
        modified = info.get("LastModified")
        return RemoteStatus(info["size"] or 0, int(modified.timestamp() * 1e9) if modified else 0)

    def iterdir(self) -> Iterator[RemotePath]:
        """The files and folders directly in this folder."""
        return (
            RemotePath(f"{SCHEME}{name}")
            for name in self._request(lambda system: system.ls(self.url, detail=False))
        )

    def file_sizes(self) -> dict[RemotePath, int]:
        """Size in bytes of each file at any depth; empty for a missing folder. Cost: a request for
        each thousand files.
        """
        infos = self._request(lambda system: system.find(self.url, detail=True))
        return {
            RemotePath(f"{SCHEME}{name}"): info["size"]
            for name, info in infos.items()
            if not name.endswith("/")  # what a console writes to show an empty folder
        }

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
                return cast(bytes, system.cat_file(self.url, start=start, end=end))
            except OSError as error:
                if "not satisfiable" in str(error):  # ``start`` is beyond the end
                    return b""
                raise

        return self._request(read)

    def read_text(self, encoding: str = "utf-8", errors: str = "strict") -> str:
        """The file as text."""
        return self.read_bytes().decode(encoding, errors)

    def open(self, mode: str = "r", encoding: str | None = None, newline: str | None = None) -> Any:
        """A stream over the file, all of which is read at once."""
        stream = io.BytesIO(self.read_bytes())
        if "b" in mode:
            return stream
        return io.TextIOWrapper(stream, encoding or "utf-8", newline=newline)

    def write_bytes(self, data: bytes) -> None:
        """Writes the file; a reader sees the old file or all of the new one."""
        self._request(lambda system: system.pipe_file(self.url, data))

    def unlink(self) -> None:
        """Removes the file."""
        self._request(lambda system: system.rm_file(self.url))

    def _request(self, request: Callable[[Any], Response]) -> Response:
        return with_retries(lambda: request(_filesystem()), self.url)


class StoredFile(Protocol):
    """What has the bytes of a recording: a path, on this machine or in a bucket, or a range."""

    def read_bytes(self) -> bytes:
        """All of its bytes; raises FileNotFoundError where there is no such file."""


@dataclass(frozen=True)
class FileRange:
    """A part of a file, such as a member of a tar."""

    file: Path | RemotePath
    start: int  # byte
    end: int  # byte, exclusive

    def __str__(self) -> str:
        return f"{self.file}, bytes {self.start} to {self.end}"

    def read_bytes(self) -> bytes:
        """The bytes of the range; fewer where the file ends earlier. Cost: one request."""
        if isinstance(self.file, RemotePath):
            return self.file.read_bytes(self.start, self.end)
        with self.file.open("rb") as stream:
            stream.seek(self.start)
            return stream.read(self.end - self.start)


def local_path_or_bytes(file: StoredFile) -> Path | bytes:
    """What components.audio reads: the path of a local file, or the bytes of anything else."""
    return file if isinstance(file, Path) else file.read_bytes()


def as_path(value: str | Path) -> Path | RemotePath:
    """The path of a setting: in a bucket where it begins with ``s3://``, else on this machine.
    Raises InputError for an address without a bucket.
    """
    text = str(value)
    if not text.startswith(SCHEME):
        return Path(value)
    if not has_bucket(text):
        raise InputError(
            f"{text} names no bucket.", subject=text, hint="Write it as s3://bucket/prefix."
        )
    return RemotePath(text.rstrip("/"))


def read_verified(file: StoredFile, digest: str) -> bytes | None:
    """The file, or None where it has another SHA-256; what may be in a bucket is read a second time
    before it counts as changed.
    """
    for _ in range(1 if isinstance(file, Path) else 2):
        data = file.read_bytes()
        if hashlib.sha256(data).hexdigest() == digest:
            return data
    return None


def write_atomically(path: Path | RemotePath, data: bytes) -> None:
    """Writes a file, and creates its folder; a reader sees the old file or all of the new one, even
    if this process is killed or the machine stops.
    """
    if isinstance(path, RemotePath):
        path.write_bytes(data)
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    with replaced_file(path) as partial:
        partial.write_bytes(data)


def with_retries(request: Callable[[], Response], url: str) -> Response:
    """The response of ``request``, which is repeated after failures that may pass; raises as this
    module's docstring says, with ``url`` in the message.
    """
    from botocore.exceptions import BotoCoreError, NoCredentialsError, TokenRetrievalError

    tries = s3_tries()
    for number in range(1, tries + 1):
        try:
            return request()
        except FileNotFoundError:  # with errno and message of a disk
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), url) from None
        except (PermissionError, NoCredentialsError, TokenRetrievalError) as error:
            raise _refusal(url, error) from None
        except (OSError, BotoCoreError, *_network_errors()) as error:
            if any(word in str(error) for word in REFUSALS):
                raise _refusal(url, error) from None
            if number == tries:
                raise TransientError(
                    f"{url}: no complete response in {tries} tries: {_message_of(error)}.",
                    subject=url,
                    hint="Run again: finished work stays. LIBRETTO_S3_TRIES and "
                    "LIBRETTO_S3_TIMEOUT allow more tries and longer waits.",
                ) from None
            wait_s = min(FIRST_WAIT_S * 2 ** (number - 1), LONGEST_WAIT_S)
            time.sleep(wait_s * random.uniform(0.5, 1))
    raise AssertionError("unreachable")


def _refusal(url: str, error: BaseException) -> InputError:
    return InputError(
        f"{url}: refused: {_message_of(error)}.",
        subject=url,
        hint="Renew the keys or the token in the environment (AWS_…), or ask for the rights, then "
        "run again.",
    )


def _message_of(error: BaseException) -> str:
    return (str(error) or type(error).__name__).strip().rstrip(".")


def _network_errors() -> tuple[type[Exception], ...]:
    from aiohttp import ClientError
    from botocore.exceptions import ClientError as BotocoreClientError

    return ClientError, BotocoreClientError, TimeoutError, EOFError


@lru_cache(maxsize=1)
def _filesystem() -> Any:
    """s3fs without its own retries."""
    from s3fs import S3FileSystem

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
