"""Where the files of an encoder are that was made here in part, and in part elsewhere."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from components.config.errors import InputError
from components.model.encoders.encoder import SpeechEncoder
from components.model.folders.linked_checkpoint import open_checkpoint
from components.runtime.artifact import RECORD, read_record, recorded_digests
from components.runtime.hashing import file_digest, folder_digests
from components.runtime.unit_cache import list_units
from tests import world as tones
from tests.checkpoints import save_encoder
from tests.damage import flip_bit
from tests.errors import refused

MEL = {"kind": "fbank", "config": {"feature_size": 20}}
FOREIGN = {"kind": "folder", "folder": "whisper"}


@pytest.fixture
def joined(world: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The output of the stage for log-mel, which is made here, joined with a local checkpoint."""
    monkeypatch.setenv("LIBRETTO_MODELS", str(tmp_path / "local"))
    save_encoder(tmp_path / "local/whisper", "whisper")
    run({"kind": "joined", "parts": {"speech": FOREIGN, "mel": MEL}})
    return tones.ENCODER


def run(source: dict) -> None:
    tones.change("catalogue/encoder.yaml", {"tiny.source": source})
    tones.run("encoder")


def files(folder: Path) -> set[str]:
    return folder_digests(folder).keys() - {RECORD}


def test_the_output_has_what_was_made_here_alone(joined: Path) -> None:
    own = {name for name in recorded_digests(joined) if not name.startswith("speech/")}
    assert files(joined) == own and any(name.startswith("mel/") for name in own)


def test_a_checkpoint_is_complete_wherever_its_files_are(
    joined: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = recorded_digests(joined)
    # Another clone: the output and the checkpoint's source are there, and nothing else.
    shutil.rmtree(joined.parent / "linked")
    monkeypatch.setenv("LIBRETTO_WORK", str(tmp_path / "another"))
    complete = open_checkpoint(joined)
    found = folder_digests(complete)
    assert found.pop(RECORD) and found == before == recorded_digests(complete)
    assert SpeechEncoder(complete).width == 20 + 32
    assert open_checkpoint(complete) == complete == open_checkpoint(joined)


def test_linked_files_outlive_the_work_cache(joined: Path, work: Path) -> None:
    complete = open_checkpoint(joined)
    shutil.rmtree(work)
    assert open_checkpoint(joined) == complete and not list_units()
    assert SpeechEncoder(complete).width == 20 + 32


def test_an_encoder_made_here_needs_no_links(joined: Path) -> None:
    complete = open_checkpoint(joined)
    run(MEL)
    assert open_checkpoint(joined) == joined and not complete.exists()


def test_another_encoder_replaces_the_links(joined: Path, tmp_path: Path) -> None:
    """Whether a stage writes it, or ``dvc checkout`` brings it."""
    shutil.copytree(joined, tmp_path / "before")
    save_encoder(tmp_path / "local/another", "whisper", seed=2)
    run({"kind": "joined", "parts": {"speech": {**FOREIGN, "folder": "another"}, "mel": MEL}})
    weights = [(open_checkpoint(joined) / "speech/model.safetensors").read_bytes()]
    shutil.rmtree(joined)
    shutil.copytree(tmp_path / "before", joined)
    weights.append((open_checkpoint(joined) / "speech/model.safetensors").read_bytes())
    assert weights == [
        (tmp_path / f"local/{name}/model.safetensors").read_bytes()
        for name in ("another", "whisper")
    ]


def test_damaged_links_are_made_again(joined: Path, tmp_path: Path) -> None:
    """And with them the unit, which is the same file."""
    weights = open_checkpoint(joined) / "speech/model.safetensors"
    flip_bit(weights, keeps_time=False)
    assert open_checkpoint(joined) / "speech/model.safetensors" == weights
    assert weights.read_bytes() == (tmp_path / "local/whisper/model.safetensors").read_bytes()


def test_a_damaged_file_that_was_made_here_is_named(joined: Path) -> None:
    name = "mel/preprocessor_config.json"
    assert name in recorded_digests(joined)
    flip_bit(joined / name, keeps_time=False)
    with refused(str(joined / name), "clean --verify"):
        open_checkpoint(joined)


def test_a_lost_file_that_was_made_here_is_named(joined: Path) -> None:
    shutil.rmtree(joined.parent / "linked")
    shutil.rmtree(joined / "mel")
    with pytest.raises(InputError, match="mel/") as error:
        open_checkpoint(joined)
    assert error.value.subject == str(joined) and "dvc" in (error.value.hint or "")


def test_other_weights_at_the_source_are_refused(joined: Path, tmp_path: Path) -> None:
    shutil.rmtree(joined.parent / "linked")
    save_encoder(tmp_path / "local/whisper", "whisper", seed=2)
    with refused(str(joined), "dvc repro -f -s encoder"):
        open_checkpoint(joined)


def test_the_way_out_of_other_weights_trains_no_part_again(joined: Path, tmp_path: Path) -> None:
    """Of a part that was trained here and whose work cache is lost, 'dvc repro -f' makes others."""
    record = read_record(joined)
    (joined / "mel/model.safetensors").write_bytes(b"trained here")
    digest = file_digest(joined / "mel/model.safetensors")
    record["outputs"]["mel/model.safetensors"] = digest
    (joined / RECORD).write_text(json.dumps(record))
    shutil.rmtree(joined.parent / "linked")
    save_encoder(tmp_path / "local/whisper", "whisper", seed=2)
    with pytest.raises(InputError) as error:
        open_checkpoint(joined)
    assert error.value.hint and "dvc repro" not in error.value.hint
