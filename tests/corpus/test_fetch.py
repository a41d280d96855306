"""From an address to a manifest, and what stops on the way: each with a real file and a real
server.
"""

from __future__ import annotations

import hashlib
import io
import json
import os
import re
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
from components.config.errors import InputError, TransientError
from components.corpus.__main__ import fetch_corpus, scan
from components.corpus.__main__ import work as run
from components.corpus.fetch.archive import archives
from components.corpus.fetch.provision import MARK, provide
from components.corpus.manifest import read_manifest, read_rejects
from components.runtime.stage import Stage
from tests.conftest import REPOSITORY
from tests.corpus.clips import clip, lay_out, put
from tests.corpus.server import Mirror, serving

FETCH = [sys.executable, "-m", "components.corpus", "fetch"]
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
    lay_out(folder / "LibriSpeech", GOOD, "train-clean-5")
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
    told = {"bytes": len(data), "md5": hashlib.md5(data).hexdigest()} if data is not None else {}
    packed = {"holds": "LibriSpeech/train-clean-5", **told, **changed}
    known = {
        "mini": {
            "address": "https://unreachable.invalid/31",
            "openslr": 31,
            "files": {file: packed},
        }
    }
    put(Path("catalogue/archive.yaml"), yaml.safe_dump(known).encode())


def corpus(sources: dict[str, dict]) -> None:
    put(
        Path("catalogue/corpus.yaml"),
        yaml.safe_dump({"small": {role: sources.get(role, {}) for role in ROLES}}).encode(),
    )


def stage(role: str) -> Stage:
    return Stage("corpus", SimpleNamespace(corpus="small"), role)  # type: ignore[arg-type]


def part(root: Path) -> Path:
    return root / ".fetch/train-clean-5.tar.gz.part"


def clean(root: Path) -> bool:
    """Whether nothing of an unfinished unpacking or of a refused archive is left."""
    return not [
        path
        for path in root.rglob("*")
        if path.name.startswith("train-clean-5") and not path.name.endswith(".lock")
    ]


def fetched(root: Path) -> dict[str, str]:
    kept = {path.stem for path in (root / "train-clean-5").rglob("*.flac")}
    return {name: text for name, text in GOOD.items() if name in kept}


def test_from_the_address_to_the_manifest(
    root: Path, mirror: Mirror, capsys: pytest.CaptureFixture
) -> None:
    fetch_corpus("small")
    assert "mini: train-clean-5: fetched and unpacked" in capsys.readouterr().out
    scan("small")
    run(stage("train"))
    kept = read_manifest(Path("data/corpus/train/train-clean-5"))
    assert {row.id: row.text for row in kept} == GOOD
    assert not read_rejects(Path("data/corpus/train/train-clean-5"))
    assert [path for path, _ in mirror.asked] == ["/31/train-clean-5.tar.gz"]
    left = [
        path.name
        for path in root.rglob("*")
        if path.is_file() and path.suffix not in (".flac", ".txt", ".lock")
    ]
    assert left == [MARK]  # neither the archive nor a part of it


def test_a_second_fetch_asks_nothing(
    root: Path, mirror: Mirror, capsys: pytest.CaptureFixture
) -> None:
    fetch_corpus("small")
    mirror.asked.clear()
    capsys.readouterr()
    fetch_corpus("small")
    assert not mirror.asked
    assert capsys.readouterr().out.strip() == "mini: train-clean-5: is there"


def test_only_what_the_sources_of_a_role_read_is_fetched(
    house: Path, mini: bytes, mirror: Mirror, capsys: pytest.CaptureFixture
) -> None:
    corpus({"dev": {"train-clean-5": LIBRI}})
    fetch_corpus("small", "train")
    assert capsys.readouterr().out.strip() == "corpus 'small': nothing to fetch"
    assert not mirror.asked
    fetch_corpus("small", "dev")
    assert len(mirror.asked) == 1


def test_a_cut_connection_goes_on_where_it_stood(root: Path, mini: bytes, mirror: Mirror) -> None:
    mirror.cuts = [1_000, 500]
    fetch_corpus("small")
    assert [asked for _, asked in mirror.asked] == ["", "bytes=1000-", "bytes=1500-"]
    assert fetched(root) == GOOD


