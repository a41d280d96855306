"""Whatever is in a file of a corpus, it is read or refused with a reason, and nothing else."""

from __future__ import annotations

import gzip
import io
import tarfile
from pathlib import Path

import numpy as np
import pytest
import soundfile
import yaml

from components.audio.sound import BrokenSound, decode_file, read_duration_s, read_stored
from components.config import catalogue
from components.config.errors import InputError
from components.config.params import read_params
from components.corpus.fetch.archive import Archive, ArchiveEntry
from components.corpus.fetch.extraction import extract
from components.corpus.inspection import inspect_bytes
from components.corpus.sources.table import TableSource
from components.corpus.sources.webdataset import WebdatasetSettings
from components.corpus.tar_listing import list_tar
from components.score.systems import read_texts
from tests.conftest import REPOSITORY
from tests.corpus.clips import clip
from tests.corpus.test_fetch import tar_of
from tests.errors import refused
from tests.mutations import mutated_files

ARCHIVE = Archive("mini", "a.tar.gz", "", ArchiveEntry("speech"))
FIELDS = WebdatasetSettings("webdataset", "tars", []).fields()
MEMBERS = {"speech/a.flac": clip(seconds=0.1), "speech/a.txt": b"one two", "speech/a.json": b"{}"}


# The one format of two files: libsndfile writes the second one, "._", into the current folder, and
# takes it for the header of any other sound that it reads from memory there.
SOUND_DESIGNER = "SD2"


def sounds() -> dict[str, bytes]:
    """A file of each format and coding that libsndfile writes into one file."""
    samples, files = 0.1 * np.random.default_rng(0).uniform(-1, 1, 1600), {}
    for form in sorted(soundfile.available_formats().keys() - {SOUND_DESIGNER}):
        for coding in soundfile.available_subtypes(form):
            for rate in (16_000, 8_000):
                stream = io.BytesIO()
                try:
                    soundfile.write(stream, samples, rate, format=form, subtype=coding)
                except (soundfile.LibsndfileError, ValueError):  # none for this rate, or at all
                    continue
                files[f"{form} {coding}"] = stream.getvalue()
                break
    return files


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # of a callback
def test_mutated_sounds_are_read_or_refused() -> None:
    files = sounds()
    assert len(files) > 50
    for _, data in mutated_files(files, 700):
        file = inspect_bytes(data)
        assert file.fault or file.samples
        for read in (decode_file, read_stored, read_duration_s):
            try:
                read(data)
            except BrokenSound as error:
                assert str(error)


def test_mutated_tars_are_listed_or_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.tar"
    for _, data in mutated_files({"tar": tar_of(MEMBERS, "w")}, 100):
        path.write_bytes(data)
        try:
            list_tar(path, FIELDS)
        except InputError as error:
            assert str(path) in str(error)


def test_mutated_archives_are_unpacked_or_refused(tmp_path: Path) -> None:
    packed = tmp_path / "a.tar.gz"
    plain = tar_of(MEMBERS, "w")
    files = {mode: tar_of(MEMBERS, f"w:{mode}") for mode in ("gz", "bz2", "xz")}
    for number, (_, data) in enumerate(mutated_files({**files, "tar": plain}, 200)):
        packed.write_bytes(data)
        folder = tmp_path / str(number)
        folder.mkdir()
        try:
            assert extract(ARCHIVE, packed, folder).is_dir()
        except InputError as error:
            assert error.subject == ARCHIVE.file


@pytest.mark.parametrize("kind", [tarfile.XHDTYPE, tarfile.GNUTYPE_LONGNAME])
def test_a_header_that_claims_gigabytes_is_refused(kind: bytes, tmp_path: Path) -> None:
    info = tarfile.TarInfo("speech")
    info.type, info.size = kind, 6 * 10**9
    packed = tmp_path / "a.tar.gz"
    with gzip.open(packed, "wb", compresslevel=1) as stream:
        stream.write(info.tobuf(tarfile.GNU_FORMAT))
        stream.write(b"\0" * 10**6)
    with refused(ARCHIVE.file, "6,000,000,000"):
        extract(ARCHIVE, packed, tmp_path)


def test_mutated_texts_are_read_or_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LIBRETTO_ROOT_CALLS", str(tmp_path))
    table = b"path\ttext\tspeaker\na.wav\tone two\tann\nb.wav\tdrei vier\tbob\n"
    settings = {"kind": "table", "root": "calls", "table": "rows.tsv"}
    for _, data in mutated_files({"table": table}, 300):
        (tmp_path / "rows.tsv").write_bytes(data)
        for read in (
            lambda: TableSource("calls", "test", settings).scan(),
            lambda: read_texts(tmp_path / "rows.tsv"),
        ):
            try:
                read()
            except InputError as error:
                assert error.hint


def test_mutated_settings_are_read_or_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("catalogue").mkdir()
    corpus = yaml.safe_load((REPOSITORY / "catalogue/corpus.yaml").read_text())["spoken-smoke"]
    files = {
        "corpus": yaml.safe_dump({"spoken": corpus}).encode(),
        "params": (REPOSITORY / "params.yaml").read_bytes()[:6_000],
    }
    for name, data in mutated_files(files, 300):
        path = Path("params.yaml" if name == "params" else "catalogue/corpus.yaml")
        path.write_bytes(data)
        try:
            if name == "params":
                read_params()
            else:
                catalogue.corpus("spoken")
        except InputError as error:
            assert str(error)
