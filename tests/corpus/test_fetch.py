"""From an address to a manifest, and the errors on the way, each with a real file and server."""

from __future__ import annotations

import errno
import hashlib
import io
import json
import os
import shutil
import socket
import subprocess
import sys
import tarfile
import threading
import time
import zipfile
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace

import pytest
import yaml

from components.config.catalogue import ROLES
from components.config.errors import TransientError
from components.corpus.build import work as run
from components.corpus.fetch.archive import list_archives
from components.corpus.fetch.installation import MARK, fetch_corpus, install_archive
from components.corpus.manifest import read_manifest, read_rejects
from components.corpus.scan import write_scans
from components.runtime.stage import Stage
from tests.conftest import REPOSITORY
from tests.corpus.clips import clip, put, write_librispeech
from tests.corpus.server import Mirror, serving
from tests.errors import refused

FETCH = [sys.executable, "-m", "components.corpus", "fetch"]
ARCHIVE = "train-clean-5.tar.gz"
LIBRI = {"kind": "librispeech", "root": "mini", "subsets": ["train-clean-5"]}
GOOD = {"1-10-0000": "FIRST", "1-10-0001": "SECOND", "2-20-0000": "THIRD"}


def tar_of(members: dict[str, bytes], mode: str = "w:gz") -> bytes:
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode=mode) as tar:
        for name, data in members.items():
            entry = tarfile.TarInfo(name)
            entry.size = len(data)
            tar.addfile(entry, io.BytesIO(data))
    return stream.getvalue()


def tar_with(*entries: tarfile.TarInfo) -> bytes:
    """A tar of a good file and of entries without content (links, devices)."""
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w:gz") as tar:
        for entry in entries:
            tar.addfile(entry)
        good = tarfile.TarInfo("LibriSpeech/train-clean-5/good")
        good.size = 4
        tar.addfile(good, io.BytesIO(b"good"))
    return stream.getvalue()


def linked(name: str, target: str, kind: bytes = tarfile.SYMTYPE) -> tarfile.TarInfo:
    entry = tarfile.TarInfo(name)
    entry.type, entry.linkname = kind, target
    return entry


def folder_of(members: Path) -> dict[str, bytes]:
    return {
        path.relative_to(members).as_posix(): path.read_bytes()
        for path in sorted(members.rglob("*"))
        if path.is_file()
    }


