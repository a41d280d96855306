"""What becomes of a foreign checkpoint: weights as safetensors, no code, nothing missing."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file

from components.model.folders import folder as local
from components.model.folders.folder import (
    cache_local_checkpoint,
    check_shape,
    digest_files,
    fill_unit,
)
from components.model.llms.causal import load_llm
from components.runtime.hashing import file_digest
from components.runtime.unit_cache import unit_digests
from tests.checkpoints import save_llm
from tests.errors import refused


@pytest.fixture
def checkpoint(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, work: Path) -> Path:
    """A local checkpoint in HF form."""
    folder = save_llm(tmp_path / "models/llm", "phi")
    (folder / "inputs.json").unlink()
    monkeypatch.setenv("LIBRETTO_MODELS", str(tmp_path / "models"))
    return folder


def taken() -> Path:
    return cache_local_checkpoint("llm", "some", "llm")


def pickled(folder: Path, parts: int = 1, **saving: Any) -> dict[str, torch.Tensor]:
    """Puts torch's own weights in the place of safetensors, in some parts."""
    tensors = load_file(folder / "model.safetensors")
    (folder / "model.safetensors").unlink()
    names = sorted(tensors)
    if parts == 1:
        torch.save(tensors, folder / "pytorch_model.bin", **saving)
    else:
        held = {
            f"pytorch_model-{part + 1:05d}-of-{parts:05d}.bin": names[part::parts]
            for part in range(parts)
        }
        for file, own in held.items():
            torch.save({name: tensors[name] for name in own}, folder / file, **saving)
        index = {
            "metadata": {"total_size": 1},
            "weight_map": {name: file for file, own in held.items() for name in own},
        }
        (folder / "pytorch_model.bin.index.json").write_text(json.dumps(index))
    return tensors


@pytest.mark.parametrize("parts", [1, 3])
@pytest.mark.parametrize("zipped", [True, False])
def test_torch_weights_become_safetensors(parts: int, zipped: bool, checkpoint: Path) -> None:
    """Whole or in parts, in the format of today or that before torch 1.6."""
    before = load_llm(checkpoint, "float32", "cpu")[0].state_dict()
    tensors = pickled(checkpoint, parts, _use_new_zipfile_serialization=zipped)
    unit = taken()
    assert not list(unit.glob("*.bin*"))
    written = {
        name: tensor
        for path in unit.glob("*.safetensors")
        for name, tensor in load_file(path).items()
    }
    assert written.keys() == tensors.keys() and all(
        torch.equal(written[name], tensors[name]) for name in tensors
    )
    for path in unit.glob("*.safetensors"):
        with safe_open(path, "pt") as opened:
            assert opened.metadata() == {"format": "pt"}, "as other tools ask for"
    after = load_llm(unit, "float32", "cpu")[0].state_dict()
    assert all(torch.equal(before[name], after[name]) for name in before)


def test_tensors_that_share_memory_keep_their_names(checkpoint: Path) -> None:
    tensors = pickled(checkpoint)
    first = next(name for name in tensors if tensors[name].dim() == 2)
    tied = {**tensors, "tied": tensors[first], "turned": tensors[first].T, "row": tensors[first][1]}
    torch.save(tied, checkpoint / "pytorch_model.bin")
    written = load_file(taken() / "model.safetensors")
    assert written.keys() == tied.keys() and all(
        torch.equal(written[name], tied[name]) for name in tied
    )


