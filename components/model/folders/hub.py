"""A model hub: a pinned source of the catalogue → exactly its files, in the local HF cache, each
checked by its hash.

What the cache holds already is taken without the network. The rest is fetched file by file into the
cache's own layout (``blobs`` by hash, ``snapshots`` by commit), so that all other tools find it
there; what a cut connection or a kill left is continued, which is why plain HTTP is used and not
Xet (whose hosts a mirror need not hold either). HF_ENDPOINT, HF_HOME, HF_TOKEN and HF_HUB_OFFLINE
hold as huggingface_hub reads them, when the process starts. Cost: one question a file that is
missing, the download, and one reading of each file for its hash.
"""

from __future__ import annotations

import argparse
import errno
import hashlib
import io
import os
import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import httpx2
from huggingface_hub import (
    HfApi,
    constants,
    get_hf_file_metadata,
    hf_hub_url,
    try_to_load_from_cache,
)
from huggingface_hub import errors as answers
from huggingface_hub.file_download import HfFileMetadata, http_get, repo_folder_name
from huggingface_hub.utils import build_hf_headers

from components.config import catalogue
from components.config.errors import InputError, LibrettoError, TransientError, nearest
from components.config.model_sources import FETCHED, HubSource
from components.runtime.progress import Progress, progress
from components.runtime.unit_cache import check_disk_space, lock

SECONDS = 5.0  # for the hub to answer a question: who is offline should not wait to be told so
HASH = re.compile(r"[0-9a-f]{40}|[0-9a-f]{64}")  # SHA-1 of a git blob, or SHA-256 of a large file


@dataclass(frozen=True)
class HubEntry:
    """A catalogue entry whose weights come from the hub."""

    stage: str
    name: str
    source: HubSource

    @property
    def where(self) -> str:
        """How errors name it."""
        return f"{self.stage} '{self.name}'"

    @property
    def storage(self) -> Path:
        """Its repository's folder in the HF cache."""
        return Path(constants.HF_HUB_CACHE) / repo_folder_name(
            repo_id=self.source.repo, repo_type="model"
        )

    def address(self, file: str) -> str:
        """Where the hub serves one of its files."""
        return hf_hub_url(
            self.source.repo, file, revision=self.source.revision, endpoint=constants.ENDPOINT
        )


def fetch(entry: HubEntry) -> dict[str, Path]:
    """Path of each of the entry's files in the HF cache, by name.

    Raises TransientError where the network or a hash fails, InputError where the hub refuses or the
    disk is full.
    """
    source = entry.source
    cached_files = {}
    for file in source.files:
        with _ways_out(entry, file):
            if path := _cached(entry, file):
                cached_files[file] = path
    remote = {
        file: _request_metadata(entry, file) for file in source.files if file not in cached_files
    }
    if remote:
        num_bytes = sum(
            (found.size or 0) - _size(_partial(entry, found)) for found in remote.values()
        )
        display = progress(entry.stage, f"fetching {source.repo}", num_bytes / 1e6, "MB")
        with check_disk_space(num_bytes, Path(constants.HF_HUB_CACHE), entry.where), display as bar:
            for file, metadata in remote.items():
                with _ways_out(entry, file):
                    cached_files[file] = _download(entry, file, metadata, bar)
    return cached_files


def _partial(entry: HubEntry, metadata: HfFileMetadata) -> Path:
    return entry.storage / "blobs" / f"{metadata.etag}.incomplete"


def _size(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0


def _cached(entry: HubEntry, file: str) -> Path | None:
    """The file of this very commit in the HF cache, if it is there; it links to a blob that its
    hash names.
    """
    cached = try_to_load_from_cache(
        entry.source.repo, file, revision=entry.source.revision, cache_dir=constants.HF_HUB_CACHE
    )
    if not isinstance(cached, str):
        return None
    path = Path(cached)
    blob = Path(os.readlink(path)).name if path.is_symlink() else ""
    if HASH.fullmatch(blob):
        _check(entry, file, path, blob)
    return path


def _request_metadata(entry: HubEntry, file: str) -> HfFileMetadata:
    """What the hub says of a file: hash and size."""
    with _ways_out(entry, file):
        metadata = get_hf_file_metadata(entry.address(file), timeout=SECONDS)
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
            hint=f"Fetch it into the cache: {_by_hand(entry)}.",
        )
    return metadata


