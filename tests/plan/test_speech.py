"""Hours of a corpus: from its manifests where they exist, else from settings, publishers, or
the sizes of files.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from components.config import catalogue
from components.corpus.manifest import MANIFEST, write_rows
from components.plan.speech import list_audio
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
    """Hours, utterances and their basis, by source."""
    return {
        amount.source: (round(amount.seconds / 3600, 1), amount.num_utterances, amount.basis)
        for amount in list_audio(corpus)
    }


def write_scan(path: Path, files: list[list[Any]]) -> None:
    path.parent.mkdir(parents=True)
    path.write_text(json.dumps({"files": files}))


def test_librispeech_is_as_published(home: Path) -> None:
    amounts = hours("librispeech")
    assert amounts["train-960"] == (960.9, 281_241, "publisher")
    assert amounts["test-clean"][1:] == (2_620, "publisher")
    assert amounts["test-other"][1:] == (2_939, "publisher")


def test_a_language_of_mls_is_counted_by_subset(home: Path) -> None:
    amounts = hours("mls")
    assert amounts["mls-english-train"][0] == pytest.approx(44_659.7)
    assert amounts["mls-polish-test"][0] == pytest.approx(2.1)
    assert len(amounts) >= 24


GENERATED = """
from components.config import catalogue
from components.corpus.source import build_source
source = build_source("{name}", "{role}", catalogue.corpus("spoken").sources["{role}"]["{name}"])
utterances, _ = source.list_utterances()
seconds = sum(utterance.duration_s for utterance in utterances)
print(*source.estimate_size(), seconds, len(utterances))
"""


@pytest.mark.parametrize(
    ("name", "role"), [("spoken-dev", "dev"), ("synthetic-test", "nonspeech-test")]
)
def test_a_generated_source_is_as_its_settings(name: str, role: str, work: Path) -> None:
    """In a process of its own: speech is generated in forks, which must have no threads."""
    script = GENERATED.format(name=name, role=role)
    done = subprocess.run(
        [sys.executable, "-c", script], cwd=REPOSITORY, capture_output=True, text=True, check=True
    )
    estimated_s, num_estimated, seconds, num_utterances = map(float, done.stdout.split())
    assert num_estimated == num_utterances
    assert estimated_s == pytest.approx(seconds, rel=0.1)


def test_a_manifest_of_the_same_settings_is_exact(home: Path) -> None:
    settings = catalogue.corpus("librispeech").sources["test"]
    utterances = [
        Utterance(f"a-{n}", "test", "s", "en", f"{n}.flac", 16_000, 32_000, "text", "0")
        for n in range(5)
    ]
    folder = home / "data/corpus/test"
    (folder / "test-clean").mkdir(parents=True)
    write_rows(folder / "test-clean" / MANIFEST, Utterance, utterances)
    write_record(folder, "corpus", parameters=settings, inputs={})
    [amount] = [item for item in list_audio("librispeech") if item.source == "test-clean"]
    assert (amount.seconds, amount.num_utterances, amount.basis) == (10.0, 5, "manifest")
    changed = {**settings, "test-clean": {"kind": "other"}}
    write_record(folder, "corpus", parameters=changed, inputs={})
    assert hours("librispeech")["test-clean"][2] == "publisher"


def test_a_folder_of_ones_own_is_counted_by_its_scan(home: Path) -> None:
    assert hours("spoken-recorded")["recorded"] == (0.0, 0, "nothing")
    write_scan(
        home / "data/sources/spoken-recorded/nonspeech-test/recorded.json",
        [["a.flac", 17_600 * 3600], ["b.WAV", 32_000 * 3600], ["a.trans.txt", 10**9]],
    )
    assert hours("spoken-recorded")["recorded"] == (2.0, 2, "file sizes")


def test_a_part_of_a_published_set_is_counted_by_its_scan(home: Path) -> None:
    scan = home / "data/sources/librispeech/test/test-clean.json"
    write_scan(scan, [["test-clean/1.flac", 17_600 * 360]])
    assert hours("librispeech")["test-clean"] == (0.1, 1, "file sizes")


def test_a_source_under_a_condition_follows_from_the_source_it_changes(home: Path) -> None:
    amounts, clean_h = hours("librispeech-conditions"), 19_440 / 3600
    for name, factor in {
        "snr-5": 1,
        "tempo-0_8": 1 / 0.8,
        "tempo-1_25": 0.8,
        "cut-0_5": 0.5,
    }.items():
        assert amounts[f"test-clean-{name}"] == (round(clean_h * factor, 1), 2_620, "publisher")
    padded_h = round(clean_h + 10 * 2_620 / 3600, 1)
    assert amounts["test-clean-around-5"] == (padded_h, 2_620, "publisher")
    embedded = {amount.source: amount for amount in list_audio("spoken-conditions")}
    noisy, clean = embedded["spoken-test-snr-0"], embedded["spoken-test"]
    assert (noisy.num_utterances, noisy.basis) == (150, "settings")
    assert noisy.seconds == pytest.approx(clean.seconds * 150 / 400)


def test_the_scan_of_a_source_under_a_condition_lists_the_files_it_changes(home: Path) -> None:
    scan = home / "data/sources/librispeech-conditions/test/test-clean-cut-0_5.json"
    write_scan(scan, [["test-clean/1.flac", 17_600 * 720]])
    assert hours("librispeech-conditions")["test-clean-cut-0_5"] == (0.1, 1, "file sizes")
