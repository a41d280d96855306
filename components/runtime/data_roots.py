"""Data roots: where the recordings lie that catalogue entries name by ``root``; a runtime setting
each, and outputs hold paths below it.
"""

from __future__ import annotations

import contextlib
from pathlib import Path

from components.config.errors import InputError
from components.runtime.s3 import RemotePath, as_path
from components.runtime.settings import root_setting


def data_root(name: str) -> Path | RemotePath:
    """Folder of the recordings of the root ``name``; raises InputError where it is not set or
    missing.
    """
    variable, value = _root_value(name)
    root = as_path(value)
    if not isinstance(root, RemotePath):
        return local_root(name)
    if not root.is_dir():
        raise InputError(
            f"{variable}={value}: there is no such folder in the bucket.",
            subject=name,
            hint="Set it to one that holds the data.",
        )
    return root


def local_root(name: str, create: bool = False) -> Path:
    """The same where it has to be a folder of this machine, made where ``make`` says so."""
    variable, value = _root_value(name)
    root = Path(value).expanduser()
    if create and root.is_absolute():
        with contextlib.suppress(OSError):  # what stands in the way shows in the next line
            root.mkdir(parents=True, exist_ok=True)
    if not root.is_absolute() or not root.is_dir():
        raise InputError(
            f"{variable}={value} is not an absolute path of a folder.",
            subject=name,
            hint="Set it to the folder that holds the data.",
        )
    return root.resolve()


def _root_value(name: str) -> tuple[str, str]:
    variable, value = root_setting(name)
    if not value:
        raise InputError(
            f"The data root '{name}' is not set.",
            subject=name,
            hint=f"Set {variable} to the folder that holds it.",
        )
    return variable, value
