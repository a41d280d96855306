"""Manifest → tars and index: the same bytes on every run, random access, and errors for damage."""

from __future__ import annotations

import hashlib
import io
import json
import os
import shutil
import tarfile
import tempfile
import time
from dataclasses import fields, replace
from itertools import pairwise
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import soundfile
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from components.audio.sound import read_waveform
from components.config.catalogue import ROLES
from components.config.errors import InputError
from components.config.params import Shards
from components.corpus.build import work as build_corpus
from components.corpus.manifest import MANIFEST, read_manifest, read_rejects, write_rows
from components.corpus.scan import write_scans
from components.corpus.source import build_source
from components.runtime.artifact import read_record, write_record
from components.runtime.hashing import folder_digests
from components.runtime.stage import Stage
from components.shards.build import split_into_shards
from components.shards.build import work as run
from components.shards.index import INDEX, IndexEntry, read_index, write_index
from components.shards.prefetch import STREAMS, TarPrefetcher, tar_prefetcher
from components.shards.reader import (
    IndexedUtterance,
    list_sources,
    list_utterances,
    prefetch,
    read_audio,
    read_description,
    read_payload,
)
from components.shards.store import stored_tar
from components.shards.writer import TarMember, describe, write_tar
from components.text.utterance import Utterance
from tests.bucket import KEY, SECRET, Bucket
from tests.corpus.clips import clip, put
from tests.errors import refused

CLIPS = {  # file → (rate, channels, format, text)
    "a.flac": (16_000, 1, "FLAC", "goes in as it is"),
    "b.wav": (44_100, 2, "WAV", "Grüße, 四"),
    "c.flac": (48_000, 1, "FLAC", "is resampled"),
    "d.flac": (16_000, 2, "FLAC", "is averaged"),
    "e.wav": (16_000, 1, "WAV", "changes its format"),
    "f.flac": (16_000, 1, "FLAC", "goes in too"),
    "g.ogg": (22_050, 1, "OGG", "is decoded"),
}
TABLE = {"kind": "table", "root": "clips", "table": "list.tsv", "columns": {"language": "lang"}}
OUT = Path("data/shards/test")


def foreign() -> bytes:
    """A FLAC that this project does not write: 24 bits and a title."""
    stream = io.BytesIO()
    with soundfile.SoundFile(stream, "w", 16_000, 1, "PCM_24", format="FLAC") as file:
        file.title = "as it came"
        file.write(np.random.default_rng(5).uniform(-0.1, 0.1, 5_000))
    return stream.getvalue()


