"""A clone of the last commit in which a flow works while somebody edits the workspace.

It shares the workspace's DVC cache by links, so nothing large is copied and nothing that was computed is computed again. What comes
out returns as a DVC experiment of the workspace (``dvc exp show``, ``dvc exp apply``).
"""

from __future__ import annotations

import contextlib
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

from components.config.errors import InputError
from components.config.settings import work_root

DVC = (sys.executable, "-m", "dvc")


@contextlib.contextmanager
def clone(say: Callable[[str], None]) -> Iterator[Path]:
    """Changes into a clone of the current workspace; on success brings the result back and removes the clone.

    ``say`` is told what is cloned and what the experiment is called. Raises InputError outside a Git repository.
    """
    workspace = Path.cwd()
    commit = _output("git", "rev-parse", "--short", "HEAD")
    cache = _output(*DVC, "cache", "dir")
    if _output("git", "status", "--porcelain", "--untracked-files=no"):
        say(f"the workspace has changes that are not committed: this runs {commit} without them")
    parent = work_root() / "clones"
    parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f"{commit}-", dir=parent) as folder:
        _output("git", "clone", "--quiet", str(workspace), folder)
        with contextlib.chdir(folder):
            _output(*DVC, "cache", "dir", "--local", cache)
            say(f"runs {commit} in {folder}")
            yield Path(folder)
            name = f"flow-{Path(folder).name}".lower()
            _output("git", "add", "--all")  # else metrics that are new to Git stay behind
            _output(*DVC, "exp", "save", "--name", name)
            reference = _output("git", "for-each-ref", "--format=%(refname)", f"refs/exps/*/*/{name}")
        _output("git", "fetch", "--quiet", folder, f"{reference}:{reference}")
    say(f"the result is the DVC experiment '{name}': dvc exp apply {name}")


def _output(*command: str) -> str:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise InputError(f"'{' '.join(command)}' failed: {done.stderr.strip()}", way_out="A clone needs a commit to start from.")
    return done.stdout.strip()
