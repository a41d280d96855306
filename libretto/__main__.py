"""``libretto COMMAND …``, or ``python -m libretto COMMAND …``: the commands of this project by one
name.

In a workspace (a folder with ``dvc.yaml``) the code of that folder is used, as
``python -m components.…`` does: its packages, and its modules of this one.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

import libretto

# A workspace with source code has these. No other module of this package is imported before its
# path is set.
WORKSPACE_FILE, CODE_FOLDER = "dvc.yaml", "components"


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs one command; returns its exit code."""
    folder = Path.cwd()
    if (folder / WORKSPACE_FILE).is_file() and (folder / CODE_FOLDER).is_dir():
        sys.path.insert(0, str(folder))
        libretto.__path__.insert(0, str(folder / "libretto"))
    from libretto.commands import run_command

    return run_command(sys.argv[1:] if arguments is None else list(arguments))


if __name__ == "__main__":
    sys.exit(main())
