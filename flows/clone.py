"""Where a flow works: a clone of the last commit while somebody edits the workspace, or the
workspace itself, which it then has alone.

A clone shares the workspace's DVC cache by links, so nothing large is copied and nothing that was
computed is computed again. What comes out returns as a DVC experiment of the workspace (``dvc exp
show``, ``dvc exp apply``) or as a branch with one commit. The clone of a flow that was killed is
removed by the next one.
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

RESULT = ["dvc.lock", "metrics", "data/sources"]  # what Git holds of a result


@dataclass(frozen=True)
class CloneLocation:
    """The folder in which a flow works, and the workspace that its result is for."""

    folder: Path
    above: Path

    def as_experiment(self) -> str:
        """Makes what came out an experiment of the workspace; returns its name, empty where all is
        as in the commit cloned.

        An experiment of DVC is a commit on the one that it started from, under a reference that
        names both. ``dvc exp save`` would refuse one of which some stages never ran.
        """
        base, name = run("git", "rev-parse", "HEAD"), f"flow-{self.folder.name}".lower()
        commit_result(f"dvc: commit experiment {name}")
        if run("git", "rev-parse", "HEAD") == base:
            return ""
        run(
            "git",
            "-C",
            str(self.above),
            "fetch",
            "--quiet",
            str(self.folder),
            f"HEAD:{ExpRefInfo(base, name)}",
        )
        return name

    def as_branch(self, message: str, name: str = "") -> tuple[str, str]:
        """Commits what came out as a branch of the workspace, in place of an earlier one of that
        name; returns branch and commit.
        """
        name = name or f"flow-{self.folder.name}".lower()
        commit = commit_result(message)
        run(
            "git",
            "-C",
            str(self.above),
            "fetch",
            "--quiet",
            str(self.folder),
            f"+HEAD:refs/heads/{name}",
        )
        return name, commit


@contextlib.contextmanager
def workspace() -> Iterator[CloneLocation]:
    """The current workspace, held against a second flow; the system frees it when its holder dies.
    Raises TransientError where another flow works in it.
    """
    folder = Path.cwd()
    place = work_root() / "workspaces" / f"{data_digest(str(folder))[:12]}.lock"
    place.parent.mkdir(parents=True, exist_ok=True)
    try:
        with FileLock(place, timeout=0):
            yield CloneLocation(folder, folder)
    except Timeout:
        raise TransientError(
            f"Another flow works in {folder}.",
            subject=str(folder),
            hint="Wait for its end, or leave out --here: then each works in a clone.",
        ) from None


@contextlib.contextmanager
def clone(say: Callable[[str], None]) -> Iterator[CloneLocation]:
    """Changes into a clone of the current workspace, which goes in any case: what is to stay is
    brought back before.

    ``say`` is told what is cloned. Raises InputError outside a Git repository.
    """
    above = Path.cwd()
    revision = run(
        "git",
        "rev-parse",
        "--short",
        "HEAD",
        hint="A clone needs a commit to start from; --here needs none.",
    )
    if run("git", "status", "--porcelain", "--untracked-files=no"):
        say(f"the workspace has changes that are not committed: this runs {revision} without them")
    parent = work_root() / "clones"
    parent.mkdir(parents=True, exist_ok=True)
    _sweep(parent)
    folder = Path(tempfile.mkdtemp(prefix=f"{revision}-", dir=parent))
    with FileLock(f"{folder}.lock"):
        try:
            run("git", "clone", "--quiet", str(above), str(folder))
            with contextlib.chdir(folder):
                _take_along(above)
                say(f"runs {revision} in {folder}")
                yield CloneLocation(folder, above)
        finally:
            shutil.rmtree(folder, ignore_errors=True)
    Path(f"{folder}.lock").unlink(missing_ok=True)


def _sweep(parent: Path) -> None:
    """Removes the clones that nobody holds: of flows that were killed."""
    for folder in (path for path in parent.iterdir() if path.is_dir()):
        place = Path(f"{folder}.lock")
        if not place.exists():
            continue  # one that is being made
        with contextlib.suppress(Timeout), FileLock(place, timeout=0):
            shutil.rmtree(folder, ignore_errors=True)
            place.unlink(missing_ok=True)


def _take_along(above: Path) -> None:
    """What a clone needs of the workspace and Git does not hold: DVC's cache with the results that
    stand, and how its remotes are reached.
    """
    local = above / ".dvc/config.local"
    if local.is_file():
        shutil.copy(local, ".dvc/config.local")  # with its mode: it may hold keys
    with Repo(str(above)) as repo:
        cache = repo.cache.local_cache_dir
    with Repo() as repo, repo.config.edit("local") as held:
        held["cache"]["dir"] = cache
    with Repo() as repo:
        repo.checkout(allow_missing=True)  # what the cache lacks is computed
    name, mail = (
        run("git", "-C", str(above), "config", "--default", "libretto", key)
        for key in ("user.name", "user.email")
    )
    run("git", "config", "user.name", name)
    run("git", "config", "user.email", mail)


def commit_result(message: str) -> str:
    """Commits ``dvc.lock``, metrics and scans as they are, and nothing else; returns the commit,
    the last one where they are as in it.
    """
    held = [each for each in RESULT if Path(each).exists()]
    run("git", "add", *held)
    if run("git", "status", "--porcelain", "--untracked-files=no", "--", *held):
        run("git", "commit", "--quiet", "-m", message, "--", *held)
    return run("git", "rev-parse", "--short", "HEAD")