def test_a_killed_fetch_goes_on_where_it_stood(root: Path, mirror: Mirror) -> None:
    mirror.cuts, mirror.hold = [2_000], threading.Event()
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
        mirror.hold.set()
    fetch_corpus("small")
    assert [asked for _, asked in mirror.asked] == ["", "bytes=2000-"]
    assert fetched(root) == GOOD


def test_a_whole_part_asks_nothing_and_too_long_a_one_is_fetched_anew(
    root: Path, mini: bytes, mirror: Mirror
) -> None:
    put(part(root), mini)
    fetch_corpus("small")
    assert not mirror.asked
    shutil.rmtree(root)
    put(part(root), mini + b"of another file")
    fetch_corpus("small")
    assert mirror.asked == [("/31/train-clean-5.tar.gz", "")]
    assert fetched(root) == GOOD


def test_half_an_unpacked_folder_is_made_anew(root: Path, mirror: Mirror) -> None:
    put(
        root / ".fetch/train-clean-5.tar.gz.unpacked/LibriSpeech/train-clean-5/9/90/9-90-0000.flac",
        clip(),
    )
    fetch_corpus("small")
    assert not list(root.rglob("9-90-0000.flac"))
    assert fetched(root) == GOOD


def test_two_fetches_at_once_ask_once(root: Path, mirror: Mirror) -> None:
    with ThreadPoolExecutor(2) as pool:
        done = list(pool.map(provide, archives("mini") * 2))
    assert sorted(done) == ["fetched and unpacked", "is there"]
    assert len(mirror.asked) == 1


def test_a_server_without_ranges_is_asked_for_all_of_it(
    root: Path, mini: bytes, mirror: Mirror
) -> None:
    put(part(root), b"x" * 2_000)
    mirror.ranges = False
    fetch_corpus("small")
    assert fetched(root) == GOOD


@pytest.mark.parametrize("lengths", [True, False])
def test_a_size_that_is_not_known_is_the_servers(
    lengths: bool, root: Path, mini: bytes, mirror: Mirror
) -> None:
    entry(md5=hashlib.md5(mini).hexdigest())
    mirror.lengths = lengths
    fetch_corpus("small")
    assert fetched(root) == GOOD


def test_a_server_that_gives_no_length_is_held_to_the_catalogues(
    root: Path, mini: bytes, mirror: Mirror
) -> None:
    mirror.lengths, mirror.cuts = False, [1_000]
    fetch_corpus("small")
    assert len(mirror.asked) == 2
    assert fetched(root) == GOOD


def test_a_download_of_another_size_is_taken_away(root: Path, mini: bytes, mirror: Mirror) -> None:
    put(
        root / ".fetch/train-clean-5.tar.gz", mini[:1_000]
    )  # whole by an older entry of the catalogue
    with pytest.raises(
        InputError, match=rf"has 1,000 bytes where {len(mini):,} are expected.*It was taken away"
    ):
        fetch_corpus("small")
    fetch_corpus("small")
    assert fetched(root) == GOOD


def test_a_whole_part_of_unknown_size_is_not_fetched_again(
    root: Path, mini: bytes, mirror: Mirror
) -> None:
    entry(md5=hashlib.md5(mini).hexdigest())
    put(part(root), mini)
    fetch_corpus("small")
    assert [asked for _, asked in mirror.asked] == [f"bytes={len(mini)}-"]
    assert fetched(root) == GOOD


def test_a_connection_that_brings_nothing_stops_and_keeps_what_is_there(
    root: Path, mirror: Mirror
) -> None:
    mirror.cuts = [1_000, 0]
    with pytest.raises(
        TransientError,
        match=r"mini, train-clean-5\.tar\.gz.*bytes early; 1,000 bytes are kept.*Fetch again",
    ):
        fetch_corpus("small")
    assert part(root).stat().st_size == 1_000
    fetch_corpus("small")
    assert mirror.asked[-1][1] == "bytes=1000-"


def test_a_server_in_trouble_may_recover(root: Path, mirror: Mirror) -> None:
    mirror.status = 503
    with pytest.raises(TransientError, match="answers 503"):
        fetch_corpus("small")


