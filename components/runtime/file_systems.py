"""Errors of file systems as errors that a user can act on, whichever library reports them.

In: what a stage or a command raises. Out: InputError with the file or the file system, the free
space where that is what lacks, and how to go on. Every stage and every command runs within
``translate_os_errors``. Other exceptions stay as they are: they are faults of the program. Cost:
nothing until something fails.
"""

from __future__ import annotations

import contextlib
import errno
import os
import re
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

from components.config.errors import InputError, LibrettoError
from components.runtime.settings import work_root

FULL_BYTES = 2**20  # a file system with less free is full
AGAIN = "then run again: finished work stays."
# Error → what is wrong, and the way out.
MEANINGS = {
    errno.ENOSPC: (
        "is full",
        "Free some space ('python -m components.clean' drops old units of the work cache), "
        f"{AGAIN}",
    ),
    errno.EDQUOT: ("has no more space for this user (quota)", f"Free some of yours, {AGAIN}"),
    errno.EROFS: (
        "is read-only",
        f"Mount it writable, or set LIBRETTO_WORK to another folder if it is that, {AGAIN}",
    ),
    errno.EACCES: ("can't be accessed: permission denied", f"Give this user access to it, {AGAIN}"),
    errno.EPERM: ("can't be changed: not permitted", f"Give this user access to it, {AGAIN}"),
    errno.EIO: (
        "gives errors of input and output",
        "The disk, or the network to it, is damaged: the system's log ('dmesg') says more. Take "
        f"another one, {AGAIN}",
    ),
    errno.EFBIG: (
        "can't hold a file of this size",
        f"Raise the limit ('ulimit -f'), or take another file system, {AGAIN}",
    ),
    errno.EMFILE: ("is one file too many", f"Raise the limit of open files ('ulimit -n'), {AGAIN}"),
    errno.ENFILE: ("is one file too many for this machine", f"Close some programs, {AGAIN}"),
    errno.ENAMETOOLONG: ("has a name that is too long here", f"Rename it, {AGAIN}"),
    errno.ENOTDIR: ("lies below a file that is no folder", f"Move that file away, {AGAIN}"),
}
SPACE = (errno.ENOSPC, errno.EDQUOT)
# Libraries in Rust and C++ give these as text alone.
REPORTED_AS_TEXT = (*SPACE, errno.EROFS, errno.EIO)
# What libsndfile, torch and NumPy say where a write was cut short, without the reason.
CUT_WRITE = re.compile(
    r"System error|unexpected pos \d+|PytorchStreamWriter|\d+ requested and \d+ written"
)


@contextlib.contextmanager
def translate_os_errors() -> Iterator[None]:
    """Raises InputError for an error of a file system within this block."""
    try:
        yield
    except (LibrettoError, BrokenPipeError):
        raise
    except Exception as error:
        translated = translate(error)
        if translated is None:
            raise
        raise translated from error


def translate(error: Exception) -> InputError | None:
    """The error for a user; None where no file system is the cause."""
    number = _error_number(error)
    if number not in MEANINGS:
        return None
    meaning, hint = MEANINGS[number]
    subject = _subject_of(error, number)
    space = ""
    if number in SPACE:
        space = f": {_free_bytes(subject):,} bytes are free"
        subject = _mount_point(subject)
    return InputError(f"{subject} {meaning}{space}.", subject=str(subject), hint=hint)


def _error_number(error: Exception) -> int | None:
    if isinstance(error, OSError) and error.errno is not None:
        return error.errno
    text = str(error)
    code = re.search(r"\(os error (\d+)\)", text)
    if code:
        return int(code[1])
    number = next((number for number in REPORTED_AS_TEXT if os.strerror(number) in text), None)
    if number is None and CUT_WRITE.search(text) and _free_bytes(_fullest()) < FULL_BYTES:
        return errno.ENOSPC
    return number


def _subject_of(error: Exception, number: int) -> Path:
    """The file of an error; where it names none, the folder on the fullest of the file systems that
    a run writes to.
    """
    name = getattr(error, "filename2", None) or getattr(error, "filename", None)
    quoted = re.search(r"""["'](/[^"']+)["']""", str(error))
    if isinstance(name, str | bytes | os.PathLike):
        return Path(os.fsdecode(name)).absolute()
    if quoted:
        return Path(quoted[1])
    return _fullest() if number in SPACE else Path.cwd()


def _fullest() -> Path:
    folders = [Path.cwd(), Path(tempfile.gettempdir())]
    with contextlib.suppress(LibrettoError):  # a wrong setting: it is no cause of this
        folders.append(work_root())
    return min(folders, key=_free_bytes)


def _existing(path: Path) -> Path:
    return next(folder for folder in (path, *path.parents) if os.path.lexists(folder))


def _free_bytes(path: Path) -> int:
    try:
        return shutil.disk_usage(_existing(path)).free
    except OSError:
        return 0


def _mount_point(path: Path) -> Path:
    """The folder at which the file system of a path begins."""
    folder = _existing(path)
    return next(parent for parent in (folder, *folder.parents) if os.path.ismount(parent))
