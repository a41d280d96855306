"""Damaged tars and indexes: no flipped bit is read without a word, and no index leads out of its
folder.
"""

from __future__ import annotations

import io
import logging
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest

from components.runtime.artifact import recorded_digests, write_record
from components.shards.index import INDEX, IndexEntry, read_index, write_index
from components.shards.prefetch import tar_prefetcher
from components.shards.reader import (
    IndexedUtterance,
    list_utterances,
    prefetch,
    read_audio,
    read_description,
    read_frames,
    read_payload,
)
from components.shards.store import stored_tar
from components.shards.writer import TarMember, write_tar
from tests.bucket import Bucket
from tests.corpus.clips import clip
from tests.errors import refused


def build_role(folder: Path, payload: str) -> list[IndexedUtterance]:
    """A role of one source with one tar of three utterances: sound, or frames of an encoder."""
    (folder / "set").mkdir(parents=True)
    random = np.random.default_rng(3)
    members = []
    for number in range(3):
        num_frames = 0
        data = clip(seed=number, seconds=0.1)
        if payload == "npy":
            num_frames = 5 + number
            stream = io.BytesIO()
            np.save(stream, random.standard_normal((num_frames, 4)).astype(np.float16))
            data = stream.getvalue()
        members.append(TarMember(f"u{number}", data, 1600, num_frames, "a b", "anna", "en"))
    write_index(folder / "set" / INDEX, write_tar(folder / "set/set-000000.tar", members, payload))
    write_record(folder, "shards", parameters=None, inputs={})
    return list_utterances(folder)


def flip(file: Path, byte: int, bit: int) -> None:
    data = bytearray(file.read_bytes())
    data[byte] ^= 1 << bit
    file.write_bytes(data)


@pytest.mark.parametrize(("payload", "read"), [("flac", read_audio), ("npy", read_frames)])
def test_each_flipped_bit_of_a_member_is_noticed(payload: str, read: Any, tmp_path: Path) -> None:
    item = build_role(tmp_path, payload)[1]
    random = np.random.default_rng(1)
    read(item)
    assert read_description(item)["language"] == "en"
    for offset, size, reader in (
        (item.entry.offset, item.entry.size, read),
        (item.entry.json_offset, item.entry.json_size, read_description),
    ):
        for byte, bit in zip(random.integers(0, size, 60), random.integers(0, 8, 60)):
            flip(item.tar, offset + int(byte), int(bit))
            with refused("u1", str(item.tar), "clean --verify"):
                reader(item)
            flip(item.tar, offset + int(byte), int(bit))
    read(item)


def rewrite(index: Path, **changed: Any) -> None:
    """Writes the index anew with other values in its second row."""
    entries = read_index(index)
    write_index(index, [entries[0], replace(entries[1], **changed), *entries[2:]])


@pytest.mark.parametrize(
    "changed",
    [
        *({"shard": name} for name in ("../set/set-000000.tar", "/etc/passwd", "..", "", "a\\b")),
        {"shard": "set\0.tar"},
        {"offset": -1},
        {"size": -1},
        {"json_offset": -512},
        {"json_size": (1 << 63) - 1},
        {"samples": -1},
        {"frames": -2},
    ],
    ids=str,
)
def test_an_index_that_leads_elsewhere_is_refused(changed: dict, tmp_path: Path) -> None:
    build_role(tmp_path, "flac")
    rewrite(tmp_path / "set" / INDEX, **changed)
    with refused(str(tmp_path / "set" / INDEX), "u1", "clean --verify"):
        list_utterances(tmp_path)


@pytest.mark.parametrize("changed", [{"offset": 1 << 60}, {"size": 1 << 60}, {"size": 1_000_000}])
def test_a_range_beyond_the_tar_is_refused_without_memory_for_it(
    changed: dict, tmp_path: Path
) -> None:
    build_role(tmp_path, "flac")
    rewrite(tmp_path / "set" / INDEX, **changed)
    with refused("u1", "set-000000.tar", INDEX):
        read_payload(list_utterances(tmp_path)[1])


