"""The catalogue's corpora: every source is typed in its role, and what can be fetched has an
archive.
"""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import yaml

from components.audio.condition import CONDITION_KINDS, Condition
from components.config import catalogue
from components.config.errors import InputError
from components.corpus.fetch.archive import Archive, list_archives
from components.corpus.fetch.installation import required_archives
from components.corpus.scan import list_sources
from components.corpus.source import CorpusSource, FolderSource, build_source, collect_folders
from tests.conftest import REPOSITORY
from tests.errors import refused

LOCAL = {
    "librispeech-excerpt",
    "spoken-conditions",
}  # of folders that nobody publishes in this form


@pytest.fixture(autouse=True)
def root(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(REPOSITORY)
    monkeypatch.delenv("LIBRETTO_OPENSLR", raising=False)
    for name in (
        "LIBRISPEECH",
        "MINI_LIBRISPEECH",
        "MLS",
        "MUSAN",
        "RIRS",
        "DIGITS",
        "NONSPEECH",
        "OOD",
    ):
        monkeypatch.delenv(f"LIBRETTO_ROOT_{name}", raising=False)


def corpora() -> list[str]:
    return re.findall(r"^([a-z0-9-]+):", (REPOSITORY / "catalogue/corpus.yaml").read_text(), re.M)


def build_sources(corpus: str) -> list[tuple[str, CorpusSource]]:
    """Every source of a corpus, in its role; no data is touched."""
    return [
        (name, build_source(name, role, settings))
        for role in catalogue.ROLES
        for name, settings in list_sources(corpus, role).items()
    ]


@pytest.mark.parametrize("corpus", corpora())
def test_a_corpus_has_all_roles_and_its_sources_are_typed(corpus: str) -> None:
    entry = catalogue.raw_entry("corpus", corpus)
    assert list(entry.keys() - {"card"}) and entry.keys() - {"card"} == set(catalogue.ROLES)
    for role in ("train", "dev", "test", "nonspeech-train", "nonspeech-test"):
        assert entry[role], f"{corpus}: nothing in the role {role}"
    assert build_sources(corpus)


@pytest.mark.parametrize("corpus", corpora())
def test_what_a_corpus_reads_can_be_fetched(corpus: str) -> None:
    read = [item for _, origin in build_sources(corpus) for item in collect_folders(origin)]
    archives = required_archives(build_sources(corpus))  # raises where no archive holds a folder
    assert {archive.root for archive in archives} == {root for root, _ in read}
    assert corpus in LOCAL or bool(archives) == (not corpus.startswith(("spoken", "digits")))


def test_the_papers_corpus_is_all_of_librispeech() -> None:
    names = {archive.folder for archive in required_archives(build_sources("librispeech"))}
    assert names == {
        "train-clean-100",
        "train-clean-360",
        "train-other-500",
        "dev-other",
        "test-clean",
        "test-other",
    }
    assert {archive.folder for archive in list_archives("librispeech")} == names | {"dev-clean"}
    assert {archive.folder for archive in required_archives(build_sources("librispeech-100"))} == {
        "train-clean-100",
        "dev-other",
        "test-clean",
        "test-other",
    }


def test_mls_has_eight_languages_singly_and_together() -> None:
    single = [corpus for corpus in corpora() if corpus.startswith("mls-")]
    assert len(single) == 8
    for role in ("train", "dev", "test"):
        sources = {
            name: settings
            for corpus in single
            for name, settings in list_sources(corpus, role).items()
        }
        assert list_sources("mls", role) == sources
        assert len(sources) == 8
        assert {settings["subset"] for settings in sources.values()} == {role}
        assert {f"mls-{settings['language']}-{role}" for settings in sources.values()} == set(
            sources
        )


def all_archives() -> list[Archive]:
    return [archive for name in catalogue.names("archive") for archive in list_archives(name)]


def test_every_archive_has_complete_entries(monkeypatch: pytest.MonkeyPatch) -> None:
    assert len(all_archives()) > 20
    for archive in all_archives():
        assert archive.url.startswith("https://")
        assert archive.url.endswith(f"/{archive.file}")
        assert re.fullmatch(r"[0-9a-f]{32}", archive.entry.md5), archive.catalogue_entry
        assert archive.entry.bytes is None or archive.entry.bytes > 10**8
    digests = [archive.entry.md5 for archive in all_archives()]
    assert all(digests) and len(set(digests)) == len(digests)
    monkeypatch.setenv("LIBRETTO_OPENSLR", "http://mirror/resources")
    assert list_archives("librispeech")[0].url == "http://mirror/resources/12/dev-clean.tar.gz"


def test_where_sizes_and_checksums_are_published_the_archives_have_them() -> None:
    both = [
        archive for name in ("librispeech", "mini-librispeech") for archive in list_archives(name)
    ]
    assert len(both) == 9
    assert all(archive.entry.bytes and archive.entry.md5 for archive in both)
    assert list_archives("musan")[0].entry.md5


def test_musan_is_non_speech_and_noise_and_no_clip_is_on_both_sides() -> None:
    listed = {
        role: list_sources("librispeech-musan", role)
        for role in ("nonspeech-train", "nonspeech-test", "noise")
    }
    folders = {
        role: {folder for settings in sources.values() for folder in settings["folders"]}
        for role, sources in listed.items()
    }
    assert not folders["nonspeech-train"] & folders["nonspeech-test"]
    assert not folders["noise"] & folders["nonspeech-test"]
    assert {item["root"] for item in listed["noise"].values()} == {"musan", "rirs"}
    assert catalogue.names_of_rooms(listed["noise"]) == ["rirs-rooms"]
    assert {archive.file for archive in required_archives(build_sources("librispeech-musan"))} >= {
        "musan.tar.gz",
        "rirs_noises.zip",
    }


CONDITIONS = (
    {("snr_db", value) for value in (20, 15, 10, 5, 0, -5)}
    | {("tempo", value) for value in (0.8, 0.9, 1.1, 1.25)}
    | {("cut", 0.5), ("margin_seconds", 5)}
)


@pytest.mark.parametrize("corpus", ["spoken-conditions", "librispeech-conditions"])
def test_a_corpus_of_conditions_has_a_test_set_for_each_and_one_without(
    corpus: str,
) -> None:
    """A set's name says its condition, and what it changes is the unchanged set or a part of it."""
    listed = list_sources(corpus, "test")
    altered = {name: settings for name, settings in listed.items() if settings["kind"] == "altered"}
    conditions = {
        (key, settings[key])
        for settings in altered.values()
        for key in settings
        if key in CONDITION_KINDS
    }
    assert conditions == CONDITIONS and len(altered) == len(CONDITIONS)
    for name, settings in altered.items():
        change = next(key for key in settings if key in CONDITION_KINDS)
        label = Condition(change, settings[change]).label()
        # fails if the name has another condition
        unaltered_settings = listed[name.removesuffix(f"-{label}")]
        assert {**settings["source"], "utterances": 0} == {**unaltered_settings, "utterances": 0}
        assert settings["source"].get("utterances", 0) <= unaltered_settings.get("utterances", 0)


def test_training_of_the_conditions_is_that_of_the_corpora_that_they_test() -> None:
    for corpus, plain in (
        ("spoken-conditions", "spoken"),
        ("librispeech-conditions", "librispeech-musan"),
    ):
        for role in ("train", "dev", "nonspeech-train", "noise"):
            assert list_sources(corpus, role) == list_sources(plain, role)


def test_noise_of_the_conditions_is_in_no_training() -> None:
    training_folders = {
        folder
        for role in ("nonspeech-train", "noise")
        for item in list_sources("librispeech-conditions", role).values()
        for folder in item["folders"]
    }
    noise = [
        settings["noise"]
        for settings in list_sources("librispeech-conditions", "test").values()
        if "noise" in settings
    ]
    assert len(noise) == 7
    assert not training_folders & {folder for item in noise for folder in item["folders"]}


def test_what_is_inside_an_altered_source_is_fetched_too() -> None:
    musan = {"kind": "clips", "root": "musan", "folders": ["musan/noise/sound-bible"]}
    inner = {"kind": "librispeech", "root": "librispeech", "subsets": ["test-clean"]}
    loud = build_source(
        "loud", "test", {"kind": "altered", "source": inner, "noise": musan, "snr_db": 5}
    )
    assert [archive.file for archive in required_archives([("loud", loud)])] == [
        "test-clean.tar.gz",
        "musan.tar.gz",
    ]


def test_every_archive_is_read_by_some_corpus_or_a_variant_of_it() -> None:
    read = {
        archive.file for corpus in corpora() for archive in required_archives(build_sources(corpus))
    }
    unread = {archive.file for archive in all_archives()} - read
    assert {file for file in unread if not file.endswith("_opus.tar.gz")} == set()
    opus = build_source(
        "pl",
        "dev",
        {"kind": "mls", "root": "mls", "language": "polish", "subset": "dev", "audio": "opus"},
    )
    assert [archive.file for archive in required_archives([("pl", opus)])] == [
        "mls_polish_opus.tar.gz"
    ]


def amounts(corpus: str, role: str) -> tuple[float, int]:
    """Hours and utterances of what the sources of a role read, as published."""
    read = [
        origin.list_folders()
        for name, origin in build_sources(corpus)
        if isinstance(origin, FolderSource) and name in list_sources(corpus, role)
    ]
    published = [
        (archive, folder)
        for root, folders in read
        for folder in folders
        for archive in list_archives(root)
        if folder.split("/")[0] == archive.folder
    ]
    assert len(published) == sum(len(folders) for _, folders in read)
    return sum(archive.hours(folder) or 0 for archive, folder in published), sum(
        archive.utterances(folder) or 0 for archive, folder in published
    )


def test_the_hours_of_a_corpus_are_the_published_ones() -> None:
    """LibriSpeech: its paper, table 1; MLS: arXiv 2012.03411, table 3, and the abstract's 44.5 k
    and 6 k hours.
    """
    assert amounts("librispeech", "train") == (pytest.approx(960.9), 281_241)
    assert amounts("librispeech-100", "train") == (100.6, 28_539)
    assert amounts("mini-librispeech", "train") == (5, 1_519)
    assert amounts("mls-german", "dev") == (14.28, 3_469)
    assert amounts("mls-polish", "test") == (2.14, 520)
    english, every = amounts("mls-english", "train")[0], amounts("mls", "train")[0]
    assert english == pytest.approx(44_659.74)
    assert every - english == pytest.approx(6_027, abs=0.5)


def test_the_amounts_of_an_archive_are_complete_and_match_its_utterances() -> None:
    for archive in all_archives():
        hours, count = archive.entry.hours, archive.entry.utterances
        if archive.root == "rirs":  # rooms are no recordings of an hour's length
            assert hours is None and archive.hours("RIRS_NOISES") is None
            continue
        parts = (
            [archive.folder]
            if not isinstance(hours, dict)
            else [f"{archive.folder}/{part}" for part in hours]
        )
        assert isinstance(hours, dict) == isinstance(count, dict)
        assert (
            not isinstance(hours, dict)
            or not isinstance(count, dict)
            or hours.keys() == count.keys()
        )
        for part in parts:
            seconds = 3600 * (archive.hours(part) or 0) / (archive.utterances(part) or 1)
            assert 5 < seconds < 600, (
                f"{archive.catalogue_entry}, {part}: {seconds:.1f} s an utterance"
            )


def test_an_archive_tells_the_amounts_of_a_folder() -> None:
    musan, german = (
        list_archives("musan")[0],
        next(item for item in list_archives("mls") if item.folder == "mls_german_opus"),
    )
    assert (musan.hours("musan/music"), musan.utterances("musan/music")) == (42, 660)
    assert musan.hours("musan/noise/free-sound") == 6, "of the part that holds it"
    assert (musan.hours("musan"), musan.utterances("musan")) == (108, 2_016)
    assert german.hours("mls_german_opus/train") == 1_966.51
    assert german.hours("mls_german_opus/lm") is None
    assert list_archives("librispeech")[0].hours("dev-clean/84") == 5.4


@pytest.mark.parametrize(
    "amount", [{"hour": 5}, {"hours": "many"}, {"hours": {"train": "many"}}, {"utterances": 5.5}]
)
def test_an_amount_that_is_none_is_refused(
    amount: dict, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    entries = {
        "small": {
            "address": "https://a",
            "openslr": 1,
            "files": {"a.zip": {"folder": "small", **amount}},
        }
    }
    (tmp_path / "catalogue").mkdir()
    (tmp_path / "catalogue/archive.yaml").write_text(yaml.safe_dump(entries))
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InputError, match=r"catalogue/archive\.yaml: small") as caught:
        list_archives("small")
    assert next(iter(amount)) in caught.value.subject


@pytest.mark.parametrize("role", ["train", "dev", "test"])
def test_speech_is_never_cut_by_its_corpus(role: str) -> None:
    """The one limit is train.max_seconds: a source of speech knows no such setting."""
    for corpus in corpora():
        for name, settings in list_sources(corpus, role).items():
            with refused("max_seconds"):
                build_source(name, role, {**settings, "max_seconds": 20})


def test_no_scan_of_a_missing_corpus_is_in_git() -> None:
    scanned = {path.name for path in Path("data/sources").iterdir() if path.is_dir()}
    assert scanned <= set(corpora())
