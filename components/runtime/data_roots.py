"""Data roots: the folders of the recordings that catalogue entries name by ``root``.

In: the name of a root, and the runtime setting ``LIBRETTO_ROOT_<NAME>``. Out: a folder of this
machine or of a bucket. Outputs of stages have paths below the root, never the root itself.
"""

from __future__ import annotations

import contextlib
from pathlib import Path

from components.config.errors import InputError
from components.runtime.s3 import SCHEME, RemotePath, as_path
from components.runtime.settings import has_bucket, root_setting


def data_root(name: str) -> Path | RemotePath:
    """Folder of the recordings of the root ``name``; raises InputError where it is not set or
    missing, or an address without a bucket.
    """
    variable, value = _root_value(name)
    root = as_path(value)
    if not isinstance(root, RemotePath):
        return local_root(name)
    if not root.is_dir():
        raise InputError(
            f"{variable}={value}: there is no such folder in the bucket.",
            subject=name,
            hint="Set it to the folder that contains the data.",
        )
    return root


def local_root(name: str, create: bool = False) -> Path:
    """The folder of the root ``name`` on this machine; ``create`` creates it where it is missing.
    Raises InputError where it is not set, not an absolute path, or no folder.
    """
    variable, value = _root_value(name)
    root = Path(value).expanduser()
    if create and root.is_absolute():
        with contextlib.suppress(OSError):  # the next check reports the failure
            root.mkdir(parents=True, exist_ok=True)
    if not root.is_absolute() or not root.is_dir():
        raise InputError(
            f"{variable}={value} is not an absolute path of a folder.",
            subject=name,
            hint="Set it to the folder that contains the data.",
        )
    return root.resolve()


def _root_value(name: str) -> tuple[str, str]:
    variable, value = root_setting(name)
    if not value:
        raise InputError(
            f"The data root '{name}' is not set.",
            subject=name,
            hint=f"Set {variable} to the folder that contains the data.",
        )
    if value.startswith(SCHEME) and not has_bucket(value):
        raise InputError(
            f"{variable}={value} names no bucket.",
            subject=name,
            hint="Set it to s3://bucket/prefix, or to a folder.",
        )
    return variable, value