class Command:
    """What a pickle can hold: a call that is made when it is read."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple:
        return os.mkdir, (str(self.path),)


@pytest.mark.parametrize("zipped", [True, False])
def test_a_pickle_that_would_run_code_is_refused(
    zipped: bool, checkpoint: Path, tmp_path: Path
) -> None:
    tensors = pickled(checkpoint)
    sign = tmp_path / "code was run"
    torch.save(
        {**tensors, "more": Command(sign)},
        checkpoint / "pytorch_model.bin",
        _use_new_zipfile_serialization=zipped,
    )
    with refused(None, "pytorch_model.bin"):
        taken()
    assert not sign.exists()
    torch.load(checkpoint / "pytorch_model.bin", weights_only=False)
    assert sign.exists(), "the test's own pickle does what it should"


@pytest.mark.parametrize("content", [b"", b"no weights", b"PK\x03\x04 no archive"])
def test_broken_torch_weights_are_refused(content: bytes, checkpoint: Path) -> None:
    pickled(checkpoint)
    (checkpoint / "pytorch_model.bin").write_bytes(content)
    with refused(None, "pytorch_model.bin"):
        taken()


def test_more_than_tensors_is_refused(checkpoint: Path) -> None:
    tensors = pickled(checkpoint)
    torch.save({"model": tensors, "step": 3}, checkpoint / "pytorch_model.bin")
    with refused(None, "pytorch_model.bin"):
        taken()


def test_a_part_that_is_missing_is_named(checkpoint: Path) -> None:
    pickled(checkpoint, 3)
    (checkpoint / "pytorch_model-00002-of-00003.bin").unlink()
    with refused(None, "model-00002-of-00003.safetensors"):
        taken()


def test_of_safetensors_and_torch_weights_the_safetensors_are_taken(checkpoint: Path) -> None:
    (checkpoint / "pytorch_model.bin").write_bytes(b"not read")
    assert "pytorch_model.bin" not in digest_files(checkpoint, "some")
    weights = (checkpoint / "model.safetensors").read_bytes()
    assert (taken() / "model.safetensors").read_bytes() == weights


def test_weights_written_over_in_the_folder_of_the_user_change_no_finished_unit(
    checkpoint: Path,
) -> None:
    """Of the same size, in place, as root may write into a read-only file too."""
    path = checkpoint / "model.safetensors"
    before, mode = path.read_bytes(), path.stat().st_mode
    unit = taken()
    assert path.stat().st_mode == mode
    after = before[:-4] + bytes([before[-4] ^ 1]) + before[-3:]
    with path.open("r+b") as stream:
        stream.write(after)
    assert (unit / path.name).read_bytes() == before
    assert file_digest(unit / path.name) == unit_digests(unit)[path.name]
    assert (taken() / path.name).read_bytes() == after


def edit(path: Path, **changed: Any) -> None:
    path.write_text(json.dumps({**json.loads(path.read_text()), **changed}))


def test_code_that_a_native_family_names_is_dropped(checkpoint: Path) -> None:
    edit(
        checkpoint / "config.json", auto_map={"AutoModelForCausalLM": "modeling_phi.PhiForCausalLM"}
    )
    edit(
        checkpoint / "tokenizer_config.json",
        auto_map={"AutoTokenizer": ["tokenization.Other", None]},
    )
    edit(checkpoint / "generation_config.json", note="kept")
    unit = taken()
    assert not [path for path in unit.glob("*config.json") if "auto_map" in path.read_text()]
    assert json.loads((unit / "config.json").read_text())["model_type"] == "phi"
    assert json.loads((unit / "generation_config.json").read_text())["note"] == "kept"
    load_llm(unit, "float32", "cpu")


@pytest.mark.parametrize(
    ("file", "changed", "kind"),
    [
        ("config.json", {"model_type": "qwen-audio-own"}, "qwen-audio-own"),
        ("tokenizer_config.json", {"tokenizer_class": "OwnTokenizer"}, "OwnTokenizer"),
    ],
)
def test_a_model_that_exists_as_remote_code_only_is_refused(
    file: str, changed: dict, kind: str, checkpoint: Path
) -> None:
    edit(checkpoint / file, auto_map={"AutoModel": "modeling.Own"}, **changed)
    with refused(None, file, f"'{kind}'", "auto_map"):
        taken()


def test_what_cannot_be_linked_is_copied(
    checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def deny(*_: Any) -> None:
        raise OSError(18, "Invalid cross-device link")

    monkeypatch.setattr(local.os, "link", deny)
    unit = tmp_path / "unit"
    unit.mkdir()
    fill_unit(unit, {path.name: path for path in checkpoint.iterdir()}, "some")
    assert (unit / "model.safetensors").read_bytes() == (
        checkpoint / "model.safetensors"
    ).read_bytes()
    assert not (unit / "model.safetensors").samefile(checkpoint / "model.safetensors")


def test_a_conversion_that_does_not_fit_says_so(
    checkpoint: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from components.runtime import unit_cache as work

    pickled(checkpoint)
    usage = work.shutil.disk_usage("/")
    monkeypatch.setattr(work.shutil, "disk_usage", lambda path: usage._replace(free=99))
    with refused(None, " 99 "):
        taken()


def test_what_a_configuration_leaves_out_counts_as_the_family_reads_it() -> None:
    bloom = {"model_type": "bloom", "n_embed": 64, "n_head": 4}
    check_shape(
        bloom, {"hidden_size": 64, "n_layer": 2, "num_attention_heads": 4}, "llm 'x'"
    )  # n_layer: the family's own
    with refused(None, "llm 'x'", "hidden_size", "32", "64"):
        check_shape(bloom, {"hidden_size": 32}, "llm 'x'")