@pytest.fixture(scope="module")
def mini(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """An archive in the layout of mini LibriSpeech's."""
    folder = tmp_path_factory.mktemp("mini")
    write_librispeech(folder / "LibriSpeech", GOOD, "train-clean-5")
    put(folder / "LibriSpeech/README.TXT", b"about it")
    return tar_of(folder_of(folder))


@pytest.fixture
def mirror(mini: bytes) -> Iterator[Mirror]:
    with serving(Mirror({"/31/train-clean-5.tar.gz": mini})) as serves:
        yield serves


@pytest.fixture
def house(tmp_path: Path, mirror: Mirror, mini: bytes, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A workspace whose catalogue takes mini LibriSpeech from the mirror into an empty
    data root.
    """
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("LIBRETTO_OPENSLR", f"{mirror.address}/")
    monkeypatch.setenv("LIBRETTO_ROOT_MINI", str(tmp_path / "data" / "mini"))
    monkeypatch.chdir(tmp_path)
    entry(mini)
    corpus({"train": {"train-clean-5": LIBRI}})
    return tmp_path


@pytest.fixture
def root(house: Path) -> Path:
    return house / "data" / "mini"


def entry(data: bytes | None = None, file: str = "train-clean-5.tar.gz", **changed: object) -> None:
    """``catalogue/archive.yaml`` with one archive, whose size and checksum are those of
    ``data``.
    """
    digests = {} if data is None else {"bytes": len(data), "md5": hashlib.md5(data).hexdigest()}
    fields = {"folder": "LibriSpeech/train-clean-5", **digests, **changed}
    write_archives({"mini": (31, file, fields)})


def write_archives(archives: dict[str, tuple[int, str, dict]]) -> None:
    """``catalogue/archive.yaml``: (number at OpenSLR, file, fields of the entry) by data root."""
    entries = {
        root: {
            "address": f"https://unreachable.invalid/{number}",
            "openslr": number,
            "files": {file: fields},
        }
        for root, (number, file, fields) in archives.items()
    }
    put(Path("catalogue/archive.yaml"), yaml.safe_dump(entries).encode())


def corpus(sources: dict[str, dict]) -> None:
    put(
        Path("catalogue/corpus.yaml"),
        yaml.safe_dump({"small": {role: sources.get(role, {}) for role in ROLES}}).encode(),
    )


def stage(role: str) -> Stage:
    return Stage("corpus", SimpleNamespace(corpus="small"), role)  # type: ignore[arg-type]


def part(root: Path) -> Path:
    return root / ".fetch/train-clean-5.tar.gz.part"


def is_clean(root: Path) -> bool:
    """Whether nothing of an unfinished unpacking or of a refused archive remains."""
    return not [
        path
        for path in root.rglob("*")
        if path.name.startswith("train-clean-5") and not path.name.endswith(".lock")
    ]


def fetched(root: Path) -> dict[str, str]:
    names = {path.stem for path in (root / "train-clean-5").rglob("*.flac")}
    return {name: text for name, text in GOOD.items() if name in names}


@pytest.fixture
def log(caplog: pytest.LogCaptureFixture) -> pytest.LogCaptureFixture:
    caplog.set_level("INFO")
    return caplog


def test_from_the_address_to_the_manifest(
    root: Path, mirror: Mirror, log: pytest.LogCaptureFixture
) -> None:
    fetch_corpus("small")
    assert "mini: train-clean-5: fetched" in log.text
    write_scans("small")
    run(stage("train"))
    accepted = read_manifest(Path("data/corpus/train/train-clean-5"))
    assert {row.id: row.text for row in accepted} == GOOD
    assert not read_rejects(Path("data/corpus/train/train-clean-5"))
    assert [path for path, _ in mirror.requests] == ["/31/train-clean-5.tar.gz"]
    remaining = [
        path.name
        for path in root.rglob("*")
        if path.is_file() and path.suffix not in (".flac", ".txt", ".lock")
    ]
    assert remaining == [MARK]  # neither the archive nor a part of it


def test_a_second_fetch_sends_no_request(
    root: Path, mirror: Mirror, log: pytest.LogCaptureFixture
) -> None:
    fetch_corpus("small")
    mirror.requests.clear()
    log.clear()
    fetch_corpus("small")
    assert not mirror.requests
    assert "mini: train-clean-5:" in log.text and "fetched" not in log.text


def test_only_archives_that_the_sources_of_a_role_read_is_fetched(
    house: Path, mini: bytes, mirror: Mirror, log: pytest.LogCaptureFixture
) -> None:
    corpus({"dev": {"train-clean-5": LIBRI}})
    fetch_corpus("small", "train")
    assert "'small'" in log.text
    assert not mirror.requests
    fetch_corpus("small", "dev")
    assert len(mirror.requests) == 1


def test_a_cut_connection_goes_on_where_it_stopped(root: Path, mini: bytes, mirror: Mirror) -> None:
    mirror.cuts = [1_000, 500]
    fetch_corpus("small")
    assert [requested for _, requested in mirror.requests] == ["", "bytes=1000-", "bytes=1500-"]
    assert fetched(root) == GOOD


def test_a_killed_fetch_goes_on_where_it_stopped(root: Path, mirror: Mirror) -> None:
    mirror.cuts, mirror.stall = [2_000], threading.Event()
    running = subprocess.Popen(
        [*FETCH, "--corpus", "small"], env={**os.environ, "PYTHONPATH": str(REPOSITORY)}
    )
    try:
        while running.poll() is None and not (
            part(root).exists() and part(root).stat().st_size == 2_000
        ):
            time.sleep(0.05)
        assert running.poll() is None
    finally:
        running.kill()
        running.wait()
        mirror.stall.set()
    fetch_corpus("small")
    assert [requested for _, requested in mirror.requests] == ["", "bytes=2000-"]
    assert fetched(root) == GOOD


def test_a_complete_part_sends_no_request_and_too_long_a_one_is_fetched_again(
    root: Path, mini: bytes, mirror: Mirror
) -> None:
    put(part(root), mini)
    fetch_corpus("small")
    assert not mirror.requests
    shutil.rmtree(root)
    put(part(root), mini + b"of another file")
    fetch_corpus("small")
    assert mirror.requests == [("/31/train-clean-5.tar.gz", "")]
    assert fetched(root) == GOOD


def test_half_an_unpacked_folder_is_unpacked_again(root: Path, mirror: Mirror) -> None:
    put(
        root / ".fetch/train-clean-5.tar.gz.unpacked/LibriSpeech/train-clean-5/9/90/9-90-0000.flac",
        clip(),
    )
    fetch_corpus("small")
    assert not list(root.rglob("9-90-0000.flac"))
    assert fetched(root) == GOOD


def test_two_fetches_at_once_send_one_request(root: Path, mirror: Mirror) -> None:
    with ThreadPoolExecutor(2) as pool:
        results = list(pool.map(install_archive, list_archives("mini") * 2))
    assert "fetched and unpacked" in results and len(set(results)) == 2
    assert len(mirror.requests) == 1


def test_a_server_without_ranges_sends_all_of_it(root: Path, mini: bytes, mirror: Mirror) -> None:
    put(part(root), b"x" * 2_000)
    mirror.ranges = False
    fetch_corpus("small")
    assert fetched(root) == GOOD


@pytest.mark.parametrize("lengths", [True, False])
def test_a_size_that_is_unknown_is_the_servers(
    lengths: bool, root: Path, mini: bytes, mirror: Mirror
) -> None:
    entry(md5=hashlib.md5(mini).hexdigest())
    mirror.lengths = lengths
    fetch_corpus("small")
    assert fetched(root) == GOOD


def test_a_server_that_gives_no_length_is_checked_by_the_catalogues(
    root: Path, mini: bytes, mirror: Mirror
) -> None:
    mirror.lengths, mirror.cuts = False, [1_000]
    fetch_corpus("small")
    assert len(mirror.requests) == 2
    assert fetched(root) == GOOD


def test_a_download_of_another_size_is_deleted(root: Path, mini: bytes, mirror: Mirror) -> None:
    # complete by an older entry of the catalogue
    file = put(root / ".fetch/train-clean-5.tar.gz", mini[:1_000])
    with refused(ARCHIVE, " 1,000 bytes", f"{len(mini):,}"):
        fetch_corpus("small")
    assert not file.exists()
    fetch_corpus("small")
    assert fetched(root) == GOOD


def test_a_complete_part_of_unknown_size_is_not_fetched_again(
    root: Path, mini: bytes, mirror: Mirror
) -> None:
    entry(md5=hashlib.md5(mini).hexdigest())
    put(part(root), mini)
    fetch_corpus("small")
    assert [requested for _, requested in mirror.requests] == [f"bytes={len(mini)}-"]
    assert fetched(root) == GOOD


def test_a_connection_that_brings_nothing_stops_and_keeps_its_part(
    root: Path, mirror: Mirror
) -> None:
    mirror.cuts = [1_000, 0]
    with refused(ARCHIVE, "mini", "1,000 bytes", error=TransientError):
        fetch_corpus("small")
    assert part(root).stat().st_size == 1_000
    fetch_corpus("small")
    assert mirror.requests[-1][1] == "bytes=1000-"


def test_a_server_in_trouble_may_recover(root: Path, mirror: Mirror) -> None:
    mirror.status = 503
    with refused(ARCHIVE, "503", error=TransientError):
        fetch_corpus("small")


@pytest.mark.parametrize("status", [404, 403, 410])
def test_a_file_that_is_missing_names_its_entry(status: int, root: Path, mirror: Mirror) -> None:
    mirror.status = status
    url = f"{mirror.address}/31/{ARCHIVE}"
    with refused(ARCHIVE, "catalogue/archive.yaml: mini", url, f"{status}", "LIBRETTO_OPENSLR"):
        fetch_corpus("small")


def closed() -> str:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return f"http://127.0.0.1:{free.getsockname()[1]}"


@pytest.mark.parametrize("address", ["closed", "http://no-such-host.invalid"])
def test_without_a_network_it_stops_with_a_hint(
    address: str, house: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LIBRETTO_OPENSLR", closed() if address == "closed" else address)
    with refused(ARCHIVE, "LIBRETTO_OPENSLR", error=TransientError):
        fetch_corpus("small")


def test_a_server_that_stalls_is_abandoned(
    house: Path, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("components.corpus.fetch.download.TIMEOUT", 0.3)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        monkeypatch.setenv("LIBRETTO_OPENSLR", f"http://127.0.0.1:{silent.getsockname()[1]}")
        with refused(ARCHIVE, error=TransientError):
            fetch_corpus("small")


def test_a_wrong_checksum_is_refused_and_deleted(root: Path, mini: bytes, mirror: Mirror) -> None:
    mirror.files["/31/train-clean-5.tar.gz"] = mini[:-1] + bytes([mini[-1] ^ 1])
    with refused(ARCHIVE, "mini", hashlib.md5(mini).hexdigest(), "LIBRETTO_OPENSLR"):
        fetch_corpus("small")
    assert is_clean(root)


def test_another_size_is_refused_before_it_is_fetched(
    root: Path, mini: bytes, mirror: Mirror
) -> None:
    mirror.files["/31/train-clean-5.tar.gz"] = mini + b"more"
    with refused(ARCHIVE, f"{len(mini) + 4:,}", f"{len(mini):,}"):
        fetch_corpus("small")
    assert is_clean(root)


def test_an_archive_without_a_checksum_is_not_used_until_it_is_entered(
    root: Path, mini: bytes, mirror: Mirror
) -> None:
    entry()
    digest = hashlib.md5(mini).hexdigest()
    with refused(ARCHIVE, f"'md5: {digest}'"):
        fetch_corpus("small")
    assert not (root / "train-clean-5").exists()
    entry(md5=digest)
    fetch_corpus("small")
    assert fetched(root) == GOOD
    assert len(mirror.requests) == 1  # the file was kept


@pytest.mark.parametrize("form", ["w:gz", "w", "w:xz"])
def test_an_archive_of_the_user_is_checked_and_unpacked(
    form: str, root: Path, mirror: Mirror, tmp_path: Path
) -> None:
    write_librispeech(tmp_path / "made/LibriSpeech", GOOD, "train-clean-5")
    data = tar_of(folder_of(tmp_path / "made"), form)
    entry(data)
    file = put(root / "train-clean-5.tar.gz", data)
    fetch_corpus("small")
    assert not mirror.requests
    assert fetched(root) == GOOD
    assert file.read_bytes() == data


def test_half_an_archive_of_the_user_is_refused_and_stays(
    root: Path, mini: bytes, mirror: Mirror
) -> None:
    file = put(root / "train-clean-5.tar.gz", mini[: len(mini) // 2])
    sizes = (f"{len(mini) // 2:,} bytes", f"{len(mini):,}")
    with refused(ARCHIVE, str(file), *sizes):
        fetch_corpus("small")
    entry(mini, md5="")
    with refused(ARCHIVE, str(file), *sizes):
        fetch_corpus("small")
    digest = hashlib.md5(mini).hexdigest()
    entry(md5=digest)
    with refused(ARCHIVE, str(file), digest):
        fetch_corpus("small")
    assert file.is_file()
    assert not mirror.requests


@pytest.mark.parametrize("cut", [0.1, 0.5, 0.99])
def test_a_broken_archive_leaves_nothing(
    cut: float, root: Path, mini: bytes, mirror: Mirror
) -> None:
    broken = mini[: int(len(mini) * cut)]
    mirror.files["/31/train-clean-5.tar.gz"] = broken
    entry(broken)
    with refused(ARCHIVE, "mini"):
        fetch_corpus("small")
    assert not (root / "train-clean-5").exists()
    assert not (root / ".fetch/train-clean-5.tar.gz.unpacked").exists()


GOOD_FILE = {"LibriSpeech/train-clean-5/good": b"good"}
EVIL = "LibriSpeech/train-clean-5/evil"
OUT = "LibriSpeech/train-clean-5/out"
ABOVE = "LibriSpeech/../../evil"
# fault → archive, member that is refused
UNSAFE = {
    "above": (tar_of({**GOOD_FILE, "../evil": b"evil"}), "../evil"),
    "above from within": (tar_of({**GOOD_FILE, ABOVE: b"evil"}), ABOVE),
    "absolute": (tar_of({**GOOD_FILE, "/tmp/libretto-evil": b"evil"}), "/tmp/libretto-evil"),
    "a symbolic link": (tar_with(linked(EVIL, "/etc/passwd")), EVIL),
    "a link within": (tar_with(linked(EVIL, "good")), EVIL),
    "a folder that is a link": (tar_with(linked(OUT, "../../..")), OUT),
    "a hard link": (tar_with(linked(EVIL, "../../../secret", tarfile.LNKTYPE)), EVIL),
    "a device": (tar_with(linked(EVIL, "", tarfile.CHRTYPE)), EVIL),
    "a pipe": (tar_with(linked(EVIL, "", tarfile.FIFOTYPE)), EVIL),
}


@pytest.mark.parametrize("fault", UNSAFE)
def test_an_unsafe_archive_is_refused_completely(fault: str, root: Path, mirror: Mirror) -> None:
    data, member = UNSAFE[fault]
    mirror.files["/31/train-clean-5.tar.gz"] = data
    entry(data)
    with refused(ARCHIVE, "mini", f"'{member}'"):
        fetch_corpus("small")
    assert not (root / "train-clean-5").exists()
    assert not list(root.parent.parent.rglob("evil"))
    assert not Path("/tmp/libretto-evil").exists()


def zip_of(members: dict[str, bytes], **modes: int) -> bytes:
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", zipfile.ZIP_DEFLATED) as zipped:
        for name, data in members.items():
            info = zipfile.ZipInfo(name)
            info.external_attr = modes.get(Path(name).name, 0o100644) << 16
            zipped.writestr(info, data)
    return stream.getvalue()


@pytest.mark.parametrize(
    ("data", "parts"),
    [
        (zip_of({**GOOD_FILE, "../evil": b"evil"}), ["'../evil'"]),
        (
            zip_of({**GOOD_FILE, "LibriSpeech/evil": b"/etc/passwd"}, evil=0o120777),
            ["'LibriSpeech/evil'"],
        ),
        (zip_of(GOOD_FILE)[:-30], []),
        (zip_of({"other/file": b"x"}), ["'LibriSpeech/train-clean-5'", "other"]),
    ],
)
def test_the_same_faults_of_a_zip_are_refused(
    data: bytes, parts: list[str], root: Path, mirror: Mirror
) -> None:
    mirror.files["/31/train-clean-5.zip"] = data
    entry(data, "train-clean-5.zip")
    with refused("train-clean-5.zip", *parts):
        fetch_corpus("small")
    assert not (root / "train-clean-5").exists()
    assert not list(root.parent.parent.rglob("evil"))


def test_a_zip_is_unpacked(root: Path, mirror: Mirror, tmp_path: Path) -> None:
    write_librispeech(tmp_path / "made/LibriSpeech", GOOD, "train-clean-5")
    data = zip_of(folder_of(tmp_path / "made"))
    mirror.files["/31/train-clean-5.zip"] = data
    entry(data, "train-clean-5.zip")
    fetch_corpus("small")
    assert fetched(root) == GOOD


def test_a_disk_without_room_stops_before_any_request(root: Path, mirror: Mirror) -> None:
    entry(bytes=10**16, md5="0" * 32)
    with refused(ARCHIVE, "20,000,000,000,000,000 bytes", "'mini'"):
        fetch_corpus("small")
    assert not mirror.requests


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
def test_a_disk_that_fills_up_stops_the_download(root: Path, mirror: Mirror) -> None:
    part(root).parent.mkdir(parents=True)
    part(root).symlink_to("/dev/full")
    with refused(ARCHIVE, os.strerror(errno.ENOSPC)):
        fetch_corpus("small")


def test_an_archive_that_unpacks_to_more_than_the_free_space_stops(
    root: Path, mirror: Mirror
) -> None:
    huge = tarfile.TarInfo("LibriSpeech/train-clean-5/huge")
    huge.size = 10**16
    data = huge.tobuf(tarfile.GNU_FORMAT) + bytes(1_024)
    mirror.files["/31/train-clean-5.tar.gz"] = data
    entry(data)
    with refused(ARCHIVE, "10,000,000,000,000,000 bytes"):
        fetch_corpus("small")
    assert not (root / "train-clean-5").exists()


def test_a_data_root_that_cannot_be_written_stops(
    root: Path, mirror: Mirror, monkeypatch: pytest.MonkeyPatch
) -> None:
    put(root / ".fetch", b"a file where the folder should be")
    with refused(ARCHIVE, str(root)):
        fetch_corpus("small")
    monkeypatch.setenv("LIBRETTO_ROOT_MINI", str(root / ".fetch" / "below a file"))
    with refused("mini", "LIBRETTO_ROOT_MINI="):
        fetch_corpus("small")
    assert not mirror.requests


def test_a_folder_from_elsewhere_is_used_as_it_is(root: Path, mirror: Mirror) -> None:
    write_librispeech(root, {"9-90-0000": "MINE"}, "train-clean-5")
    fetch_corpus("small")
    assert not mirror.requests
    write_scans("small")
    run(stage("train"))
    assert [row.text for row in read_manifest(Path("data/corpus/train/train-clean-5"))] == ["MINE"]


def test_a_folder_of_another_archive_is_named(root: Path, mini: bytes, mirror: Mirror) -> None:
    fetch_corpus("small")
    entry(mini, md5="0" * 32)
    with refused(ARCHIVE, str(root / "train-clean-5"), hashlib.md5(mini).hexdigest()):
        fetch_corpus("small")


def test_a_folder_that_no_archive_contains_is_named(house: Path, root: Path) -> None:
    corpus({"train": {"own": {**LIBRI, "subsets": ["train-clean-6"]}}})
    root.mkdir(parents=True)
    with refused("own", "'train-clean-6'", "'train-clean-5'"):
        fetch_corpus("small")
    write_librispeech(root, {"9-90-0000": "MINE"}, "train-clean-6")
    fetch_corpus("small")  # it was put there by hand


def test_an_address_without_a_mirror_is_the_publishers(
    house: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("LIBRETTO_OPENSLR")
    assert list_archives("mini")[0].url == "https://unreachable.invalid/31/train-clean-5.tar.gz"
    assert list_archives("digits") == []


def test_a_folder_names_the_archive_it_came_from(root: Path, mini: bytes) -> None:
    assert install_archive(list_archives("mini")[0]) == "fetched and unpacked"
    assert json.loads((root / "train-clean-5" / MARK).read_text()) == {
        "file": "train-clean-5.tar.gz",
        "md5": hashlib.md5(mini).hexdigest(),
    }


def test_the_command_ends_with_a_message_and_the_exit_code(house: Path, mirror: Mirror) -> None:
    environment = {**os.environ, "PYTHONPATH": str(REPOSITORY)}
    line = [*FETCH, "--corpus", "small"]
    assert subprocess.run([*line, "--role", "train"], env=environment).returncode == 0
    mirror.status = 500
    (house / "data/mini/train-clean-5").rename(house / "aside")
    failed = subprocess.run(line, env=environment, capture_output=True, text=True)
    assert failed.returncode == 75
    assert failed.stderr.startswith(
        "corpus fetch: catalogue/archive.yaml: mini, train-clean-5.tar.gz"
    )
    assert "Traceback" not in failed.stderr


def bad_checksum(root: Path, mini: bytes, mirror: Mirror) -> None:
    mirror.files["/31/train-clean-5.tar.gz"] = mini[:-1] + bytes([mini[-1] ^ 1])


def half_by_hand(root: Path, mini: bytes, mirror: Mirror) -> None:
    put(root / "train-clean-5.tar.gz", mini[: len(mini) // 2])


def half_published(root: Path, mini: bytes, mirror: Mirror) -> None:
    mirror.files["/31/train-clean-5.tar.gz"] = half = mini[: len(mini) // 2]
    entry(half)


def leading_out(root: Path, mini: bytes, mirror: Mirror) -> None:
    mirror.files["/31/train-clean-5.tar.gz"] = data = UNSAFE["above"][0]
    entry(data)


def full_disk(root: Path, mini: bytes, mirror: Mirror) -> None:
    put(root / "README", b"a data root that is there")
    (root / ".fetch").mkdir()
    part(root).symlink_to("/dev/full")


def huge(root: Path, mini: bytes, mirror: Mirror) -> None:
    entry(bytes=10**16, md5="0" * 32)


@pytest.mark.parametrize(
    ("spoil", "parts"),
    [
        (bad_checksum, ["LIBRETTO_OPENSLR"]),
        (half_by_hand, ["LIBRETTO_OPENSLR"]),
        (half_published, ["LIBRETTO_OPENSLR"]),
        (leading_out, ["'../evil'"]),
        (full_disk, [os.strerror(errno.ENOSPC)]),
        (huge, ["20,000,000,000,000,000", "'mini'"]),
    ],
)
def test_the_command_names_the_entry_on_its_last_line(
    spoil: Callable[[Path, bytes, Mirror], None],
    parts: list[str],
    house: Path,
    root: Path,
    mini: bytes,
    mirror: Mirror,
) -> None:
    spoil(root, mini, mirror)
    failed = subprocess.run(
        [*FETCH, "--corpus", "small"],
        env={**os.environ, "PYTHONPATH": str(REPOSITORY)},
        capture_output=True,
        text=True,
    )
    assert failed.returncode == 2
    message = failed.stderr.strip().splitlines()[-1]
    assert message.startswith("corpus fetch: catalogue/archive.yaml: mini, train-clean-5.tar.gz: ")
    for part in parts:
        assert part in message
    assert "Traceback" not in failed.stderr
    assert not (root / "train-clean-5").exists()
    assert not list(house.rglob("evil"))


def test_progress_is_written(
    root: Path, mini: bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LIBRETTO_PROGRESS", str(tmp_path / "progress"))
    fetch_corpus("small")
    lines = [json.loads(line) for line in (tmp_path / "progress").read_text().splitlines()]
    assert {line["task"].split()[0] for line in lines} == {"fetching", "checking", "unpacking"}
    assert all(
        line["done"]
        == pytest.approx(line["total"], abs=0.001)
        == pytest.approx(len(mini) / 1e6, abs=0.001)
        for line in lines
    )


def test_mls_from_the_address_to_the_manifest(
    house: Path, mirror: Mirror, monkeypatch: pytest.MonkeyPatch
) -> None:
    base = "mls_polish"
    texts = {
        "train": "1_11_000000\tdzień dobry\n1_11_000001\tjak się masz\n",
        "dev": "2_22_000000\tdwa\n",
        "test": "3_33_000000\ttrzy\n",
    }
    members = {f"{base}/metainfo.txt": b"about it"}
    for seed, (subset, text) in enumerate(texts.items()):
        members[f"{base}/{subset}/transcripts.txt"] = text.encode()
        for line in text.splitlines():
            name = line.partition("\t")[0]
            speaker, book, number = name.split("_")
            members[f"{base}/{subset}/audio/{speaker}/{book}/{name}.flac"] = clip(
                seed=10 * seed + int(number)
            )
    data = tar_of(members)
    mirror.files["/94/mls_polish.tar.gz"] = data
    fields = {"folder": base, "bytes": len(data), "md5": hashlib.md5(data).hexdigest()}
    write_archives({"mls": (94, "mls_polish.tar.gz", fields)})
    sources = {
        subset: {
            f"pl-{subset}": {"kind": "mls", "root": "mls", "language": "polish", "subset": subset}
        }
        for subset in texts
    }
    corpus(sources)
    monkeypatch.setenv("LIBRETTO_ROOT_MLS", str(house / "data/mls"))
    fetch_corpus("small")
    assert len(mirror.requests) == 1  # three sources, one archive
    write_scans("small")
    for subset, text in texts.items():
        run(stage(subset))
        accepted = read_manifest(Path(f"data/corpus/{subset}/pl-{subset}"))
        assert {row.id: row.text for row in accepted} == dict(
            line.split("\t") for line in text.splitlines()
        )
        assert {row.language for row in accepted} == {"pl"}


def test_musan_and_rooms_from_the_address_to_the_manifest(
    house: Path, mirror: Mirror, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A tar and a zip, by the sources of the catalogue's own corpus; music with vocals is kept out
    of the noise.
    """
    catalogue = yaml.safe_load((REPOSITORY / "catalogue/corpus.yaml").read_text())
    listed = catalogue["librispeech-musan"]
    rooms = "RIRS_NOISES/real_rirs_isotropic_noises"
    sounds = (
        "noise/free-sound/noise-free-1",
        "noise/sound-bible/noise-bible-1",
        "music/fma/music-1",
        "music/fma/music-2",
    )
    members = {
        f"musan/{name}.wav": clip(form="WAV", seed=20 + number, seconds=0.6)
        for number, name in enumerate(sounds)
    }
    members["musan/music/fma/ANNOTATIONS"] = b"music-1 jazz N Somebody\nmusic-2 opera Y A_Singer\n"
    inside = {
        f"{rooms}/{name}.wav": clip(form="WAV", seed=30, seconds=0.6)
        for name in ("RVB2014_type1_noise_1", "RVB2014_type1_rir_1")
    }
    responses = ("smallroom/Room001/Room001-00001", "mediumroom/Room001/Room001-00001")
    inside |= {
        f"RIRS_NOISES/simulated_rirs/{name}.wav": clip(form="WAV", seed=31, seconds=0.2)
        for name in responses
    }
    entries = {}
    for root, number, file, data in (
        ("musan", 17, "musan.tar.gz", tar_of(members)),
        ("rirs", 28, "rirs_noises.zip", zip_of(inside)),
    ):
        folder = "musan" if root == "musan" else "RIRS_NOISES"
        fields = {"folder": folder, "md5": hashlib.md5(data).hexdigest()}
        entries[root] = (number, file, fields)
        mirror.files[f"/{number}/{file}"] = data
        monkeypatch.setenv(f"LIBRETTO_ROOT_{root.upper()}", str(house / "data" / root))
    write_archives(entries)
    roles = ("nonspeech-train", "nonspeech-test", "noise")
    corpus({role: listed[role] for role in roles})
    fetch_corpus("small")
    assert sorted(path for path, _ in mirror.requests) == [
        "/17/musan.tar.gz",
        "/28/rirs_noises.zip",
    ]
    write_scans("small")
    accepted: dict[str, list[str]] = {}
    for role in roles:
        run(stage(role))
        accepted |= {
            name: [row.id for row in read_manifest(Path(f"data/corpus/{role}/{name}"))]
            for name in listed[role]
        }
    simulated = accepted.pop("rirs-rooms")
    assert len(simulated) == 2
    assert all(name.startswith("Room001-00001") for name in simulated)  # one name in two folders
    assert accepted == {
        "musan-free": ["noise-free-1"],
        "musan-bible": ["noise-bible-1"],
        "musan-noise": ["noise-free-1"],
        "musan-music": ["music-1"],
        "rirs-noise": ["RVB2014_type1_noise_1"],
    }
    assert [
        row.reason.partition(":")[0] for row in read_rejects(Path("data/corpus/noise/musan-music"))
    ] == ["vocals"]
