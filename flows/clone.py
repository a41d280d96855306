"""Where a flow works: in a clone of the last commit while somebody edits the workspace, or in the
workspace itself, under a lock.

A clone shares the workspace's DVC cache by links, so nothing large is copied and nothing is
computed twice. The result returns as a DVC experiment of the workspace (``dvc exp show``, ``dvc exp
apply``) or as a branch with one commit. The clone of a flow that was killed is removed by the next
flow.
"""

from __future__ import annotations

import contextlib
import shutil
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from dvc.repo import Repo
from dvc.repo.experiments.refs import ExpRefInfo
from filelock import FileLock, Timeout

from components.config.errors import TransientError
from components.runtime.hashing import data_digest
from components.runtime.settings import work_root
from flows.command import run
from flows.untracked import describe_untracked

RESULT = ["dvc.lock", "metrics", "data/sources"]  # what Git tracks of a result


@dataclass(frozen=True)
class CloneLocation:
    """The folder in which a flow works, and the workspace that gets its result."""

    folder: Path
    workspace: Path

    def save_experiment(self) -> str:
        """Saves the result as an experiment of the workspace; returns its name, empty if all is as
        in the commit that was cloned.

        An experiment of DVC is a commit on the one that it started from, under a reference that
        names both. ``dvc exp save`` would refuse one of which some stages never ran.
        """
        base, name = run("git", "rev-parse", "HEAD"), self._name
        commit_result(f"dvc: commit experiment {name}")
        if run("git", "rev-parse", "HEAD") == base:
            return ""
        self._fetch(f"HEAD:{ExpRefInfo(base, name)}")
        return name

    def save_branch(self, message: str, name: str = "") -> tuple[str, str]:
        """Commits the result as a branch of the workspace, in place of an earlier one of that name;
        returns branch and commit.
        """
        name = name or self._name
        commit = commit_result(message)
        self._fetch(f"+HEAD:refs/heads/{name}")
        return name, commit

    @property
    def _name(self) -> str:
        """Of an experiment or a branch."""
        return f"flow-{self.folder.name}".lower()

    def _fetch(self, reference: str) -> None:
        """Fetches a reference of the clone into the workspace."""
        run("git", "-C", str(self.workspace), "fetch", "--quiet", str(self.folder), reference)


@contextlib.contextmanager
def lock_workspace() -> Iterator[CloneLocation]:
    """The current workspace, locked against a second flow; the system releases the lock when this
    process ends. Raises TransientError if another flow works in it.
    """
    folder = Path.cwd()
    path = work_root() / "workspaces" / f"{data_digest(str(folder))[:12]}.lock"
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        with FileLock(path, timeout=0):
            yield CloneLocation(folder, folder)
    except Timeout:
        raise TransientError(
            f"Another flow works in {folder}.",
            subject=str(folder),
            hint="Wait until it has ended, or leave out --here: each flow then works in a clone.",
        ) from None


@contextlib.contextmanager
def clone_workspace(log: Callable[[str], None]) -> Iterator[CloneLocation]:
    """Changes into a clone of the current workspace, which is removed in the end: save the result
    before.

    ``log`` gets a line on what is cloned, and on what is not. Raises InputError outside a Git
    repository.
    """
    workspace = Path.cwd()
    revision = run(
        "git",
        "rev-parse",
        "--short",
        "HEAD",
        hint="A clone needs a commit to start from; --here needs none.",
    )
    if run("git", "status", "--porcelain", "--untracked-files=no"):
        log(f"the workspace has changes that are not committed: this runs {revision} without them")
    if untracked := describe_untracked():
        log(untracked)
    parent = work_root() / "clones"
    parent.mkdir(parents=True, exist_ok=True)
    _remove_abandoned(parent)
    folder = Path(tempfile.mkdtemp(prefix=f"{revision}-", dir=parent))
    with FileLock(f"{folder}.lock"):
        try:
            run("git", "clone", "--quiet", str(workspace), str(folder))
            with contextlib.chdir(folder):
                _configure(workspace)
                log(f"runs {revision} in {folder}")
                yield CloneLocation(folder, workspace)
        finally:
            shutil.rmtree(folder, ignore_errors=True)
    Path(f"{folder}.lock").unlink(missing_ok=True)


def _remove_abandoned(parent: Path) -> None:
    """Removes the clones that no process has locked: of flows that were killed."""
    for folder in (path for path in parent.iterdir() if path.is_dir()):
        lock = Path(f"{folder}.lock")
        if not lock.exists():
            continue  # it is being created
        with contextlib.suppress(Timeout), FileLock(lock, timeout=0):
            shutil.rmtree(folder, ignore_errors=True)
            lock.unlink(missing_ok=True)


def _configure(workspace: Path) -> None:
    """Gives the current clone what Git does not track: DVC's cache with the results so far, access
    to its remotes, and the author of commits.
    """
    local = workspace / ".dvc/config.local"
    if local.is_file():
        shutil.copy(local, ".dvc/config.local")  # with its file mode: it may contain keys
    with Repo(str(workspace)) as repo:
        cache = repo.cache.local_cache_dir
    with Repo() as repo, repo.config.edit("local") as config:
        config["cache"]["dir"] = cache
    with Repo() as repo:
        repo.checkout(allow_missing=True)  # what the cache lacks is computed
    for key in ("user.name", "user.email"):
        value = run("git", "-C", str(workspace), "config", "--default", "libretto", key)
        run("git", "config", key, value)


def commit_result(message: str) -> str:
    """Commits ``dvc.lock``, metrics and scans as they are, and nothing else; returns the commit:
    the last one if they are unchanged.
    """
    paths = [path for path in RESULT if Path(path).exists()]
    run("git", "add", *paths)
    if run("git", "status", "--porcelain", "--untracked-files=no", "--", *paths):
        run("git", "commit", "--quiet", "-m", message, "--", *paths)
    return run("git", "rev-parse", "--short", "HEAD")