def _by_hand(entry: HubEntry) -> str:
    """The hub's own command that fills the cache with what the entry wants."""
    return (
        f"'hf download {entry.source.repo} --revision {entry.source.revision or 'main'} "
        f"{' '.join(entry.source.files)}'"
    )


class _CountedFile(io.BufferedWriter):
    """A file that is continued at its end and shows what is written to it."""

    def __init__(self, path: Path, bar: Progress) -> None:
        super().__init__(io.FileIO(path, "ab"))
        self._bar = bar

    def write(self, data) -> int:
        self._bar.advance(len(data) / 1e6)
        return super().write(data)


def _download(entry: HubEntry, file: str, metadata: HfFileMetadata, bar: Progress) -> Path:
    """Fetches a file into the cache, under the lock that huggingface_hub itself takes for it.

    That library begins a killed download anew; here the part that lies there is continued.
    """
    partial = _partial(entry, metadata)
    blob, pointer = (
        partial.with_suffix(""),
        entry.storage / "snapshots" / entry.source.revision / file,
    )
    locks = Path(constants.HF_HUB_CACHE) / ".locks" / entry.storage.name
    for folder in (locks, blob.parent, pointer.parent):
        folder.mkdir(parents=True, exist_ok=True)
    with lock(locks / blob.name):
        if not blob.exists():
            if _size(partial) > (metadata.size or 0):
                partial.unlink()
            # As it is: a part of what is compressed on the way can't be continued.
            headers = {**build_hf_headers(), "Accept-Encoding": "identity"}
            with _CountedFile(partial, bar) as stream:
                http_get(
                    entry.address(file),
                    stream,
                    resume_size=_size(partial),
                    headers=headers,
                    expected_size=metadata.size,
                )
            _check(entry, file, partial, blob.name)
            partial.rename(blob)
        if not pointer.exists():
            pointer.symlink_to(os.path.relpath(blob, pointer.parent))
    return pointer


def _check(entry: HubEntry, file: str, path: Path, digest: str) -> None:
    """Removes the file and raises TransientError where its bytes are not those that the hub's hash
    stands for.
    """
    if len(digest) == 64:
        measured = hashlib.sha256()
    else:
        measured = hashlib.sha1(
            b"blob %d\0" % path.stat().st_size, usedforsecurity=False
        )  # git's name of a file's content
    with path.open("rb") as stream:
        while block := stream.read(1 << 20):
            measured.update(block)
    if measured.hexdigest() != digest:
        path.resolve().unlink()
        path.unlink(missing_ok=True)
        raise TransientError(
            f"{entry.where}: {file} has another hash than the hub names: it was damaged on the "
            "way or on the disk.",
            subject=file,
            hint=f"It is removed from {entry.storage}: run again to fetch it anew.",
        )


@contextmanager
def _ways_out(entry: HubEntry, file: str) -> Iterator[None]:
    """What the hub or the network answers as errors with the way out. They are worded here: no
    token gets into them.
    """
    where, repo, revision = entry.where, entry.source.repo, entry.source.revision
    terms = (
        f"Accept its terms at {constants.ENDPOINT}/{repo}, then set HF_TOKEN to a token of "
        "that account, or run 'hf auth login'."
    )
    try:
        yield
    except answers.GatedRepoError:
        raise InputError(f"{where}: {repo} is gated.", subject=repo, hint=terms) from None
    except answers.RevisionNotFoundError:
        raise InputError(
            f"{where}: {repo} has no commit {revision}.",
            subject=repo,
            hint=f"'python -m components.{entry.stage} pin {entry.name}' shows the current one.",
        ) from None
    except answers.RemoteEntryNotFoundError:
        raise InputError(
            f"{where}: {repo} has no file '{file}' at {revision}.",
            subject=file,
            hint=nearest(file, _listed(entry)),
        ) from None
    except answers.RepositoryNotFoundError:
        raise InputError(
            f"{where}: the hub shows no repository {repo}: there is none, or it is private or "
            "gated.",
            subject=repo,
            hint=f"Check the name. {terms}",
        ) from None
    except answers.HfHubHTTPError as error:
        status = error.response.status_code
        if status in (401, 403):
            raise InputError(
                f"{where}: the hub refuses {repo} ({status}): no token, or one that may not.",
                subject=repo,
                hint=terms,
            ) from None
        raise TransientError(
            f"{where}: {constants.ENDPOINT} answers {status} for {file}.",
            subject=file,
            hint="Run again later.",
        ) from None
    except (answers.OfflineModeIsEnabled, httpx2.TransportError) as error:
        raise _offline(entry, file, error) from None
    except OSError as error:
        if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):  # somebody else's cache
            raise InputError(
                f"{where}: {file}: {constants.HF_HUB_CACHE} can't be written.",
                subject=file,
                hint="Let HF_HOME name a folder of your own.",
            ) from None
        if "Consistency check failed" not in str(error):  # it is the disk's
            raise
        raise TransientError(
            f"{where}: {file} did not arrive whole.",
            subject=file,
            hint="Run again: what arrived is kept.",
        ) from None


