"""DVC's cache of a workspace: where it is, and whether its objects are what their names say.

An object is ``files/md5/<2 digits>/<30 digits>``, named by the MD5 of its bytes; the name of a
folder's listing ends in ``.dir``. DVC never compares an object that is read-only, and puts it in
the place of an output with the same MD5: a damaged one comes back, whatever a stage has written.
The cache often has the same inode as the workspace and the work cache (hard links), so one fault is
in all three. DVC runs in a process of its own. Cost: about half a second for its configuration; MD5
reads 6·10⁸ bytes a second.
"""

from __future__ import annotations

import hashlib
import json
import re
import subprocess
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path

from components.config.errors import InputError

OBJECTS = Path("files/md5")
NAME = re.compile(r"[0-9a-f]{30}(\.dir)?")
# Prints [cache folder, link types]; DVC's own command line takes three times as long to start.
DVC_CACHE = """
import json, sys
from dvc.config import Config
folder = sys.argv[1]
cache = Config(folder)["cache"]
print(json.dumps([cache.get("dir", folder + "/cache"), cache.get("type", ["reflink", "copy"])]))
"""


def read_dvc_cache() -> tuple[Path, list[str]]:
    """DVC's cache folder and its link types, the preferred one first; raises InputError where the
    current folder is no workspace of DVC, or DVC can't be asked.
    """
    folder = Path.cwd() / ".dvc"
    done = subprocess.run(
        [sys.executable, "-c", DVC_CACHE, folder], capture_output=True, text=True, check=False
    )
    if done.returncode or not folder.is_dir():
        reason = (done.stderr.strip().splitlines() or ["it is missing"])[-1]
        raise InputError(
            f"{folder / 'config'} can't be read: {reason}.",
            subject=str(folder),
            hint="Run from the root of the repository.",
        )
    cache_folder, link_types = json.loads(done.stdout)
    return Path(cache_folder), link_types


def list_objects(cache: Path) -> Iterator[Path]:
    """The objects of a cache, those of folders too; nothing else that may be there."""
    for path in sorted((cache / OBJECTS).glob("??/*")):
        if NAME.fullmatch(path.name) and path.is_file():
            yield path


def is_object_intact(path: Path) -> bool:
    """Whether the bytes of an object have the MD5 of its name."""
    return _md5(path) == path.parent.name + path.name.removesuffix(".dir")


def drop_damaged_objects(files: Iterable[Path]) -> list[Path]:
    """Removes the objects of this workspace's cache that have the name of one of ``files``, which
    are right, but other bytes; returns them. Does nothing outside a workspace of DVC.
    """
    if not Path(".dvc").is_dir():
        return []
    try:
        cache = read_dvc_cache()[0]
    except InputError:  # DVC is not installed: it has no cache in use
        return []
    dropped = []
    for file in files:
        name = _md5(file)
        path = cache / OBJECTS / name[:2] / name[2:]
        if path.is_file() and not is_object_intact(path):
            path.unlink()
            dropped.append(path)
    return dropped


def _md5(path: Path) -> str:
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, lambda: hashlib.md5(usedforsecurity=False)).hexdigest()
