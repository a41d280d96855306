"""A pinned source of the catalogue on a model hub: its addresses, what the hub lists of it, and the
hub's errors with hints.

HF_ENDPOINT, HF_HOME, HF_TOKEN and HF_HUB_OFFLINE have the meaning that huggingface_hub gives them,
which reads them when the process starts. Cost: one request for each answer.
"""

from __future__ import annotations

import errno
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import httpx2
from huggingface_hub import HfApi, constants, hf_hub_url
from huggingface_hub import errors as hub_errors
from huggingface_hub.file_download import repo_folder_name

from components.config.errors import InputError, LibrettoError, TransientError, nearest
from components.config.model_sources import HubSource

TIMEOUT_S = 5.0  # of an answer of the hub: short, so that a user without a network learns it soon


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
        folder_name = repo_folder_name(repo_id=self.source.repo, repo_type="model")
        return Path(constants.HF_HUB_CACHE) / folder_name

    @property
    def download_command(self) -> str:
        """The hub's own command that fills the cache with the files of the entry."""
        revision, files = self.source.revision or "main", " ".join(self.source.files)
        return f"'hf download {self.source.repo} --revision {revision} {files}'"

    def address(self, file: str) -> str:
        """The URL of one of its files."""
        return hf_hub_url(
            self.source.repo, file, revision=self.source.revision, endpoint=constants.ENDPOINT
        )


def read_info(entry: HubEntry, revision: str) -> tuple[str, list[str]]:
    """(commit, files) of a revision, as the hub says; raises what huggingface_hub raises."""
    info = HfApi(endpoint=constants.ENDPOINT).model_info(
        entry.source.repo, revision=revision, timeout=TIMEOUT_S
    )
    return str(info.sha), [sibling.rfilename for sibling in info.siblings or []]


def _list_files(entry: HubEntry) -> list[str]:
    """Files of the repository at the entry's commit; none where the hub does not answer."""
    with suppress(httpx2.HTTPError, OSError):
        return read_info(entry, entry.source.revision)[1]
    return []


@contextmanager
def translate_errors(entry: HubEntry, file: str) -> Iterator[None]:
    """Raises InputError or TransientError, with a hint, for what the hub or the network answers
    about ``file``. The text is written here, so no token gets into it.
    """
    try:
        yield
    except hub_errors.HfHubHTTPError as error:
        raise _answer_error(entry, file, error) from None
    except (hub_errors.OfflineModeIsEnabled, httpx2.TransportError) as error:
        raise _offline_error(entry, file, error) from None
    except OSError as error:
        if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):  # the cache of another user
            raise InputError(
                f"{entry.where}: {file}: {constants.HF_HUB_CACHE} can't be written.",
                subject=file,
                hint="Let HF_HOME name a folder of your own.",
            ) from None
        if "Consistency check failed" not in str(error):  # an error of the disk
            raise
        raise TransientError(
            f"{entry.where}: {file} is incomplete.",
            subject=file,
            hint="Run again: the download continues.",
        ) from None


def _answer_error(entry: HubEntry, file: str, error: hub_errors.HfHubHTTPError) -> LibrettoError:
    """The error for an answer of the hub."""
    where, repo, revision = entry.where, entry.source.repo, entry.source.revision
    terms = (
        f"Accept its terms at {constants.ENDPOINT}/{repo}, then set HF_TOKEN to a token of "
        "that account, or run 'hf auth login'."
    )
    if isinstance(error, hub_errors.GatedRepoError):
        return InputError(f"{where}: {repo} is gated.", subject=repo, hint=terms)
    if isinstance(error, hub_errors.RevisionNotFoundError):
        return InputError(
            f"{where}: {repo} has no commit {revision}.",
            subject=repo,
            hint=f"'python -m components.{entry.stage} pin {entry.name}' shows the current one.",
        )
    if isinstance(error, hub_errors.RemoteEntryNotFoundError):
        return InputError(
            f"{where}: {repo} has no file '{file}' at {revision}.",
            subject=file,
            hint=nearest(file, _list_files(entry)),
        )
    if isinstance(error, hub_errors.RepositoryNotFoundError):
        return InputError(
            f"{where}: the hub shows no repository {repo}: there is none, or it is private or "
            "gated.",
            subject=repo,
            hint=f"Check the name. {terms}",
        )
    status = error.response.status_code
    if status in (401, 403):
        return InputError(
            f"{where}: the hub refuses {repo} ({status}): no token, or one without the right.",
            subject=repo,
            hint=terms,
        )
    return TransientError(
        f"{where}: {constants.ENDPOINT} answers {status} for {file}.",
        subject=file,
        hint="Run again later.",
    )


def _offline_error(entry: HubEntry, file: str, error: Exception) -> LibrettoError:
    """The error where the hub is not reached."""
    is_forbidden = isinstance(error, hub_errors.OfflineModeIsEnabled)
    reason = f"the hub ({constants.ENDPOINT}) does not answer ({type(error).__name__})"
    if is_forbidden:
        reason = "HF_HUB_OFFLINE forbids requests"
    kind = InputError if is_forbidden else TransientError
    return kind(
        f"{entry.where}: {file} of {entry.source.repo} is not in the cache "
        f"{constants.HF_HUB_CACHE}, and {reason}.",
        subject=file,
        hint=f"Fill the cache on a machine with a network ({entry.download_command}) and set "
        "HF_HOME to it; or put the files into a folder below LIBRETTO_MODELS and give the entry "
        "'source: {kind: folder, folder: …}'; or set HF_ENDPOINT to a mirror.",
    )