@pytest.fixture(autouse=True)
def house(tmp_path: Path, work: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A workspace with the manifest of a corpus of real files, whose role ``noise`` has
    no sources.
    """
    root = tmp_path / "recordings"
    lines = ["path\ttext\tspeaker\tlang"]
    for number, (name, (rate, channels, form, text)) in enumerate(CLIPS.items()):
        put(
            root / name,
            clip(rate=rate, channels=channels, form=form, seed=number, seconds=0.2 + 0.03 * number),
        )
        lines.append(f"{name}\t{text}\tspeaker-{number % 2}\ten")
    put(root / "f.flac", foreign())
    (root / "list.tsv").write_text("\n".join(lines) + "\n", encoding="utf-8")
    for name, value in {"LIBRETTO_ROOT_CLIPS": str(root), "LIBRETTO_WORKERS": "1"}.items():
        monkeypatch.setenv(name, value)
    folder = tmp_path / "house"
    (folder / "catalogue").mkdir(parents=True)
    monkeypatch.chdir(folder)
    entry = {role: {"clips": TABLE} if role == "test" else {} for role in ROLES}
    Path("catalogue/corpus.yaml").write_text(yaml.safe_dump({"small": entry}))
    utterances, rejected = build_source("clips", "test", TABLE).list_utterances()
    assert not rejected
    for role, rows in (("test", utterances), ("noise", None)):
        manifest = Path("data/corpus") / role
        manifest.mkdir(parents=True)
        if rows:
            (manifest / "clips").mkdir()
            write_rows(manifest / "clips" / MANIFEST, Utterance, rows)
        write_record(manifest, "corpus", parameters={}, inputs={})
    return folder


def stage(
    role: str = "test", utterances: int = 3, seconds: float = 60.0, remote: bool = False
) -> Stage:
    params = SimpleNamespace(corpus="small", shards=Shards(utterances, seconds, remote))
    return Stage("shards", params, role)  # type: ignore[arg-type]


def test_the_record_names_the_sources_that_are_rooms() -> None:
    """A record without rooms does not have the key."""
    kind = {"kind": "clips", "root": "clips", "folders": ["."]}
    listed = yaml.safe_load(Path("catalogue/corpus.yaml").read_text())
    listed["small"]["noise"] = {
        "hum": {**kind, "only": "b.wav"},
        "hall": {**kind, "only": "e.wav", "rooms": True},
    }
    Path("catalogue/corpus.yaml").write_text(yaml.safe_dump(listed))
    for name, entry in listed["small"]["noise"].items():
        (Path("data/corpus/noise") / name).mkdir()
        write_rows(
            Path("data/corpus/noise") / name / MANIFEST,
            Utterance,
            build_source(name, "noise", entry).list_utterances()[0],
        )
    for role in ("noise", "test"):
        run(stage(role))
    record = read_record(Path("data/shards/noise"))
    assert record["rooms"] == ["hall"]
    assert {name.split("/")[0] for name in record["outputs"]} == {"hall", "hum"}
    assert "rooms" not in read_record(OUT)


def recording(name: str, tmp_path: Path) -> Path:
    return next(path for path in (tmp_path / "recordings").iterdir() if path.stem == name)


def test_an_utterance_is_stored_unchanged(tmp_path: Path) -> None:
    """FLAC at 16 kHz mono byte for byte, anything else as 16-bit FLAC of what it sounds like."""
    run(stage())
    items = list_utterances(OUT)
    assert [item.id for item in items] == list("abcdefg")
    for item in items:
        data, path = read_payload(item), recording(item.id, tmp_path)
        if item.id in "af":
            assert data == path.read_bytes()
        facts = soundfile.info(io.BytesIO(data))
        assert (facts.format, facts.samplerate, facts.channels) == ("FLAC", 16_000, 1)
        assert item.num_samples == facts.frames == len(read_audio(item))
        assert np.abs(read_audio(item) - read_waveform(path)).max() <= 2**-15
        text = CLIPS[path.name][3]
        assert (item.text, item.entry.text_length, item.entry.frames) == (text, len(text), 0)
        speaker = f"speaker-{list(CLIPS).index(path.name) % 2}"
        expected = {
            "id": item.id,
            "text": text,
            "speaker": speaker,
            "language": "en",
            "samples": facts.frames,
        }
        assert read_description(item) == expected
        assert item.speaker == speaker
        assert item.duration_s == facts.frames / 16_000


def test_an_altered_set_is_stored_beside_the_unaltered_one(
    work: Path,
) -> None:
    """Also if the work cache lost the output of the corpus stage, as it may between two stages."""
    slow = {"kind": "altered", "source": TABLE, "tempo": 0.8}
    entry = {role: {"clips": TABLE, "slow": slow} if role == "test" else {} for role in ROLES}
    Path("catalogue/corpus.yaml").write_text(yaml.safe_dump({"small": entry}))
    write_scans("small")
    build_corpus(Stage("corpus", SimpleNamespace(corpus="small"), "test"))  # type: ignore[arg-type]
    shutil.rmtree(work)
    run(stage())
    by_id = {item.id: item for item in list_utterances(OUT)}
    assert len(by_id) == 2 * len(CLIPS)
    for name in "abcdefg":
        before, after = by_id[name].entry, by_id[f"{name}-tempo-0_8"].entry
        assert (after.text, after.speaker) == (before.text, before.speaker)
        assert after.samples == len(read_audio(by_id[after.id])) == round(before.samples / 0.8)


def test_real_speech_of_every_rate_and_format_goes_in(
    recordings: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """From a table to the manifest and to the tars: all utterances at 16 kHz, of equal length."""
    monkeypatch.setenv("LIBRETTO_ROOT_OOD", str(recordings / "ood"))
    table = {
        "kind": "table",
        "root": "ood",
        "table": "ood.tsv",
        "columns": {"text": "transcript", "language": "language"},
    }
    Path("catalogue/corpus.yaml").write_text(
        yaml.safe_dump(
            {"small": {role: {"ood": table} if role == "test" else {} for role in ROLES}}
        )
    )
    write_scans("small")
    build_corpus(Stage("corpus", SimpleNamespace(corpus="small"), "test"))  # type: ignore[arg-type]
    run(stage(utterances=20, seconds=3600))
    rows = {row.id: row for row in read_manifest(Path("data/corpus/test/ood"))}
    assert not read_rejects(Path("data/corpus/test/ood"))
    assert {(row.sample_rate, Path(row.path).suffix) for row in rows.values()} >= {
        (16_000, ".ogg"),
        (22_050, ".wav"),
        (44_100, ".flac"),
    }
    items = list_utterances(OUT)
    assert sorted(item.id for item in items) == sorted(rows)
    for item in items:
        row = rows[item.id]
        assert item.text == row.text
        assert item.duration_s == pytest.approx(row.samples / row.sample_rate, abs=1e-4)
        assert len(read_audio(item)) == item.num_samples


def test_a_tar_has_no_time_place_or_owner() -> None:
    run(stage())
    tars = sorted(OUT.glob("clips/*.tar"))
    assert [path.name for path in tars] == [f"clips-{number:06d}.tar" for number in range(3)]
    names = []
    for path in tars:
        with tarfile.open(path) as archive:
            for member in archive:
                names.append(member.name)
                owner = (member.uid, member.gid, member.uname, member.gname)
                assert (member.mtime, member.mode, owner) == (
                    0,
                    0o444,
                    (0, 0, "libretto", "libretto"),
                )
    assert names == [f"{name}.{ending}" for name in "abcdefg" for ending in ("flac", "json")]


def test_two_runs_give_the_same_bytes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With another work cache, more workers, and the recordings elsewhere."""
    run(stage())
    first = folder_digests(OUT)
    assert len(first) == 5
    shutil.copytree(tmp_path / "recordings", tmp_path / "moved")
    shutil.rmtree(tmp_path / "recordings")
    for name, value in {
        "WORK": str(tmp_path / "other cache"),
        "WORKERS": "2",
        "ROOT_CLIPS": str(tmp_path / "moved"),
    }.items():
        monkeypatch.setenv(f"LIBRETTO_{name}", value)
    run(stage())
    assert folder_digests(OUT) == first
    record = read_record(OUT)
    assert {name: digest for name, digest in first.items() if name != "inputs.json"} == record[
        "outputs"
    ]
    assert str(tmp_path) not in json.dumps(record)


def test_webdataset_reads_the_same_members() -> None:
    import webdataset

    run(stage())
    tars = [str(path) for path in sorted(OUT.glob("clips/*.tar"))]
    samples = list(webdataset.WebDataset(tars, shardshuffle=False))
    items = list_utterances(OUT)
    assert [sample["__key__"] for sample in samples] == [item.id for item in items]
    for sample, item in zip(samples, items, strict=True):
        assert sample["flac"] == read_payload(item)
        assert json.loads(sample["json"]) == read_description(item)


NAMES = st.text(st.characters(exclude_categories=["Cs", "Cc"]), min_size=1, max_size=120)


def standard_tar(members: list[TarMember], payload: str) -> bytes:
    """The tar as the standard library writes it, with the header fields that are documented."""
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w") as archive:
        for member in members:
            text = json.dumps(describe(member), ensure_ascii=False, sort_keys=True).encode()
            for ending, data in sorted({payload: member.payload, "json": text}.items()):
                header = tarfile.TarInfo(f"{member.id}.{ending}")
                header.size, header.mode = len(data), 0o444
                header.uname = header.gname = "libretto"
                archive.addfile(header, io.BytesIO(data))
    return stream.getvalue()


@settings(max_examples=50, deadline=None)
@given(
    ids=st.lists(NAMES, unique=True, max_size=4),
    text=NAMES,
    size=st.integers(0, 2_000),
    payload=st.sampled_from(["flac", "npy"]),
)
def test_a_tar_of_any_ids_is_the_same_to_the_byte(
    ids: list[str], text: str, size: int, payload: str
) -> None:
    """Ids with dots, slashes, spaces, umlauts, and longer than the 100 bytes of a header."""
    members = [TarMember(name, bytes(size), size, 0, text, "_", "") for name in ids]
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "a:b-000000.tar"
        entries = write_tar(path, members, payload)
        data = path.read_bytes()
    assert data == standard_tar(members, payload)
    assert [entry.id for entry in entries] == ids
    assert all(data[entry.offset :][: entry.size] == bytes(size) for entry in entries)
    assert [
        json.loads(data[entry.json_offset :][: entry.json_size])["id"] for entry in entries
    ] == ids


def test_the_index_has_the_offset_of_every_member() -> None:
    run(stage())
    for item in list_utterances(OUT):
        entry, data = item.entry, (OUT / "clips" / item.entry.shard).read_bytes()
        with tarfile.open(OUT / "clips" / entry.shard) as archive:
            for ending, offset, size in (
                ("flac", entry.offset, entry.size),
                ("json", entry.json_offset, entry.json_size),
            ):
                member = archive.extractfile(f"{entry.id}.{ending}")
                assert member is not None
                assert data[offset : offset + size] == member.read()


def test_the_index_has_a_row_an_utterance_and_plain_columns() -> None:
    run(stage())
    table = pq.read_table(OUT / "clips" / INDEX)
    assert table.column_names == [field.name for field in fields(IndexEntry)]
    text = {"id", "shard", "text", "speaker"}
    assert {name: kind for name, kind in zip(table.column_names, table.schema.types)} == {
        name: pa.string() if name in text else pa.int64() for name in table.column_names
    }
    assert table["shard"].to_pylist() == ["clips-000000.tar"] * 3 + ["clips-000001.tar"] * 3 + [
        "clips-000002.tar"
    ]
    write_index(Path("again.parquet"), read_index(OUT / "clips" / INDEX))
    assert Path("again.parquet").read_bytes() == (OUT / "clips" / INDEX).read_bytes()


def test_a_role_without_sources_is_an_empty_folder_with_its_record() -> None:
    run(stage("noise"))
    assert [path.name for path in Path("data/shards/noise").iterdir()] == ["inputs.json"]
    assert (
        list_sources(Path("data/shards/noise")) == list_utterances(Path("data/shards/noise")) == []
    )


def test_finished_shards_are_linked_and_not_written_again(tmp_path: Path) -> None:
    """After a kill the next run continues from the finished shards."""
    run(stage())
    before = {path.name: path.stat().st_ino for path in OUT.glob("clips/*.tar")}
    shutil.rmtree(OUT)
    recording("g", tmp_path).unlink()
    put(tmp_path / "recordings" / "a.flac", clip(seed=77))
    run(stage())
    assert {path.name: path.stat().st_ino for path in OUT.glob("clips/*.tar")} == before


@pytest.mark.parametrize("name", ["a", "b"])
@pytest.mark.parametrize("gone", [True, False])
def test_a_recording_that_differs_from_the_manifest_is_refused(
    name: str, gone: bool, tmp_path: Path
) -> None:
    path = recording(name, tmp_path)
    if gone:
        path.unlink()
    else:
        path.write_bytes(path.read_bytes()[:-2] + b"xy")
    with refused(name, path.name):
        run(stage())
    with refused("data/shards/test"):
        list_utterances(OUT)


def test_a_recording_replaced_by_one_of_its_size_is_mended_by_the_named_command(
    work: Path, tmp_path: Path
) -> None:
    """The scan knows sizes alone, so that DVC sees no change: the stage corpus has to run by
    force.
    """
    shutil.rmtree("data/corpus/test")
    write_scans("small")
    params = SimpleNamespace(corpus="small")
    corpus = Stage("corpus", params, "test")  # type: ignore[arg-type]
    build_corpus(corpus)
    run(stage())
    path = recording("e", tmp_path)
    before = path.read_bytes()
    put(path, clip(rate=16_000, form="WAV", seed=99, seconds=soundfile.info(path).duration))
    assert len(path.read_bytes()) == len(before) and path.read_bytes() != before
    shutil.rmtree(work)  # the finished shards of the old one
    with pytest.raises(InputError, match="corpus@test"):
        run(stage())
    build_corpus(corpus)
    run(stage())
    item = next(item for item in list_utterances(OUT) if item.id == "e")
    assert np.abs(read_audio(item) - read_waveform(path)).max() <= 2**-15


def damaged(item: IndexedUtterance, data: bytes) -> IndexedUtterance:
    """The utterance in a tar with other content (the output itself is a link into the
    work cache).
    """
    folder = item.folder.parent / "damaged"
    folder.mkdir(exist_ok=True)
    (folder / item.entry.shard).write_bytes(data)
    return replace(item, folder=folder)


@pytest.mark.parametrize("member", ["payload", "description"])
def test_a_shortened_tar_names_file_and_utterance(member: str) -> None:
    run(stage())
    item = list_utterances(OUT)[2]
    data = (item.folder / item.entry.shard).read_bytes()
    end = (
        item.entry.offset + item.entry.size
        if member == "payload"
        else item.entry.json_offset + item.entry.json_size
    )
    with refused("c", item.entry.shard):
        (read_payload if member == "payload" else read_description)(damaged(item, data[: end - 1]))
    assert (read_payload if member == "payload" else read_description)(damaged(item, data[:end]))


def test_a_payload_that_is_no_sound_names_file_and_utterance() -> None:
    run(stage())
    item = list_utterances(OUT)[1]
    data = bytearray((item.folder / item.entry.shard).read_bytes())
    data[item.entry.offset : item.entry.offset + 4] = b"none"
    with refused("b", item.entry.shard):
        read_audio(damaged(item, bytes(data)))


def test_an_index_of_another_tar_names_file_and_utterance() -> None:
    run(stage())
    item = list_utterances(OUT)[0]
    longer = replace(item, entry=replace(item.entry, samples=item.num_samples + 1))
    with refused("a", item.entry.shard, str(item.num_samples)):
        read_audio(longer)
    with refused("a", item.entry.shard):
        read_audio(replace(item, entry=replace(item.entry, offset=item.entry.offset + 1)))


def test_shards_are_read_through_a_link(tmp_path: Path) -> None:
    """As DVC links them if its cache is on another disk."""
    run(stage())
    waveforms = [read_audio(item) for item in list_utterances(OUT)]
    os.rename(OUT, tmp_path / "elsewhere")
    OUT.symlink_to(tmp_path / "elsewhere")
    assert all(
        np.array_equal(one, other)
        for one, other in zip(
            waveforms, [read_audio(item) for item in list_utterances(OUT)], strict=True
        )
    )


LENGTHS = st.lists(
    st.tuples(st.integers(1, 200_000), st.sampled_from([8_000, 16_000, 44_100])), max_size=30
)  # samples, rate


@settings(deadline=None)
@given(LENGTHS, st.integers(1, 6), st.floats(1, 60))
def test_no_shard_is_over_its_limits(
    lengths: list[tuple[int, int]], utterances: int, seconds: float
) -> None:
    rows = [
        Utterance(f"{number}", "test", "", "", "", rate, samples, "", "")
        for number, (samples, rate) in enumerate(lengths)
    ]
    shards = split_into_shards(rows, utterances, seconds)
    assert [row for shard in shards for row in shard] == rows
    for shard in shards:
        assert 1 <= len(shard) <= utterances
        assert (
            len(shard) == 1 or sum(row.samples / row.sample_rate for row in shard) <= seconds + 1e-9
        )
    for shard, following in pairwise(shards):
        full = sum(row.samples / row.sample_rate for row in [*shard, following[0]]) > seconds - 1e-9
        assert len(shard) == utterances or full, "no shard is smaller than it must be"


@pytest.mark.slow
def test_tars_in_a_bucket_equal_those_of_a_folder(
    bucket: Bucket, monkeypatch: pytest.MonkeyPatch, work: Path
) -> None:
    run(stage())
    payloads = {
        item.id: (read_payload(item), read_description(item)) for item in list_utterances(OUT)
    }
    local = read_record(OUT)
    index = (OUT / "clips" / INDEX).read_bytes()

    monkeypatch.setenv("LIBRETTO_STORE", "s3://recordings/tars")
    run(stage(remote=True))
    assert sorted(path.name for path in OUT.rglob("*") if path.is_file()) == [
        INDEX,
        "inputs.json",
    ], "no tar stays on this machine"
    units = [path.parent for path in work.rglob("stored.json")]
    assert units and not [unit for unit in units if list(unit.glob("*.tar"))], (
        "nor in the work cache"
    )
    assert (OUT / "clips" / INDEX).read_bytes() == index
    record = read_record(OUT)
    assert record == {**local, "remote": True}
    assert not [
        secret
        for secret in (KEY, SECRET, bucket.url, "recordings/tars")
        if secret in json.dumps(record)
    ]
    tars = {name: digest for name, digest in record["outputs"].items() if name.endswith(".tar")}
    assert set(bucket.names()) == {f"tars/{digest[:2]}/{digest}.tar" for digest in tars.values()}
    assert {
        item.id: (read_payload(item), read_description(item)) for item in list_utterances(OUT)
    } == payloads
    assert len(payloads) == len(CLIPS)

    bucket.requests.clear()
    run(stage(remote=True))
    assert not [path for method, path in bucket.requests if method == "PUT"], (
        "a stored tar is not written again"
    )
    bucket.client.delete_object(Bucket="recordings", Key=bucket.names()[0])
    run(stage(remote=True))
    assert {
        item.id: (read_payload(item), read_description(item)) for item in list_utterances(OUT)
    } == payloads, "a missing tar is written again"


@pytest.mark.slow
def test_prefetching_fetches_all_tars_without_a_reader(
    bucket: Bucket, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LIBRETTO_STORE", "s3://recordings/many")
    tars = {
        hashlib.sha256(data).hexdigest(): data
        for data in (bytes([number]) * 1000 for number in range(3 * STREAMS))
    }
    for digest, data in tars.items():
        stored_tar(digest).write_bytes(data)
    bucket.requests.clear()
    reader = TarPrefetcher(len(tars) * 1000)
    reader.prefetch(list(tars))
    end = time.monotonic() + 30
    while sum(count for (method, _), count in bucket.requests.items() if method == "GET") < len(
        tars
    ):
        assert time.monotonic() < end, "not all of them came"
        time.sleep(0.1)
    assert {digest: reader.read(digest, 0, 1000) for digest in tars} == tars
    assert set(bucket.requests.values()) == {1}


@pytest.mark.slow
def test_prefetched_tars_are_fetched_once_and_verified(
    bucket: Bucket, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LIBRETTO_STORE", "s3://recordings/ahead")
    run(stage(remote=True))
    items = list_utterances(OUT)
    payloads = [read_payload(item) for item in items]
    for kind, more in (("", 0), ("503", 1), ("cut", 1), ("wrong", 1)):
        tar_prefetcher.cache_clear()
        bucket.first(kind, 1, ".tar")
        bucket.requests.clear()
        prefetch(items)
        assert [read_payload(item) for item in items] == payloads
        tars = {path: count for (method, path), count in bucket.requests.items() if method == "GET"}
        assert set(tars.values()) == {1 + more}, kind

    tar_prefetcher.cache_clear()
    bucket.always("wrong", ".tar")
    prefetch(items)
    digest = read_record(OUT)["outputs"][f"clips/{items[0].entry.shard}"]
    with refused(digest, str(stored_tar(digest))):
        read_payload(items[0])
    tar_prefetcher.cache_clear()
    bucket.fault = lambda method, path: ""
    monkeypatch.setenv("LIBRETTO_READ_AHEAD_MB", "0.001")
    prefetch(items)
    assert [read_payload(item) for item in items] == payloads, (
        "with no room for any, each utterance is a request"
    )
    name = f"ahead/{digest[:2]}/{digest}.tar"
    content = bucket.client.get_object(Bucket="recordings", Key=name)["Body"].read()
    for length in (0, 1024):
        bucket.client.put_object(Bucket="recordings", Key=name, Body=content[:length])
        tar_prefetcher.cache_clear()
        with refused(items[0].id, f"s3://recordings/{name}"):
            read_payload(items[0])
    bucket.client.delete_object(Bucket="recordings", Key=name)
    tar_prefetcher.cache_clear()
    with refused(items[0].id, f"s3://recordings/{name}"):
        read_payload(items[0])
    monkeypatch.delenv("LIBRETTO_STORE")
    with refused("LIBRETTO_STORE"):
        read_payload(items[0])