def _offline(entry: HubEntry, file: str, error: Exception) -> LibrettoError:
    source = entry.source
    forbidden = isinstance(error, answers.OfflineModeIsEnabled)
    why = (
        "HF_HUB_OFFLINE forbids to ask"
        if forbidden
        else f"the hub ({constants.ENDPOINT}) does not answer ({type(error).__name__})"
    )
    ways = (
        f"Fill the cache on a machine with a network ({_by_hand(entry)}) and set HF_HOME to it; or "
        "put the files into a folder below LIBRETTO_MODELS and give the entry 'source: {kind: "
        "folder, folder: …}'; or set HF_ENDPOINT to a mirror."
    )
    kind = InputError if forbidden else TransientError
    return kind(
        f"{entry.where}: {file} of {source.repo} is not in the cache {constants.HF_HUB_CACHE}, "
        f"and {why}.",
        subject=file,
        hint=ways,
    )


def _listed(entry: HubEntry) -> list[str]:
    """Files of the repository at the entry's commit; none where the hub does not say."""
    with suppress(httpx2.HTTPError, OSError):
        return _info(entry, entry.source.revision)[1]
    return []


def _info(entry: HubEntry, revision: str) -> tuple[str, list[str]]:
    """(commit, files) of a revision."""
    info = HfApi(endpoint=constants.ENDPOINT).model_info(
        entry.source.repo, revision=revision, timeout=SECONDS
    )
    return str(info.sha), [sibling.rfilename for sibling in info.siblings or []]


def pin(kind: str, arguments: list[str]) -> None:
    """``python -m components.<kind> pin NAME``: prints the lines that pin a catalogue entry to the
    hub's current commit.
    """
    parser = argparse.ArgumentParser(
        prog=f"python -m components.{kind} pin", description=pin.__doc__
    )
    parser.add_argument("name", help=f"of catalogue/{kind}.yaml, with a source of kind hub")
    name = parser.parse_args(arguments).name
    try:
        print(pinned_lines(kind, name))
    except LibrettoError as error:
        print(f"{kind} pin: {error}", file=sys.stderr)
        sys.exit(error.exit_code)


def pinned_lines(kind: str, name: str) -> str:
    """The lines for the catalogue: commit of main, and the files of a checkpoint where the entry
    names none.
    """
    entry = HubEntry(kind, name, catalogue.READERS[kind](name).source)
    if entry.source.kind != "hub":
        raise InputError(
            f"{entry.where}: its source is of kind '{entry.source.kind}': nothing to pin.",
            subject=name,
        )
    with _ways_out(entry, "main"):
        commit, listed = _info(entry, "main")
    return (
        f"# catalogue/{kind}.yaml, {name}, source:\n    revision: {commit}\n    files: "
        f"[{', '.join(entry.source.files or files_to_fetch(listed))}]"
    )


def files_to_fetch(listed: list[str]) -> list[str]:
    """Of a repository's files those that a checkpoint needs: weights as safetensors if there are
    any, and descriptions.
    """
    files = [file for file in listed if FETCHED.fullmatch(file) and not file.endswith(".md")]
    safe = any(file.endswith(".safetensors") for file in files)
    return sorted(file for file in files if not (safe and file.startswith("pytorch_model")))
