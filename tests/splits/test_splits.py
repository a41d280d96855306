"""Training and test share nothing, and the proof does not change with a new test source."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
import yaml

from components.corpus.manifest import MANIFEST, altered_path, write_rows
from components.runtime.artifact import RECORD, write_record
from components.runtime.hashing import folder_digests
from components.runtime.stage import Stage
from components.splits.__main__ import CHECKED_ROLES
from components.splits.__main__ import work as run
from components.text.utterance import Utterance
from tests.conftest import REPOSITORY
from tests.errors import refused

STAGE = Stage("splits", SimpleNamespace(corpus="small"), "")  # type: ignore[arg-type]


@pytest.fixture(autouse=True)
def house(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Manifests of all roles that share nothing."""
    monkeypatch.chdir(tmp_path)
    for role in CHECKED_ROLES:
        speaker = "" if role.startswith("nonspeech") else f"{role}-speaker"
        write_source(
            role,
            "main",
            [(f"{role}-{number}", speaker, f"{role} sound {number}") for number in range(5)],
        )
    return tmp_path


def write_source(
    role: str, source: str, rows: list[tuple[str, str, str]], copied: dict[str, str] | None = None
) -> None:
    """A manifest of (id, speaker, digest of the audio), and the role's record. With ``copied``
    (digest of the original by id) the source is one of altered copies, whose ids end in ``-loud``.
    """
    folder = Path("data/corpus") / role
    (folder / source).mkdir(parents=True, exist_ok=True)
    utterances = [
        Utterance(name, role, speaker, "en", f"{name}.flac", 16_000, 1_600, "", digest)
        for name, speaker, digest in rows
    ]
    if copied:
        originals = {
            row.id: replace(row, id=row.id.removesuffix("-loud"), sha256=copied[row.id])
            for row in utterances
        }
        utterances = [
            replace(row, path=f"unit/{altered_path(originals[row.id])}") for row in utterances
        ]
    write_rows(folder / source / MANIFEST, Utterance, utterances)
    parameters = {path.parent.name: {"kind": "plain"} for path in folder.glob(f"*/{MANIFEST}")}
    before = (
        json.loads((folder / RECORD).read_text())["parameters"]
        if (folder / RECORD).is_file()
        else {}
    )
    kind = {source: {"kind": "altered" if copied else "plain"}}
    write_record(folder, "corpus", parameters={**parameters, **before, **kind}, inputs={})


def test_roles_that_share_nothing_pass() -> None:
    run(STAGE)
    assert list(folder_digests(Path("data/splits"))) == ["inputs.json"]


def test_a_new_test_source_changes_nothing_in_the_result() -> None:
    run(STAGE)
    before = folder_digests(Path("data/splits"))
    write_source("test", "more", [("new-1", "stranger", "new sound")])
    run(STAGE)
    assert folder_digests(Path("data/splits")) == before


@pytest.mark.parametrize(
    ("one", "other"),
    [("train", "test"), ("train", "dev"), ("dev", "test"), ("nonspeech-train", "nonspeech-test")],
)
def test_an_id_in_two_roles_stops(one: str, other: str) -> None:
    write_source(other, "more", [(f"{one}-3", "stranger", "another sound")])
    with refused(f"{one}, {other}", f"ids in {one}", f"1: {one}-3 ({one}/main, {other}/more)"):
        run(STAGE)
    assert not list(Path("data/splits").iterdir())


@pytest.mark.parametrize(
    ("one", "other"), [("train", "test"), ("nonspeech-train", "nonspeech-test")]
)
def test_the_same_recording_under_two_names_stops(one: str, other: str) -> None:
    write_source(other, "more", [("renamed", "", f"{one} sound 2")])
    with refused(f"{one}, {other}", "recordings", f"1: {one} sound 2", f"{other}/more"):
        run(STAGE)


def test_a_speaker_in_training_and_test_stops() -> None:
    write_source(
        "test",
        "more",
        [(f"other-{number}", f"speaker-{number}", f"sound {number}") for number in range(9)],
    )
    write_source(
        "train",
        "more",
        [
            (f"train-more-{number}", f"speaker-{number}", f"my sound {number}")
            for number in range(9)
        ],
    )
    example = "9: speaker-0 (train/more, test/more); "
    with refused("train, test", "speakers", example, "…", "speaker_prefix"):
        run(STAGE)


def test_changed_copies_beside_what_they_were_made_from_pass(
    caplog: pytest.LogCaptureFixture,
) -> None:
    run(STAGE)
    before = folder_digests(Path("data/splits"))
    digests = {f"test-{number}-loud": f"test sound {number}" for number in range(5)}
    write_source(
        "test", "loud", [(name, "test-speaker", f"loud {name}") for name in digests], digests
    )
    caplog.set_level("INFO")
    run(STAGE)
    assert folder_digests(Path("data/splits")) == before
    assert "10 test" in caplog.text, "a copy is one utterance, not two"


@pytest.mark.parametrize(
    ("one", "other"), [("train", "test"), ("dev", "test"), ("nonspeech-train", "nonspeech-test")]
)
def test_a_changed_copy_of_a_recording_on_the_other_side_stops(one: str, other: str) -> None:
    """Neither its own id nor its own digest is there."""
    write_source(
        other, "loud", [(f"{one}-3-loud", "", "loud sound")], {f"{one}-3-loud": "whatever"}
    )
    locations = f"{one}-3 ({one}/main, {other}/loud, unaltered)"
    with refused(f"{one}, {other}", "ids", locations):
        run(STAGE)


def test_a_changed_copy_of_a_renamed_recording_stops() -> None:
    write_source(
        "test", "loud", [("renamed-loud", "", "loud sound")], {"renamed-loud": "train sound 2"}
    )
    locations = "train sound 2 (train/main, test/loud, unaltered)"
    with refused("train, test", "recordings", locations):
        run(STAGE)


def test_changed_copies_of_one_recording_on_both_sides_stop() -> None:
    write_source("train", "loud", [("new-loud", "", "loud sound")], {"new-loud": "new sound"})
    write_source("test", "slow", [("new-slow", "", "slow sound")], {"new-slow": "new sound"})
    with refused("train, test", "new sound (train/loud, unaltered, test/slow, unaltered)"):
        run(STAGE)


def test_the_speaker_of_a_changed_copy_is_the_speaker() -> None:
    write_source(
        "test", "loud", [("a-loud", "train-speaker", "loud sound")], {"a-loud": "new sound"}
    )
    with refused("train, test", "speakers", "1: train-speaker"):
        run(STAGE)


def test_speakers_without_a_name_are_nobody() -> None:
    write_source("train", "more", [("a", "", "sound a")])
    write_source("test", "more", [("b", "", "sound b")])
    run(STAGE)


def test_a_speaker_in_train_and_dev_is_only_noted(caplog: pytest.LogCaptureFixture) -> None:
    write_source("dev", "more", [("a", "train-speaker", "sound a")])
    caplog.set_level("INFO")
    run(STAGE)
    assert "1: train-speaker (train/main, dev/more)" in caplog.text


def test_a_role_that_is_incomplete_stops() -> None:
    Path("data/corpus/dev/inputs.json").unlink()
    with refused("data/corpus/dev", "dvc repro"):
        run(STAGE)


def test_it_reads_the_roles_of_the_pipeline() -> None:
    stage = yaml.safe_load((REPOSITORY / "dvc.yaml").read_text())["stages"]["splits"]
    named = {
        path.removeprefix("data/corpus/")
        for path in stage["deps"]
        if path.startswith("data/corpus/")
    }
    assert named == set(CHECKED_ROLES)
