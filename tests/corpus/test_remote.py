"""Recordings in a bucket: the manifest of a folder, whatever goes wrong on the way; and what can't
be mended says so.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import soundfile

from components.config.errors import TransientError
from components.corpus.source import CorpusSource, build_source
from components.runtime.s3 import RemotePath, as_path
from tests.bucket import Bucket
from tests.errors import refused

pytestmark = pytest.mark.slow
TABLE = {"kind": "table", "root": "said", "table": "said.tsv", "language": "en"}
LIBRI = {"kind": "librispeech", "root": "said", "subsets": ["dev-clean"]}
CLIPS = {"kind": "clips", "root": "said", "folders": ["dev-clean"], "max_seconds": 10}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A data root on the disk: a subset of two chapters, one recording broken and one without a
    transcript, and a table.
    """
    root, random = tmp_path / "root", np.random.default_rng(1)
    for chapter, count in (("12-34", 3), ("56-78", 2)):
        speaker, number = chapter.split("-")
        below = root / "dev-clean" / speaker / number
        below.mkdir(parents=True)
        for number in range(count):
            soundfile.write(
                below / f"{chapter}-{number:04d}.flac",
                0.1 * random.standard_normal(8_000 + 100 * number),
                16_000,
            )
        (below / f"{chapter}.trans.txt").write_text(
            "".join(f"{chapter}-{number:04d} SOME WORDS\n" for number in range(count))
        )
    broken = root / "dev-clean/56/78/56-78-0001.flac"
    broken.write_bytes(broken.read_bytes()[:400])
    soundfile.write(
        root / "dev-clean/12/34/12-34-0009.flac", 0.1 * random.standard_normal(8_000), 16_000
    )
    files = sorted(path.relative_to(root).as_posix() for path in root.rglob("*.flac"))
    (root / "said.tsv").write_text(
        "path\ttext\tspeaker\n"
        + "".join(f"{file}\tsome words\ts\n" for file in [*files, "gone.flac"])
    )
    return root


@pytest.fixture
def listed(
    folder: Path, bucket: Bucket, work: Path, monkeypatch: pytest.MonkeyPatch
) -> Callable[[dict[str, object], str], CorpusSource]:
    """The source of these settings over the disk or over the bucket, on which the same lies."""
    bucket.fill(folder, "root")
    bucket.requests.clear()
    monkeypatch.setenv("LIBRETTO_WORKERS", "1")

    def build(settings: dict[str, object], root: str) -> CorpusSource:
        monkeypatch.setenv("LIBRETTO_ROOT_SAID", root)
        shutil.rmtree(work, ignore_errors=True)
        return build_source("said", "noise" if settings["kind"] == "clips" else "train", settings)

    return build


@pytest.mark.parametrize("settings", [TABLE, LIBRI, CLIPS], ids=["table", "librispeech", "clips"])
def test_a_bucket_gives_the_manifest_of_a_folder(
    settings: dict[str, object], folder: Path, listed: Callable[..., CorpusSource]
) -> None:
    local = listed(settings, str(folder))
    scan, utterances = local.scan(), local.list_utterances()
    remote = listed(settings, "s3://recordings/root")
    assert (remote.scan(), remote.list_utterances()) == (scan, utterances)
    row = utterances[0][0]
    assert remote.locate(row.path).read_bytes() == local.locate(row.path).read_bytes()


@pytest.mark.parametrize("kind", ["500", "503", "cut", "stall"])
def test_a_transient_fault_leaves_no_trace(
    kind: str, folder: Path, listed: Callable[..., CorpusSource], bucket: Bucket
) -> None:
    utterances = listed(LIBRI, str(folder)).list_utterances()
    bucket.first(kind, 1 if kind == "stall" else 2, "0000.flac" if kind == "stall" else "")
    assert listed(LIBRI, "s3://recordings/root").list_utterances() == utterances
    assert max(bucket.requests.values()) >= 2, "it did go wrong"


@pytest.mark.parametrize("kind", ["500", "503", "cut"])
def test_a_lasting_fault_names_the_file_and_is_no_reject(
    kind: str, listed: Callable[..., CorpusSource], bucket: Bucket
) -> None:
    bucket.always(kind, "12-34-0001.flac")
    with refused(
        None, "s3://recordings/root/dev-clean/12/34/12-34-0001.flac", "4", error=TransientError
    ):
        listed(LIBRI, "s3://recordings/root").list_utterances()
    assert bucket.requests["GET", "/recordings/root/dev-clean/12/34/12-34-0001.flac"] == 4


def test_a_recording_that_goes_between_listing_and_reading_is_rejected_as_on_a_disk(
    listed: Callable[..., CorpusSource], bucket: Bucket
) -> None:
    bucket.always("gone", "12-34-0001.flac")
    accepted, rejected = listed(LIBRI, "s3://recordings/root").list_utterances()
    assert {row.id: row.reason for row in rejected}[
        "12-34-0001"
    ] == "unreadable: No such file or directory"
    assert len(accepted) + len(rejected) == 6


def test_an_expired_token_is_named_at_once(
    listed: Callable[..., CorpusSource], bucket: Bucket
) -> None:
    bucket.always("expired", "12-34-0001.flac")
    with refused("s3://recordings/root/dev-clean/12/34/12-34-0001.flac"):
        listed(LIBRI, "s3://recordings/root").list_utterances()
    assert bucket.requests["GET", "/recordings/root/dev-clean/12/34/12-34-0001.flac"] == 1


def test_a_folder_or_bucket_that_is_missing_is_named(listed: Callable[..., CorpusSource]) -> None:
    with refused(None, "s3://recordings/roof"):
        listed(LIBRI, "s3://recordings/roof").list_utterances()
    with refused("dev-claen", "'dev-clean'"):
        listed({**LIBRI, "subsets": ["dev-claen"]}, "s3://recordings/root").list_utterances()
    with refused("siad.tsv", "'said.tsv'"):
        listed({**TABLE, "table": "siad.tsv"}, "s3://recordings/root").list_utterances()


def test_a_path_is_of_a_bucket_by_its_scheme() -> None:
    assert as_path("/data/x") == Path("/data/x")
    path = as_path("s3://bucket/a/b.tsv/")
    assert isinstance(path, RemotePath)
    assert (path.name, path.suffix, str(path.parent), str(path.parent / "c/d")) == (
        "b.tsv",
        ".tsv",
        "s3://bucket/a",
        "s3://bucket/a/c/d",
    )
    assert path.relative_to("s3://bucket").as_posix() == "a/b.tsv"


def test_an_object_that_goes_in_parts_is_complete_even_if_a_part_is_refused(
    bucket: Bucket, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LIBRETTO_S3_TIMEOUT", "60")  # a part is 50 MiB
    data = np.random.default_rng(0).bytes(101 << 20)  # s3fs sends parts from 100 MiB on
    path = RemotePath("s3://recordings/large")
    bucket.first("503", 1, method="PUT")
    path.write_bytes(data)
    assert max(count for (method, _), count in bucket.requests.items() if method == "PUT") > 2, (
        "in parts"
    )
    assert path.stat().st_size == len(data)
    assert path.read_bytes() == data