def test_an_index_of_the_first_format_is_read_and_said_to_have_no_checksums(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    items = build_role(tmp_path, "flac")
    index = tmp_path / "set" / INDEX
    table = pq.read_table(index).drop_columns(["checksum", "json_checksum"])
    pq.write_table(table.replace_schema_metadata(), index, compression="zstd")
    with caplog.at_level(logging.INFO, "components"):
        old = list_utterances(tmp_path)
        list_utterances(tmp_path)
    assert [str(index) in line for line in caplog.messages] == [True]
    assert [read_payload(item) for item in old] == [read_payload(item) for item in items]
    flip(items[0].tar, items[0].entry.json_offset, 0)  # the bracket of its JSON
    with refused("u0", str(items[0].tar)):
        read_description(old[0])


def test_an_index_of_a_later_format_is_refused(tmp_path: Path) -> None:
    build_role(tmp_path, "flac")
    index = tmp_path / "set" / INDEX
    table = pq.read_table(index)
    pq.write_table(table.replace_schema_metadata({"format": "3"}), index)
    with refused(str(index), "3"):
        list_utterances(tmp_path)


def array(**header: Any) -> bytes:
    text = str({"descr": "<f2", "fortran_order": False, "shape": (5, 4), **header}).encode()
    return b"\x93NUMPY\x01\x00" + len(text).to_bytes(2, "little") + text + bytes(40)


def saved(values: np.ndarray) -> bytes:
    stream = io.BytesIO()
    np.save(stream, values, allow_pickle=True)
    return stream.getvalue()


def zipped() -> bytes:
    stream = io.BytesIO()
    np.savez(stream, np.zeros((5, 4), np.float16))
    return stream.getvalue()


@pytest.mark.parametrize(
    "data",
    [
        saved(np.zeros((5, 4), np.int16)),
        saved(np.zeros((5, 4), ">f2")),
        saved(np.zeros(5, np.float16)),
        saved(np.zeros((5, 4, 2), np.float16)),
        saved(np.array([["x"] * 4] * 5, object)),
        array(shape=(5, 1 << 40)),
        array(shape=(5, -4)),
        array(descr="|O"),
        array(descr="((("),
        zipped(),
        b"",
        b"\x93NUMPY\x01\x00\xff\xff{",
    ],
    ids=range(12),
)
def test_what_is_no_array_of_frames_is_refused(data: bytes, tmp_path: Path) -> None:
    """Also where the checksum is right: whoever writes an index writes the checksum too."""
    members = [TarMember("u", data, 1600, 5, "", "", "")]
    entry = write_tar(tmp_path / "a.tar", members, "npy")[0]
    with refused("u", "a.tar"):
        read_frames(IndexedUtterance(entry, "set", tmp_path))
    good = write_tar(tmp_path / "a.tar", [replace(members[0], payload=array())], "npy")[0]
    assert read_frames(IndexedUtterance(good, "set", tmp_path)).shape == (5, 4)


def test_what_is_no_description_is_refused(tmp_path: Path) -> None:
    for data in (b"[]", b"{}", b'{"id": 1}', b"\xff", b"[" * 100_000):
        (tmp_path / "a.tar").write_bytes(data)
        entry = IndexEntry("u", "a.tar", 0, 0, 0, len(data), 0, 0, 0, "", "")
        with refused("u", "a.tar"):
            read_description(IndexedUtterance(entry, "set", tmp_path))


@pytest.mark.slow
def test_a_damaged_tar_of_a_bucket_is_noticed(
    bucket: Bucket, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """By a request for a range, and as one object; a response that was damaged on its way alone is
    requested again.
    """
    monkeypatch.setenv("LIBRETTO_STORE", "s3://recordings/tars")
    item = build_role(tmp_path / "role", "flac")[1]
    write_record(tmp_path / "role", "shards", parameters=None, inputs={}, remote=True)
    digest = recorded_digests(tmp_path / "role")["set/set-000000.tar"]
    data = item.tar.read_bytes()
    item.tar.unlink()
    stored_tar(digest).write_bytes(data)
    tar_prefetcher.cache_clear()
    assert read_payload(item) == data[item.entry.offset :][: item.entry.size]
    bucket.first("wrong", 1, ".tar")
    assert read_payload(item) == data[item.entry.offset :][: item.entry.size]
    damaged = bytearray(data)
    damaged[item.entry.offset + 9] ^= 4
    stored_tar(digest).write_bytes(bytes(damaged))
    with refused("u1", str(stored_tar(digest)), "repro -f"):
        read_payload(item)
    prefetch([item])
    with refused(digest, str(stored_tar(digest))):
        read_payload(item)
    tar_prefetcher.cache_clear()
