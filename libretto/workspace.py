"""What a command finds in the current folder: a workspace, and a checkout of the source code.

A workspace is a folder with ``dvc.yaml``. A checkout also has the packages ``flows`` and ``bench``,
which an installed package does not have.
"""

from __future__ import annotations

import shutil
import subprocess
from importlib.util import find_spec
from pathlib import Path

WORKSPACE_FILE = "dvc.yaml"


def is_workspace() -> bool:
    """Whether the current folder is a workspace."""
    return Path(WORKSPACE_FILE).is_file()


def check_workspace(command: str) -> None:
    """Raises InputError if the current folder is no workspace."""
    from components.config.errors import InputError

    if not is_workspace():
        raise InputError(
            f"'libretto {command}' needs a workspace, and {Path.cwd()} has no {WORKSPACE_FILE}.",
            subject=WORKSPACE_FILE,
            hint="Change into a clone of the Libretto repository and run the command there.",
        )


def check_checkout(command: str) -> None:
    """Raises InputError if the package ``flows`` cannot be imported."""
    from components.config.errors import InputError

    if find_spec("flows") is None:
        raise InputError(
            f"'libretto {command}' needs the source code: the installed package has no flows.",
            subject="flows",
            hint="Clone the Libretto repository, run 'make setup' and use the command there.",
        )


def check_repository() -> None:
    """Raises InputError if Git is missing or the current folder is in no Git repository: DVC would
    stop with less of a reason, and only after the plan.
    """
    from components.config.errors import InputError

    if shutil.which("git") is None:
        raise InputError(
            "Git is not installed, and DVC needs it.", subject="git", hint="Install git."
        )
    done = subprocess.run(
        ["git", "rev-parse", "--is-inside-work-tree"], capture_output=True, check=False
    )
    if done.returncode:
        raise InputError(
            f"{Path.cwd()} is no Git repository (a downloaded archive is none), and DVC needs one.",
            subject=str(Path.cwd()),
            hint="Clone the repository, or run: git init && git add --all && "
            "git commit --message start",
        )
