"""Tars from anywhere: what webdataset reads is listed, damage and tricks are named, and nothing of
a tar runs.
"""

from __future__ import annotations

import gzip
import hashlib
import io
import json
import logging
import pickle
import shutil
import tarfile
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import webdataset
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from components.config.errors import InputError
from components.corpus.source import CorpusSource, build_source
from components.corpus.sources.webdataset import WebdatasetSettings
from components.corpus.tar_listing import list_tar
from components.runtime.s3 import read_verified
from tests.bucket import Bucket
from tests.corpus.clips import clip
from tests.errors import refused

SETTINGS = {"kind": "webdataset", "root": "tars", "shards": ["all-{00..01}.tar"]}
FIELDS = WebdatasetSettings(**{**SETTINGS, "shards": []}).fields()


class Runs:
    """What writes a file when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (self.path,)


def header(name: str, size: int = 0, **fields: Any) -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    info.size = size
    for field, value in fields.items():
        setattr(info, field, value)
    return info


def tar_of(*members: tuple[Any, bytes]) -> bytes:
    """A tar of (name or header, content)."""
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w") as archive:
        for name, data in members:
            info = header(name, len(data)) if isinstance(name, str) else name
            archive.addfile(info, io.BytesIO(data) if info.isreg() else None)
    return stream.getvalue()


def sample(key: str, seed: int, **description: Any) -> list[tuple[str, bytes]]:
    return [
        (f"{key}.flac", clip(seed=seed)),
        (f"{key}.json", json.dumps(description).encode()),
    ]


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Two tars: texts in JSON and in text files, another rate, capital letters, folders."""
    folder = tmp_path / "tars"
    folder.mkdir()
    (folder / "all-00.tar").write_bytes(
        tar_of(*sample("a", 0, text="one two", speaker=7), *sample("b", 1, text="Grüße  四"))
    )
    (folder / "all-01.tar").write_bytes(
        tar_of(
            (header("./deep", type=tarfile.DIRTYPE), b""),
            ("./deep/c.WAV", clip(rate=44_100, channels=2, form="WAV")),
            ("./deep/c.TXT", b"\xef\xbb\xbfthree\r\n"),
            ("./deep/c.left.cls", b"1"),
            ("./deep/a.flac", clip(seed=3)),
            ("./deep/a.txt", b"four\nfive\n"),
        )
    )
    monkeypatch.setenv("LIBRETTO_ROOT_TARS", str(folder))
    return folder


def source(role: str = "test", **changed: Any) -> CorpusSource:
    return build_source("packed", role, {**SETTINGS, **changed})


def put(root: Path, *members: tuple[Any, bytes]) -> CorpusSource:
    """A source of one tar with these members."""
    (root / "one.tar").write_bytes(tar_of(*members))
    return source(shards=["one.tar"])


def test_every_sample_is_accepted_as_webdataset_reads_it(root: Path) -> None:
    accepted, rejected = source().list_utterances()
    assert not rejected
    rows = {row.path: row for row in accepted}
    assert {path: (row.text, row.speaker, row.sample_rate) for path, row in rows.items()} == {
        "all-00.tar/a.flac": ("one two", "7", 16_000),
        "all-00.tar/b.flac": ("Grüße  四", "", 16_000),
        "all-01.tar/./deep/c.WAV": ("three", "", 44_100),
        "all-01.tar/./deep/a.flac": ("four five", "", 16_000),
    }
    ids = [row.id for row in accepted]
    assert len(set(ids)) == 4
    assert {"b", "c"} <= set(ids), "ids are keys; a digest is added to those that two tars have"
    expected = Counter()
    for tar in ("all-00.tar", "all-01.tar"):
        for read in webdataset.WebDataset(str(root / tar), shardshuffle=False):
            expected[hashlib.sha256(read.get("flac") or read["wav"]).hexdigest()] += 1
    assert Counter(row.sha256 for row in accepted) == expected


def test_a_recording_is_read_from_its_place_in_the_tar(root: Path, work: Path) -> None:
    """Also by another process, whose work cache is empty."""
    accepted, _ = source().list_utterances()
    shutil.rmtree(work)
    other = source()
    for row in accepted:
        assert read_verified(other.locate(row.path), row.sha256) is not None
    with refused("all-00.tar/gone.flac"):
        other.locate("all-00.tar/gone.flac")


def test_the_scan_changes_with_a_letter_of_a_text(root: Path) -> None:
    first = source().scan()
    assert first == source().scan()
    assert first["files"] == [
        [name, (root / name).stat().st_size] for name in ("all-00.tar", "all-01.tar")
    ]
    assert first["members"] == {"audio": 4, "folder": 1, "json": 2, "other: cls": 1, "text": 2}
    assert (first["recordings"], first["seconds"]) == (4, pytest.approx(1.2))
    data = (root / "all-00.tar").read_bytes()
    (root / "all-00.tar").write_bytes(data.replace(b"one two", b"one too"))
    second = source().scan()
    assert second["files"] == first["files"]
    assert second["digest"] != first["digest"]


