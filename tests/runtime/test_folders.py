"""What is in a folder: files of any kind, links of any kind, folders that can't be read."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from components.runtime.folders import DANGLING, LISTED_TWICE, NOT_REGULAR, list_folder
from components.runtime.s3 import RemotePath
from tests.closed_folders import close_folders


def test_files_are_listed_with_their_sizes_in_order(tmp_path: Path) -> None:
    for name, size in (("b", 2), ("a/deep/er/c", 3), ("a-b", 1), ("empty", 0)):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(bytes(size))
    (tmp_path / "nothing").mkdir()
    listing = list_folder(tmp_path)
    assert list(listing.sizes.items()) == [("a-b", 1), ("a/deep/er/c", 3), ("b", 2), ("empty", 0)]
    assert not listing.faults and not listing.unreadable and not listing.repeated
    assert not list_folder(tmp_path / "absent").sizes


def test_links_are_followed_and_multiply_nothing(tmp_path: Path) -> None:
    """Back to the root, to a folder beside, to itself, out of the root."""
    root, outside = tmp_path / "root", tmp_path / "outside"
    for folder in (root / "z", outside):
        folder.mkdir(parents=True)
        (folder / "file").write_bytes(b"1")
    (root / "a-back").symlink_to(root)
    (root / "a-beside").symlink_to("z")
    (root / "out").symlink_to(outside)
    (root / "file").symlink_to("z/file")
    (root / "dangling").symlink_to("nowhere")
    (root / "itself").symlink_to("itself")
    listing = list_folder(root)
    assert listing.sizes == {"file": 1, "out/file": 1, "z/file": 1}
    assert listing.faults == {"dangling": DANGLING, "itself": DANGLING}
    assert listing.repeated == {"a-back": LISTED_TWICE, "a-beside": LISTED_TWICE}


def test_what_is_no_regular_file_is_named(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.wav")
    assert list_folder(tmp_path).faults == {"pipe.wav": NOT_REGULAR}


def test_a_folder_that_cannot_be_read_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "closed").mkdir()
    (tmp_path / "open").mkdir()
    (tmp_path / "open/a.wav").write_bytes(b"1")
    close_folders(monkeypatch, "closed")
    listing = list_folder(tmp_path)
    assert listing.sizes == {"open/a.wav": 1}
    assert listing.unreadable == {"closed": "unreadable: Permission denied"}


def test_the_marker_of_a_folder_in_a_bucket_is_no_file(monkeypatch: pytest.MonkeyPatch) -> None:
    """What a console writes, as s3fs lists it."""

    class Bucket:
        def find(self, url: str, detail: bool) -> dict[str, dict[str, int]]:
            return {"bucket/noise.wav/": {"size": 0}, "bucket/noise.wav/a.wav": {"size": 5}}

    monkeypatch.setattr("components.runtime.s3._filesystem", Bucket)
    assert list_folder(RemotePath("s3://bucket")).sizes == {"noise.wav/a.wav": 5}
