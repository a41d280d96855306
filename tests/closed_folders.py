"""Folders that can't be read, as for another user: root may read anything."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest


def close_folders(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    """No folder of this name can be listed."""
    scandir = os.scandir

    def refuse(path: str) -> Iterator[os.DirEntry[str]]:
        if os.path.basename(path) == name:
            raise PermissionError(13, "Permission denied", path)
        return scandir(path)

    monkeypatch.setattr(os, "scandir", refuse)