def test_members_of_other_kinds_are_counted_and_never_decoded(
    root: Path, caplog: pytest.LogCaptureFixture
) -> None:
    flag = root / "it ran"
    program = header("a.sh", 9, mode=0o755)
    origin = put(
        root,
        *sample("a", 0, text="one"),
        ("a.pyd", pickle.dumps(Runs(flag))),
        ("a.pth", pickle.dumps(Runs(flag))),
        (program, b"#!/bin/sh"),
        ("README", b"no sample"),
        ("__meta__/b.flac", clip()),
    )
    with caplog.at_level(logging.INFO):
        accepted, rejected = origin.list_utterances()
    assert [row.id for row in accepted] == ["a"]
    assert not rejected
    assert not flag.exists()
    counts = origin.scan()["members"]
    assert counts == {
        "audio": 1,
        "json": 1,
        "other: flac": 1,
        "other: none": 1,
        "other: pth": 1,
        "other: pyd": 1,
        "other: sh": 1,
    }
    assert "1 other: pyd" in caplog.text
    assert [record.args[1] for record in caplog.records if record.levelname == "WARNING"] == [1]


def test_links_and_paths_out_of_the_tar_are_rejected(root: Path) -> None:
    (root / "secret.flac").write_bytes(clip(seed=9))
    link = header("b.flac", type=tarfile.SYMTYPE, linkname="../secret.flac")
    hard = header("c.flac", type=tarfile.LNKTYPE, linkname="a.flac")
    device = header("d.flac", type=tarfile.CHRTYPE)
    origin = put(
        root,
        *sample("a", 0, text="one"),
        (link, b""),
        (hard, b""),
        (device, b""),
        (str(root / "e.flac"), clip(seed=1)),
        ("../f.flac", clip(seed=2)),
        (b"g\xff.flac".decode(errors="surrogateescape"), clip(seed=4)),
        ("b.txt", b"its audio is a link"),
    )
    accepted, rejected = origin.list_utterances()
    assert [row.id for row in accepted] == ["a"]
    assert Counter(row.reason.partition(":")[0] for row in rejected) == {
        "link": 2,
        "no plain file": 1,
        "unsafe path": 2,
        "broken name": 1,
        "no audio": 1,
    }
    assert sum(origin.scan()["members"].values()) == 9
    assert sorted(path.name for path in root.parent.rglob("*.flac")) == ["secret.flac"]


def test_samples_that_cannot_be_used_are_rejected(root: Path) -> None:
    accepted, rejected = put(
        root,
        ("image.jpg", b"no sound"),
        ("both.flac", clip(seed=1)),
        ("both.wav", clip(seed=1, form="WAV")),
        ("half.flac", clip(seed=2)[:300]),
        ("half.txt", b"half"),
        ("bare.flac", clip(seed=3)),
        ("latin.flac", clip(seed=4)),
        ("latin.txt", "grün".encode("latin-1")),
        ("list.flac", clip(seed=5)),
        ("list.json", b"[1]"),
        ("bad.flac", clip(seed=6)),
        ("bad.json", b"{"),
        ("long.flac", clip(seed=7)),
        ("long.txt", bytes(2_000_000)),
        ("number.flac", clip(seed=8)),
        ("number.json", b'{"text": [1]}'),
        ("odd.flac", clip(seed=10)),
        ("odd.json", b'{"text": "\\ud800 x"}'),
    ).list_utterances()
    assert [(row.id, row.text) for row in accepted] == [
        ("odd", "\N{REPLACEMENT CHARACTER}" * 3 + " x")
    ]
    assert {row.id: row.reason.partition(":")[0] for row in rejected} == {
        "image": "no audio",
        "both": "several audio members",
        "half": "unreadable",
        "bare": "missing transcript",
        "latin": "broken text",
        "list": "broken JSON",
        "bad": "broken JSON",
        "long": "broken text",
        "number": "broken JSON",
    }


def test_keys_with_dots_are_refused_or_read_by_the_names_of_fields(root: Path) -> None:
    """lhotse's ids have them: webdataset itself takes all three for fields of one sample."""
    keys = ("utt_sp0.9", "utt_sp1.1", "utt")
    members = [part for number, key in enumerate(keys) for part in sample(key, number, text=key)]
    origin = put(root, *members[:4])
    with refused("utt_sp0.9.flac", "one.tar", "9.flac", "dotted_keys"):
        origin.list_utterances()
    put(root, *members)
    accepted, rejected = source(shards=["one.tar"], dotted_keys=True).list_utterances()
    assert not rejected
    assert {row.id: row.text for row in accepted} == {key.replace(".", "-"): key for key in keys}
    put(root, ("x.left.flac", clip()), ("x.right.flac", clip(seed=1)), ("x.txt", b"two sides"))
    accepted, _ = source(shards=["one.tar"], audio=["left.flac"]).list_utterances()
    assert [(row.id, row.path) for row in accepted] == [("x", "one.tar/x.left.flac")]


