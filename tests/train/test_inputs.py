"""Inputs of a training that are broken or do not go together: a clear stop, and nothing of an
earlier result is gone.
"""

from __future__ import annotations

import io
import tarfile
from collections.abc import Callable
from pathlib import Path

import pytest
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM

from components.config.errors import InputError
from components.features.frames import FrameSource
from components.runtime.artifact import write_record
from components.runtime.hashing import folder_digests
from components.shards.reader import IndexedUtterance, list_utterances
from tests import world as tones

FEATURES, SHARDS = Path("data/features"), Path("data/shards")


def results() -> dict[str, str]:
    """Digests of what a training leaves."""
    return {**folder_digests(Path("models/bridge")), **folder_digests(Path("metrics"))}


@pytest.fixture
def earlier(world: Path) -> dict[str, str]:
    """A training that has ended, by its files; the next one is another, by its seed."""
    stage = tones.read_params().raw["train"]["curriculum"][0]
    tones.change(
        "params.yaml", {"train.curriculum": [{**stage, "steps": 2}], "train.selection.every": 2}
    )
    tones.run("train")
    tones.change(
        "params.yaml", {"train.seed": 2, "train.curriculum.0.steps": 6}
    )  # over more than an epoch
    return results()


def without(tar: Path, member: str) -> None:
    """Removes one member of a tar; the index is not changed."""
    with tarfile.open(tar) as archive:
        members = [
            (info, (archive.extractfile(info) or io.BytesIO()).read())
            for info in archive
            if info.name != member
        ]
    tar.unlink()  # a link into the work cache
    with tarfile.open(tar, "w") as archive:
        for info, data in members:
            archive.addfile(info, io.BytesIO(data))


def last_of(folder: Path) -> IndexedUtterance:
    return list_utterances(folder)[-1]


@pytest.mark.parametrize("mode", ["cached", "live"])
def test_a_tar_without_a_member_stops_and_changes_nothing(
    mode: str, earlier: dict[str, str]
) -> None:
    tones.change("params.yaml", {"features.mode": mode})
    tones.run_features()
    folder, kind = (FEATURES, "npy") if mode == "cached" else (SHARDS, "flac")
    item = last_of(folder / "train")
    without(item.folder / item.entry.shard, f"{item.entry.id}.{kind}")
    with pytest.raises(InputError, match=rf"{item.entry.shard}.*'tones-0\d\d'"):
        tones.run("train")
    assert results() == earlier


@pytest.mark.parametrize("mode", ["cached", "live"])
def test_a_missing_tar_stops_and_changes_nothing(mode: str, earlier: dict[str, str]) -> None:
    """The index names a tar that does not exist."""
    tones.change("params.yaml", {"features.mode": mode})
    tones.run_features()
    item = last_of((FEATURES if mode == "cached" else SHARDS) / "train")
    (item.folder / item.entry.shard).unlink()
    with pytest.raises(InputError, match=rf"{item.entry.shard}.*'tones-0\d\d'") as stopped:
        tones.run("train")
    assert stopped.value.hint
    assert results() == earlier


def test_features_of_another_encoder_stop_and_change_nothing(earlier: dict[str, str]) -> None:
    tones.save_encoder(tones.ENCODER, seed=2)
    with pytest.raises(InputError, match="data/features/train") as stopped:
        tones.run("train")
    assert "dvc repro features" in stopped.value.hint
    assert results() == earlier


def test_no_utterance_under_the_limit_stops_and_changes_nothing(earlier: dict[str, str]) -> None:
    tones.change("params.yaml", {"train.max_seconds": 0.1})
    with pytest.raises(InputError, match="'projector'") as stopped:
        tones.run("train")
    assert "train.max_seconds" in stopped.value.hint
    assert results() == earlier


def overflowing() -> str:
    [path] = tones.LLM.glob("*.safetensors")
    save_file(
        {name: tensor * 1e4 for name, tensor in load_file(path).items()}, path, {"format": "pt"}
    )
    write_record(tones.LLM, "llm", parameters=None, inputs={})
    tones.change("catalogue/llm.yaml", {"tiny.numerics.dtype": "float16"})
    return r"(nan|inf) at step 0 .*numerics\.dtype"


def too_many_ranks() -> str:
    tones.change("params.yaml", {"train.micro_batches": 1})
    return r"2 ranks.* 1 micro-batches"


@pytest.mark.parametrize("broken", [overflowing, too_many_ranks])
def test_an_llm_that_overflows_and_too_many_ranks_change_nothing(
    broken: Callable[[], str], earlier: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    message = broken()
    if broken is too_many_ranks:
        monkeypatch.setenv("LIBRETTO_ENGINE", "ddp")
        monkeypatch.setenv("LIBRETTO_WORKERS", "2")
    with pytest.raises(InputError, match=message):
        tones.run("train")
    assert results() == earlier


class Killed(Exception):
    """Stands for a kill."""


def test_another_vocabulary_at_resume_is_another_training(
    earlier: dict[str, str], work: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The folder of the killed training is neither used nor changed."""
    original, calls = FrameSource.frames, [0]

    def frames(self: FrameSource, items: list[IndexedUtterance], epoch: int | None = None) -> list:  # type: ignore[type-arg]
        calls[0] += 1
        if calls[0] == 14:  # after the first checkpoint
            raise Killed
        return original(self, items, epoch)

    with monkeypatch.context() as patch, pytest.raises(Killed):
        patch.setattr(FrameSource, "frames", frames)
        tones.run("train")
    [partial] = work.glob("train/*/*.partial")
    before = folder_digests(partial)
    assert before
    llm = AutoModelForCausalLM.from_pretrained(tones.LLM)
    llm.resize_token_embeddings(llm.config.vocab_size + 16)
    llm.save_pretrained(tones.LLM)
    write_record(tones.LLM, "llm", parameters=None, inputs={})
    tones.run("train")
    assert folder_digests(partial) == before
    assert load_file("models/bridge/projector.safetensors")
