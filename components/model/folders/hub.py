"""Downloads from a model hub: a pinned source of the catalogue → exactly its files, in the local HF
cache, each checked by its hash.

Files in the cache are used without the network. The others are fetched one by one into the cache's
own layout (``blobs`` by hash, ``snapshots`` by commit), so that all other tools can use them. A
download that was cut or killed is continued, which is why plain HTTP is used and not Xet (whose
hosts a mirror may not have either). Cost: one request for each missing file, the download, and one
reading of each file for its hash.
"""

from __future__ import annotations

import hashlib
import io
import os
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from huggingface_hub import constants, get_hf_file_metadata, try_to_load_from_cache
from huggingface_hub.file_download import HfFileMetadata, http_get

# In the package's __all__, but imported there in a way that mypy takes for private.
from huggingface_hub.utils import build_hf_headers  # type: ignore[attr-defined]

from components.config.errors import InputError, TransientError
from components.model.folders.hub_entry import TIMEOUT_S, HubEntry, translate_errors
from components.runtime.durability import rename
from components.runtime.progress import Progress, progress
from components.runtime.unit_cache import check_disk_space, lock

HASH = re.compile(r"[0-9a-f]{40}|[0-9a-f]{64}")  # SHA-1 of a git blob, or SHA-256 of a large file
BLOCK_BYTES = 1 << 20  # read at once for a hash


def fetch(entry: HubEntry) -> dict[str, Path]:
    """Path of each of the entry's files in the HF cache, by name.

    Raises TransientError where the network or a hash fails, InputError where the hub refuses or the
    disk is full.
    """
    paths: dict[str, Path] = {}
    for file in entry.source.files:
        with translate_errors(entry, file):
            if path := _find_cached(entry, file):
                paths[file] = path
    missing = [file for file in entry.source.files if file not in paths]
    if missing:
        remote = {file: _request_metadata(entry, file) for file in missing}
        num_bytes = sum(_remaining_bytes(entry, remote.values()))
        title = f"fetching {entry.source.repo}"
        display = progress(entry.stage, title, num_bytes / 1e6, "MB")
        with check_disk_space(num_bytes, Path(constants.HF_HUB_CACHE), entry.where), display as bar:
            for file, metadata in remote.items():
                with translate_errors(entry, file):
                    paths[file] = _download(entry, file, metadata, bar)
    return paths


def _remaining_bytes(entry: HubEntry, remote: Iterable[HfFileMetadata]) -> list[int]:
    """Bytes of each file that are not in the cache."""
    return [(metadata.size or 0) - _size(_partial_path(entry, metadata)) for metadata in remote]


def _partial_path(entry: HubEntry, metadata: HfFileMetadata) -> Path:
    return entry.storage / "blobs" / f"{metadata.etag}.incomplete"


def _size(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0


def _find_cached(entry: HubEntry, file: str) -> Path | None:
    """The file of the entry's commit in the HF cache, where it is there; it links to a blob that
    its hash names.
    """
    cached = try_to_load_from_cache(
        entry.source.repo, file, revision=entry.source.revision, cache_dir=constants.HF_HUB_CACHE
    )
    if not isinstance(cached, str):
        return None
    path = Path(cached)
    blob = Path(os.readlink(path)).name if path.is_symlink() else ""
    if HASH.fullmatch(blob):
        _check_hash(entry, file, path, blob)
    return path


def _request_metadata(entry: HubEntry, file: str) -> HfFileMetadata:
    """Hash and size of a file, as the hub says."""
    with translate_errors(entry, file):
        metadata = get_hf_file_metadata(entry.address(file), timeout=TIMEOUT_S)
    if (
        metadata.commit_hash != entry.source.revision
        or not HASH.fullmatch(metadata.etag or "")
        or metadata.size is None
    ):
        raise InputError(
            f"{entry.where}: {constants.ENDPOINT} does not say commit, hash and size of {file}.",
            subject=file,
            hint="HF_ENDPOINT must name a hub or a full mirror of one.",
        )
    if metadata.size > constants.MAX_HTTP_DOWNLOAD_SIZE:
        raise InputError(
            f"{entry.where}: {file} has {metadata.size:,} bytes, more than the hub gives by plain "
            "HTTP.",
            subject=file,
            hint=f"Fetch it into the cache: {entry.download_command}.",
        )
    return metadata


class _ProgressFile(io.BufferedWriter):
    """A file that is continued at its end and reports what is written to it."""

    def __init__(self, path: Path, bar: Progress) -> None:
        super().__init__(io.FileIO(path, "ab"))
        self._bar = bar

    def write(self, data: Any) -> int:
        self._bar.advance(len(data) / 1e6)
        return super().write(data)


def _download(entry: HubEntry, file: str, metadata: HfFileMetadata, bar: Progress) -> Path:
    """Fetches a file into the cache, under the lock that huggingface_hub itself takes for it.

    That library starts a killed download anew; here its incomplete file is continued.
    """
    partial = _partial_path(entry, metadata)
    blob = partial.with_suffix("")
    pointer = entry.storage / "snapshots" / entry.source.revision / file
    locks = Path(constants.HF_HUB_CACHE) / ".locks" / entry.storage.name
    for folder in (locks, blob.parent, pointer.parent):
        folder.mkdir(parents=True, exist_ok=True)
    with lock(locks / blob.name):
        if not blob.exists():
            if _size(partial) > (metadata.size or 0):
                partial.unlink()
            # Uncompressed: a part of a compressed answer can't be continued.
            headers = {**build_hf_headers(), "Accept-Encoding": "identity"}
            with _ProgressFile(partial, bar) as stream:
                http_get(
                    entry.address(file),
                    stream,
                    resume_size=_size(partial),
                    headers=headers,
                    expected_size=metadata.size,
                )
            _check_hash(entry, file, partial, blob.name)
            rename(partial, blob)
        if not pointer.exists():
            pointer.symlink_to(os.path.relpath(blob, pointer.parent))
    return pointer


def _check_hash(entry: HubEntry, file: str, path: Path, digest: str) -> None:
    """Removes the file and raises TransientError where its bytes do not have the hub's hash."""
    if len(digest) == 64:
        measured = hashlib.sha256()
    else:  # git's name of a file's content
        header = b"blob %d\0" % path.stat().st_size
        measured = hashlib.sha1(header, usedforsecurity=False)
    with path.open("rb") as stream:
        while block := stream.read(BLOCK_BYTES):
            measured.update(block)
    if measured.hexdigest() != digest:
        path.resolve().unlink()
        path.unlink(missing_ok=True)
        raise TransientError(
            f"{entry.where}: {file} has another hash than the hub names: it was damaged in "
            "transfer or on the disk.",
            subject=file,
            hint=f"It is removed from {entry.storage}: run again to fetch it anew.",
        )