@pytest.mark.parametrize("status", [404, 403, 410])
def test_a_file_that_is_not_there_names_entry_and_way_out(
    status: int, root: Path, mirror: Mirror
) -> None:
    mirror.status = status
    with pytest.raises(InputError) as stopped:
        fetch_corpus("small")
    for word in (
        "catalogue/archive.yaml: mini, train-clean-5.tar.gz",
        f"{mirror.address}/31/train-clean-5.tar.gz answers {status}",
        "LIBRETTO_OPENSLR",
        "by hand",
    ):
        assert word in str(stopped.value)


def closed() -> str:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return f"http://127.0.0.1:{free.getsockname()[1]}"


@pytest.mark.parametrize("address", ["closed", "http://no-such-host.invalid"])
def test_without_a_network_it_stops_with_the_way_out(
    address: str, house: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LIBRETTO_OPENSLR", closed() if address == "closed" else address)
    with pytest.raises(TransientError, match=r"no connection.*LIBRETTO_OPENSLR") as stopped:
        fetch_corpus("small")
    assert stopped.value.exit_code == 75


def test_a_server_that_falls_silent_is_left(
    house: Path, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("components.corpus.fetch.download.TIMEOUT", 0.3)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        monkeypatch.setenv("LIBRETTO_OPENSLR", f"http://127.0.0.1:{silent.getsockname()[1]}")
        with pytest.raises(TransientError, match="timed out"):
            fetch_corpus("small")


def test_a_wrong_checksum_is_refused_and_taken_away(
    root: Path, mini: bytes, mirror: Mirror
) -> None:
    mirror.files["/31/train-clean-5.tar.gz"] = mini[:-1] + bytes([mini[-1] ^ 1])
    with pytest.raises(InputError) as stopped:
        fetch_corpus("small")
    for word in (
        "mini, train-clean-5.tar.gz",
        "wrong checksum",
        hashlib.md5(mini).hexdigest(),
        "It was taken away",
        "LIBRETTO_OPENSLR",
    ):
        assert word in str(stopped.value)
    assert clean(root)


def test_another_size_is_refused_before_it_is_fetched(
    root: Path, mini: bytes, mirror: Mirror
) -> None:
    mirror.files["/31/train-clean-5.tar.gz"] = mini + b"more"
    with pytest.raises(
        InputError, match=rf"offers {len(mini) + 4:,} bytes where the entry says {len(mini):,}"
    ):
        fetch_corpus("small")
    assert clean(root)


def test_an_archive_without_a_checksum_is_not_used_until_it_is_entered(
    root: Path, mini: bytes, mirror: Mirror
) -> None:
    entry()
    with pytest.raises(InputError, match=r"no checksum is given.*enter 'md5: \w+'") as stopped:
        fetch_corpus("small")
    assert not (root / "train-clean-5").exists()
    told = re.search(r"enter 'md5: (\w+)'", str(stopped.value))
    assert told and told[1] == hashlib.md5(mini).hexdigest()
    entry(md5=told[1])
    fetch_corpus("small")
    assert fetched(root) == GOOD
    assert len(mirror.asked) == 1  # the file was kept


@pytest.mark.parametrize("form", ["w:gz", "w", "w:xz"])
def test_an_archive_put_there_by_hand_is_checked_and_unpacked(
    form: str, root: Path, mirror: Mirror, tmp_path: Path
) -> None:
    lay_out(tmp_path / "made/LibriSpeech", GOOD, "train-clean-5")
    data = tar_of(folder_of(tmp_path / "made"), form)
    entry(data)
    file = put(root / "train-clean-5.tar.gz", data)
    fetch_corpus("small")
    assert not mirror.asked
    assert fetched(root) == GOOD
    assert file.read_bytes() == data


def test_half_an_archive_put_there_by_hand_is_refused_and_kept(
    root: Path, mini: bytes, mirror: Mirror
) -> None:
    file = put(root / "train-clean-5.tar.gz", mini[: len(mini) // 2])
    with pytest.raises(
        InputError,
        match=rf"has {len(mini) // 2:,} bytes where {len(mini):,} are expected.*Take it away",
    ):
        fetch_corpus("small")
    entry(mini, md5="")
    with pytest.raises(InputError, match="half of it, or another file"):
        fetch_corpus("small")
    entry(md5=hashlib.md5(mini).hexdigest())
    with pytest.raises(InputError, match=r"wrong checksum.*Take it away"):
        fetch_corpus("small")
    assert file.is_file()
    assert not mirror.asked


@pytest.mark.parametrize("cut", [0.1, 0.5, 0.99])
def test_a_broken_archive_leaves_nothing(
    cut: float, root: Path, mini: bytes, mirror: Mirror
) -> None:
    broken = mini[: int(len(mini) * cut)]
    mirror.files["/31/train-clean-5.tar.gz"] = broken
    entry(broken)
    with pytest.raises(InputError, match=r"mini, train-clean-5\.tar\.gz: not a whole tar or zip"):
        fetch_corpus("small")
    assert not (root / "train-clean-5").exists()
    assert not (root / ".fetch/train-clean-5.tar.gz.unpacked").exists()


GOOD_FILE = {"LibriSpeech/train-clean-5/good": b"good"}
UNSAFE = {
    "above": tar_of({**GOOD_FILE, "../evil": b"evil"}),
    "above from within": tar_of({**GOOD_FILE, "LibriSpeech/../../evil": b"evil"}),
    "absolute": tar_of({**GOOD_FILE, "/tmp/libretto-evil": b"evil"}),
    "a symbolic link": tar_with(linked("LibriSpeech/train-clean-5/evil", "/etc/passwd")),
    "a link within": tar_with(linked("LibriSpeech/train-clean-5/evil", "good")),
    "a folder that is a link": tar_with(linked("LibriSpeech/train-clean-5/out", "../../..")),
    "a hard link": tar_with(
        linked("LibriSpeech/train-clean-5/evil", "../../../secret", tarfile.LNKTYPE)
    ),
    "a device": tar_with(linked("LibriSpeech/train-clean-5/evil", "", tarfile.CHRTYPE)),
    "a pipe": tar_with(linked("LibriSpeech/train-clean-5/evil", "", tarfile.FIFOTYPE)),
}


@pytest.mark.parametrize("what", UNSAFE)
def test_an_unsafe_archive_is_refused_whole(what: str, root: Path, mirror: Mirror) -> None:
    mirror.files["/31/train-clean-5.tar.gz"] = UNSAFE[what]
    entry(UNSAFE[what])
    with pytest.raises(
        InputError,
        match=(
            r"mini, train-clean-5\.tar\.gz: the archive is refused: its member .*(leads "
            r"out|link or a device)"
        ),
    ):
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
    ("data", "says"),
    [
        (zip_of({**GOOD_FILE, "../evil": b"evil"}), "'../evil' leads out"),
        (
            zip_of({**GOOD_FILE, "LibriSpeech/evil": b"/etc/passwd"}, evil=0o120777),
            "'LibriSpeech/evil' is a link",
        ),
        (zip_of(GOOD_FILE)[:-30], "not a whole tar or zip"),
        (zip_of({"other/file": b"x"}), "holds no folder 'LibriSpeech/train-clean-5', but other"),
    ],
)
def test_a_zip_is_held_to_the_same(data: bytes, says: str, root: Path, mirror: Mirror) -> None:
    mirror.files["/31/train-clean-5.zip"] = data
    entry(data, "train-clean-5.zip")
    with pytest.raises(InputError, match=re.escape(says)):
        fetch_corpus("small")
    assert not (root / "train-clean-5").exists()
    assert not list(root.parent.parent.rglob("evil"))


def test_a_zip_is_unpacked(root: Path, mirror: Mirror, tmp_path: Path) -> None:
    lay_out(tmp_path / "made/LibriSpeech", GOOD, "train-clean-5")
    data = zip_of(folder_of(tmp_path / "made"))
    mirror.files["/31/train-clean-5.zip"] = data
    entry(data, "train-clean-5.zip")
    fetch_corpus("small")
    assert fetched(root) == GOOD


def test_a_disk_without_room_stops_before_anything_is_asked(root: Path, mirror: Mirror) -> None:
    entry(bytes=10**16, md5="0" * 32)
    with pytest.raises(
        InputError,
        match=(
            r"disk of the data root is full: 20,000,000,000,000,000 bytes are needed, [\d,]+ "
            r"are free.*Make room"
        ),
    ):
        fetch_corpus("small")
    assert not mirror.asked


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
def test_a_disk_that_fills_up_stops_the_download(root: Path, mirror: Mirror) -> None:
    part(root).parent.mkdir(parents=True)
    part(root).symlink_to("/dev/full")
    with pytest.raises(
        InputError, match=r"writing stopped: No space left on device.*[\d,]+ free.*Make room"
    ):
        fetch_corpus("small")


def test_an_archive_that_unpacks_to_more_than_there_is_room_for_stops(
    root: Path, mirror: Mirror
) -> None:
    huge = tarfile.TarInfo("LibriSpeech/train-clean-5/huge")
    huge.size = 10**16
    data = huge.tobuf(tarfile.GNU_FORMAT) + bytes(1_024)
    mirror.files["/31/train-clean-5.tar.gz"] = data
    entry(data)
    with pytest.raises(InputError, match="is full: 10,000,000,000,000,000 bytes are needed"):
        fetch_corpus("small")
    assert not (root / "train-clean-5").exists()


def test_a_data_root_that_cannot_be_written_stops(
    root: Path, mirror: Mirror, monkeypatch: pytest.MonkeyPatch
) -> None:
    put(root / ".fetch", b"a file stands in the way")
    with pytest.raises(InputError, match="nothing can be written to the data root"):
        fetch_corpus("small")
    monkeypatch.setenv("LIBRETTO_ROOT_MINI", str(root / ".fetch" / "below a file"))
    with pytest.raises(
        InputError, match=r"LIBRETTO_ROOT_MINI=.* is not an absolute path of a folder"
    ):
        fetch_corpus("small")
    assert not mirror.asked


def test_a_folder_from_elsewhere_is_taken_as_it_is(
    root: Path, mirror: Mirror, capsys: pytest.CaptureFixture
) -> None:
    lay_out(root, {"9-90-0000": "MINE"}, "train-clean-5")
    fetch_corpus("small")
    assert not mirror.asked
    assert "is there, from elsewhere: taken as it is" in capsys.readouterr().out
    scan("small")
    run(stage("train"))
    assert [row.text for row in read_manifest(Path("data/corpus/train/train-clean-5"))] == ["MINE"]


def test_a_folder_of_another_archive_is_named(root: Path, mini: bytes, mirror: Mirror) -> None:
    fetch_corpus("small")
    entry(mini, md5="0" * 32)
    with pytest.raises(
        InputError,
        match=(
            rf"unpacked from an archive with MD5 {hashlib.md5(mini).hexdigest()}.*Move the "
            r"folder away"
        ),
    ):
        fetch_corpus("small")


def test_a_folder_that_no_archive_holds_is_named(house: Path, root: Path) -> None:
    corpus({"train": {"own": {**LIBRI, "subsets": ["train-clean-6"]}}})
    root.mkdir(parents=True)
    with pytest.raises(
        InputError,
        match=(
            r"source 'own': no archive .*holds the folder 'train-clean-6'.*Did you mean "
            r"'train-clean-5'"
        ),
    ):
        fetch_corpus("small")
    lay_out(root, {"9-90-0000": "MINE"}, "train-clean-6")
    fetch_corpus("small")  # it was put there by hand


def test_an_address_without_a_mirror_is_the_publishers(
    house: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("LIBRETTO_OPENSLR")
    assert archives("mini")[0].url == "https://unreachable.invalid/31/train-clean-5.tar.gz"
    assert archives("digits") == []


def test_a_folder_says_what_it_was_unpacked_from(root: Path, mini: bytes) -> None:
    assert provide(archives("mini")[0]) == "fetched and unpacked"
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
    mirror.files["/31/train-clean-5.tar.gz"] = UNSAFE["above"]
    entry(UNSAFE["above"])


def full_disk(root: Path, mini: bytes, mirror: Mirror) -> None:
    put(root / "README", b"a data root that is there")
    (root / ".fetch").mkdir()
    part(root).symlink_to("/dev/full")


def huge(root: Path, mini: bytes, mirror: Mirror) -> None:
    entry(bytes=10**16, md5="0" * 32)


@pytest.mark.parametrize(
    ("spoil", "says", "hint"),
    [
        (
            bad_checksum,
            "wrong checksum: MD5 ",
            "It was taken away: fetch again. Set LIBRETTO_OPENSLR",
        ),
        (half_by_hand, "half of it, or another file", "Take it away: fetch again."),
        (half_published, "not a whole tar or zip", "Set LIBRETTO_OPENSLR"),
        (
            leading_out,
            "the archive is refused: its member '../evil' leads out of the folder",
            "Nothing of it was kept.",
        ),
        (
            full_disk,
            "writing stopped: No space left on device",
            "Make room and fetch again: it goes on from there.",
        ),
        (
            huge,
            "the disk of the data root is full",
            "Make room, or move the data root 'mini' to a larger disk.",
        ),
    ],
)
def test_the_command_names_the_entry_and_the_way_out(
    spoil: Callable[[Path, bytes, Mirror], None],
    says: str,
    hint: str,
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
    said = failed.stderr.strip().splitlines()[-1]
    assert said.startswith("corpus fetch: catalogue/archive.yaml: mini, train-clean-5.tar.gz: ")
    assert says in said and hint in said
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
    packed = {"holds": base, "bytes": len(data), "md5": hashlib.md5(data).hexdigest()}
    known = {
        "mls": {
            "address": "https://unreachable.invalid",
            "openslr": 94,
            "files": {"mls_polish.tar.gz": packed},
        }
    }
    put(Path("catalogue/archive.yaml"), yaml.safe_dump(known).encode())
    listed = {
        subset: {
            f"pl-{subset}": {"kind": "mls", "root": "mls", "language": "polish", "subset": subset}
        }
        for subset in texts
    }
    corpus(listed)
    monkeypatch.setenv("LIBRETTO_ROOT_MLS", str(house / "data/mls"))
    fetch_corpus("small")
    assert len(mirror.asked) == 1  # three sources, one archive
    scan("small")
    for subset, text in texts.items():
        run(stage(subset))
        kept = read_manifest(Path(f"data/corpus/{subset}/pl-{subset}"))
        assert {row.id: row.text for row in kept} == dict(
            line.split("\t") for line in text.splitlines()
        )
        assert {row.language for row in kept} == {"pl"}


def test_musan_and_rooms_from_the_address_to_the_manifest(
    house: Path, mirror: Mirror, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A tar and a zip, by the sources of the catalogue's own corpus; music with vocals is kept out
    of the noise.
    """
    listed = yaml.safe_load((REPOSITORY / "catalogue/corpus.yaml").read_text())["librispeech-musan"]
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
    known = {}
    for root, number, file, data in (
        ("musan", 17, "musan.tar.gz", tar_of(members)),
        ("rirs", 28, "rirs_noises.zip", zip_of(inside)),
    ):
        packed = {
            "holds": root if root == "musan" else "RIRS_NOISES",
            "md5": hashlib.md5(data).hexdigest(),
        }
        known[root] = {
            "address": "https://unreachable.invalid",
            "openslr": number,
            "files": {file: packed},
        }
        mirror.files[f"/{number}/{file}"] = data
        monkeypatch.setenv(f"LIBRETTO_ROOT_{root.upper()}", str(house / "data" / root))
    put(Path("catalogue/archive.yaml"), yaml.safe_dump(known).encode())
    roles = ("nonspeech-train", "nonspeech-test", "noise")
    corpus({role: listed[role] for role in roles})
    fetch_corpus("small")
    assert sorted(path for path, _ in mirror.asked) == ["/17/musan.tar.gz", "/28/rirs_noises.zip"]
    scan("small")
    kept: dict[str, list[str]] = {}
    for role in roles:
        run(stage(role))
        kept |= {
            name: [row.id for row in read_manifest(Path(f"data/corpus/{role}/{name}"))]
            for name in listed[role]
        }
    simulated = kept.pop("rirs-rooms")
    assert len(simulated) == 2
    assert all(name.startswith("Room001-00001") for name in simulated)  # one name in two folders
    assert kept == {
        "musan-free": ["noise-free-1"],
        "musan-bible": ["noise-bible-1"],
        "musan-noise": ["noise-free-1"],
        "musan-music": ["music-1"],
        "rirs-noise": ["RVB2014_type1_noise_1"],
    }
    assert [
        row.reason.partition(":")[0] for row in read_rejects(Path("data/corpus/noise/musan-music"))
    ] == ["vocals"]