def test_a_file_twice_and_a_sample_in_two_places_are_refused(root: Path) -> None:
    first, second = sample("a", 0, text="one"), sample("b", 1, text="two")
    for members, subject in (
        ([*first, first[0]], "a.flac"),
        ([first[0], *second, first[1]], "a"),
        ([*first, *second, *first], "a"),
        ([*first, ("a.FLAC", clip(seed=2))], "a.FLAC"),
    ):
        with refused(subject, "one.tar"):
            put(root, *members).list_utterances()


@pytest.mark.parametrize("length", [1, 100, 512, 700, 1024, -10_240, -5_000])
def test_a_tar_that_ends_early_is_refused(root: Path, length: int) -> None:
    """Between two members too, where the standard library sees no end."""
    path = root / "all-00.tar"
    data = path.read_bytes()
    content = len(data.rstrip(b"\0")) // 512 * 512
    path.write_bytes(data[: content + length if length < 0 else length])
    with refused(str(path)):
        source().list_utterances()


def test_what_is_no_plain_tar_is_refused(root: Path) -> None:
    path = root / "all-00.tar"
    data = path.read_bytes()
    for content in (b"", b"no tar\n" * 300, gzip.compress(data), data + data):
        path.write_bytes(content)
        with refused(str(path)):
            source().list_utterances()


def test_a_tar_without_members_is_a_source_without_utterances(root: Path) -> None:
    assert put(root).list_utterances() == ([], [])


@settings(
    max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(
    changes=st.lists(
        st.tuples(st.integers(0, 4 * 512 - 1), st.integers(0, 255)), min_size=1, max_size=4
    )
)
def test_damage_is_an_error_or_a_listing_that_adds_up(
    tmp_path: Path, changes: list[tuple[int, int]]
) -> None:
    """Bytes of headers and of short texts are overwritten at random."""
    data = bytearray(
        tar_of(("a.txt", b"one"), ("b.txt", b"two"), (header("ü" * 90 + ".txt", 2), b"xy"))
    )
    for place, value in changes:
        data[place] = value
    path = tmp_path / "damaged.tar"
    path.write_bytes(data)
    try:
        listing = list_tar(path, FIELDS)
    except InputError as error:
        assert str(path) in str(error)
    else:
        assert listing.members.get("text", 0) <= len(listing.samples)
        assert listing.members.get("refused", 0) == len(listing.refused)


@pytest.mark.parametrize(
    ("shards", "subject"),
    [
        (["all-{00..02}.tar"], "all-02.tar"),
        (["all-00.tar", "all-{00..01}.tar"], "all-00.tar"),
        (["all-{00..01.tar"], "all-{00..01.tar"),
        (["../{a,b}.tar"], "../{a,b}.tar"),
        (["/etc/{a,b}.tar"], "/etc/{a,b}.tar"),
        (["{000000..999999}/{000000..999999}.tar"], "{000000..999999}/{000000..999999}.tar"),
    ],
)
def test_patterns_that_name_no_tars_are_refused(
    root: Path, shards: list[str], subject: str
) -> None:
    with refused(subject):
        source(shards=shards).scan()


def test_non_speech_has_no_text(root: Path) -> None:
    for role, changed in (
        ("noise", {}),
        ("test", {"text": None, "json": None}),
        ("test", {"text": "json"}),
    ):
        with refused(None, "packed"):
            source(role, **changed)
    accepted, rejected = source("noise", text=None, json=None).list_utterances()
    assert not rejected
    assert [row.text for row in accepted] == [""] * 4


def test_speakers_and_languages_are_named_apart(root: Path) -> None:
    origin = put(root, *sample("a", 0, words="one", who="ann", lang="de"))
    names = {"text": "words", "speaker": "who", "language": "lang"}
    origin = source(shards=["one.tar"], names=names, speaker_prefix="x-", language="en")
    (row,), _ = origin.list_utterances()
    assert (row.text, row.speaker, row.language) == ("one", "x-ann", "de")


@pytest.mark.slow
def test_tars_of_a_bucket_give_the_manifest_of_a_folder(
    root: Path, bucket: Bucket, work: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bucket.fill(root, "tars")
    local = source().list_utterances(), source().scan()
    shutil.rmtree(work)
    monkeypatch.setenv("LIBRETTO_ROOT_TARS", "s3://recordings/tars")
    remote = source()
    bucket.requests.clear()
    assert (remote.list_utterances(), remote.scan()) == local
    tars = {path: count for (method, path), count in bucket.requests.items() if method == "GET"}
    assert {path: count for path, count in tars.items() if path.endswith(".tar")} == {
        "/recordings/tars/all-00.tar": 1,
        "/recordings/tars/all-01.tar": 1,
    }
    row = local[0][0][0]
    assert read_verified(remote.locate(row.path), row.sha256) is not None
    with refused(None, "s3://recordings/tars/all-02.tar"):
        source(shards=["all-{00..02}.tar"]).list_utterances()
