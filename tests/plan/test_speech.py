"""Hours of a corpus: from its manifests where they are there, else from settings, publishers, or
the sizes of files.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from components.config import catalogue
from components.corpus.manifest import MANIFEST, write_rows
from components.plan.speech import audio_of
from components.runtime.artifact import write_record
from components.text.utterance import Utterance
from tests.conftest import REPOSITORY


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with the catalogue alone."""
    (tmp_path / "catalogue").symlink_to(REPOSITORY / "catalogue")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def hours(corpus: str) -> dict[str, tuple[float, int, str]]:
    return {
        each.source: (round(each.seconds / 3600, 1), each.utterances, each.rests_on)
        for each in audio_of(corpus)
    }


def test_what_publishers_say_of_librispeech(home: Path) -> None:
    found = hours("librispeech")
    assert found["train-960"] == (960.9, 281_241, "publisher")
    assert found["test-clean"][1:] == (2_620, "publisher")
    assert found["test-other"][1:] == (2_939, "publisher")


def test_a_language_of_mls_is_counted_by_subset(home: Path) -> None:
    found = hours("mls")
    assert found["mls-english-train"][0] == pytest.approx(44_659.7)
    assert found["mls-polish-test"][0] == pytest.approx(2.1)
    assert len(found) >= 24


MADE = """
from components.config import catalogue
from components.corpus.source import source
made = source("{name}", "{role}", catalogue.corpus("spoken").sources["{role}"]["{name}"])
rows, _ = made.list_utterances()
print(*made.estimate_size(), sum(row.samples / row.sample_rate for row in rows), len(rows))
"""


@pytest.mark.parametrize(
    ("name", "role"), [("spoken-dev", "dev"), ("synthetic-test", "nonspeech-test")]
)
def test_what_is_made_here_is_told_by_its_settings(name: str, role: str, work: Path) -> None:
    """In a process of its own: speech is made in forks, which bear no threads beside them."""
    script = MADE.format(name=name, role=role)
    done = subprocess.run(
        [sys.executable, "-c", script], cwd=REPOSITORY, capture_output=True, text=True, check=True
    )
    seconds, count, real, found = map(float, done.stdout.split())
    assert count == found
    assert seconds == pytest.approx(real, rel=0.1)


def test_a_manifest_of_the_same_settings_is_exact(home: Path) -> None:
    settings = catalogue.corpus("librispeech").sources["test"]
    rows = [
        Utterance(f"a-{n}", "test", "s", "en", f"{n}.flac", 16_000, 32_000, "text", "0")
        for n in range(5)
    ]
    (home / "data/corpus/test/test-clean").mkdir(parents=True)
    write_rows(home / "data/corpus/test/test-clean" / MANIFEST, Utterance, rows)
    write_record(home / "data/corpus/test", "corpus", parameters=settings, inputs={})
    found = {each.source: each for each in audio_of("librispeech")}
    assert (
        found["test-clean"].seconds,
        found["test-clean"].utterances,
        found["test-clean"].rests_on,
    ) == (10.0, 5, "manifest")
    write_record(
        home / "data/corpus/test",
        "corpus",
        parameters={**settings, "test-clean": {"kind": "other"}},
        inputs={},
    )
    found = {each.source: each for each in audio_of("librispeech")}
    assert found["test-clean"].rests_on == "publisher"


def test_a_folder_of_ones_own_is_told_by_its_scan(home: Path) -> None:
    assert hours("spoken-recorded")["recorded"] == (0.0, 0, "nothing")
    scan = home / "data/sources/spoken-recorded/nonspeech-test/recorded.json"
    scan.parent.mkdir(parents=True)
    scan.write_text(
        json.dumps(
            {"files": [["a.flac", 17_600 * 3600], ["b.WAV", 32_000 * 3600], ["a.trans.txt", 10**9]]}
        )
    )
    assert hours("spoken-recorded")["recorded"] == (2.0, 2, "file sizes")


def test_a_part_of_a_published_set_is_told_by_its_scan(home: Path) -> None:
    scan = home / "data/sources/librispeech/test/test-clean.json"
    scan.parent.mkdir(parents=True)
    scan.write_text(json.dumps({"files": [["test-clean/1.flac", 17_600 * 360]]}))
    assert hours("librispeech")["test-clean"] == (0.1, 1, "file sizes")


def test_a_source_under_a_condition_is_what_its_source_makes_of_it(home: Path) -> None:
    found, whole = hours("librispeech-conditions"), 19_440 / 3600
    for name, factor in {
        "snr-5": 1,
        "tempo-0_8": 1 / 0.8,
        "tempo-1_25": 0.8,
        "cut-0_5": 0.5,
    }.items():
        assert found[f"test-clean-{name}"] == (round(whole * factor, 1), 2_620, "publisher")
    assert found["test-clean-around-5"] == (round(whole + 10 * 2_620 / 3600, 1), 2_620, "publisher")
    seconds = {
        each.source: (each.seconds, each.utterances, each.rests_on)
        for each in audio_of("spoken-conditions")
    }
    assert seconds["spoken-test-snr-0"][1:] == (150, "settings")
    assert seconds["spoken-test-snr-0"][0] == pytest.approx(seconds["spoken-test"][0] * 150 / 400)


def test_the_scan_of_a_source_under_a_condition_tells_what_it_changes(home: Path) -> None:
    scan = home / "data/sources/librispeech-conditions/test/test-clean-cut-0_5.json"
    scan.parent.mkdir(parents=True)
    scan.write_text(json.dumps({"files": [["test-clean/1.flac", 17_600 * 720]]}))
    assert hours("librispeech-conditions")["test-clean-cut-0_5"] == (0.1, 1, "file sizes")
