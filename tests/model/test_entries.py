"""Catalogue entries that are wrong: what says so, in both stages that read them, before anything is
trained or written.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from components.config import catalogue
from components.config.errors import InputError
from components.model.folders.architecture import build_network
from components.model.folders.linked_checkpoint import open_checkpoint
from components.runtime.artifact import empty_folder, write_record
from tests import world as tones
from tests.checkpoints import save_encoder, save_llm
from tests.conftest import REPOSITORY
from tests.errors import refused

OUT = {"encoder": tones.ENCODER, "llm": tones.LLM}
TRAINED = {"encoder": ("encoder", "ctc-smoke"), "llm": ("llm", "llama-smoke")}


@pytest.fixture
def local(world: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Checkpoints below LIBRETTO_MODELS, to which the catalogue points; nothing in ``models``."""
    save_encoder(tmp_path / "local/encoder")
    save_llm(tmp_path / "local/llm")
    for kind in OUT:
        (tmp_path / "local" / kind / "inputs.json").unlink()
        empty_folder(OUT[kind]).rmdir()
    monkeypatch.setenv("LIBRETTO_MODELS", str(tmp_path / "local"))
    return tmp_path / "local"


def command(stage: str) -> subprocess.CompletedProcess:
    """The stage as a process."""
    environment = {**os.environ, "PYTHONPATH": str(REPOSITORY)}
    return subprocess.run(
        [sys.executable, "-m", f"components.{stage}"],
        capture_output=True,
        text=True,
        env=environment,
    )


def told(local: Path, kind: str) -> dict[str, Any]:
    return json.loads((local / kind / "config.json").read_text())


def shaped(kind: str, shape: dict[str, Any]) -> None:
    tones.change(
        f"catalogue/{kind}.yaml",
        {"tiny.source": {"kind": "folder", "folder": kind, "shape": shape}},
    )


@pytest.mark.parametrize("kind", OUT)
def test_a_checkpoint_of_another_width_than_its_entry_says_stops_the_stage(
    kind: str, local: Path
) -> None:
    """Parakeet holds its encoder's width one level down, Llama at the top."""
    config = told(local, kind)
    right, wrong = (
        {"encoder_config": width} if kind == "encoder" else width
        for width in ({"hidden_size": 32}, {"hidden_size": 1024})
    )
    assert config.get("encoder_config", config)["hidden_size"] == 32
    shaped(kind, {"model_type": config["model_type"], **wrong})
    stopped = command(kind)
    assert stopped.returncode == 2
    message = stopped.stderr.strip().splitlines()[-1]
    assert message.startswith(f"{kind}: {kind} 'tiny'")
    assert "hidden_size" in message and "1024" in message and "32" in message
    assert "Traceback" not in stopped.stderr
    assert not OUT[kind].exists()
    shaped(kind, {"model_type": config["model_type"], **right})
    tones.run(kind)
    assert (open_checkpoint(OUT[kind]) / "config.json").is_file()


@pytest.mark.parametrize("kind", OUT)
@pytest.mark.parametrize(
    ("shape", "parts"),
    [
        (
            {"num_hidden_layers": {"speech": 2}},
            ["num_hidden_layers", "{'speech': 2}"],
        ),
        (
            {"model_type": "whisper"},
            ["model_type", "whisper"],
        ),
        (
            {"hiden_size": 32},
            ["hiden_size", "32"],
        ),
    ],
)
def test_whatever_a_shape_says_is_compared(
    kind: str, shape: dict, parts: list[str], local: Path
) -> None:
    shaped(kind, shape)
    with refused(None, f"{kind} 'tiny'", "source.shape", *parts):
        tones.run(kind)


@pytest.mark.parametrize("kind", OUT)
def test_the_dtype_of_the_stored_weights_is_not_held_against_an_entry(
    kind: str, local: Path
) -> None:
    """``numerics`` says in which dtype a checkpoint runs; ``shape`` has its own for the size of the
    download.
    """
    assert told(local, kind)["dtype"] == "float32"
    shaped(kind, {"dtype": "bfloat16", "torch_dtype": "bfloat16"})
    tones.run(kind)


def test_a_part_of_joined_encoders_is_named(local: Path) -> None:
    save_encoder(local / "whisper", "whisper")
    save_encoder(local / "ast", "ast")
    parts = {
        "speech": {"kind": "folder", "folder": "whisper", "shape": {"d_model": 32}},
        "events": {"kind": "folder", "folder": "ast"},
    }
    for width in (64, 32):
        parts["events"]["shape"] = {"hidden_size": width}
        tones.change("catalogue/encoder.yaml", {"tiny.source": {"kind": "joined", "parts": parts}})
        if width == 64:
            with refused(None, "encoder 'tiny.events'", "hidden_size", "64", "32"):
                tones.run("encoder")
    tones.run("encoder")


@pytest.fixture
def trained(world: Path) -> None:
    """The encoder and the LLM of the smoke run are named: both are trained here."""
    for kind, name in TRAINED.values():
        entry = yaml.safe_load((REPOSITORY / f"catalogue/{kind}.yaml").read_text())[name]
        tones.change(f"catalogue/{kind}.yaml", {"tiny.source": entry["source"]})


# What the message must name beside the entry: the value, the key, or the key that was meant.
ENCODER_CONFIGS: list[tuple[dict, list[str]]] = [
    ({"hidden_size": 100, "num_attention_heads": 3}, ["100", "3"]),
    ({"hiden_size": 96}, ["'hiden_size'", "'hidden_size'"]),
    ({"hidden_size": "wide"}, ["int", "str"]),
    ({"conv_kernel_size": 8}, []),
    ({"subsampling_factor": 3}, ["subsampling_factor", "3"]),
    ({"num_mel_bins": 0}, ["'num_mel_bins'", "0"]),
    ({"layerdrop": 1.5}, ["'layerdrop'", "1.5"]),
]
LLM_CONFIGS: list[tuple[dict, list[str]]] = [
    ({"num_attention_heads": 5}, ["96", "5"]),
    ({"num_key_value_heads": 3}, []),
    ({"hiden_size": 96}, ["'hiden_size'", "'hidden_size'"]),
    ({"num_hidden_layers": 0}, ["'num_hidden_layers'", "0"]),
]


@pytest.mark.parametrize(
    ("kind", "config", "parts"),
    [*(("encoder", *each) for each in ENCODER_CONFIGS), *(("llm", *each) for each in LLM_CONFIGS)],
)
def test_an_architecture_that_makes_no_sense_stops_before_it_is_trained(
    kind: str, config: dict, parts: list[str], trained: None
) -> None:
    tones.change(
        f"catalogue/{kind}.yaml",
        {f"tiny.source.config.{key}": value for key, value in config.items()},
    )
    with refused(None, f"{kind} 'tiny'", "source.config", *parts):
        tones.run(kind)


def test_a_size_that_no_network_has_names_its_key_in_the_catalogue(trained: None) -> None:
    tones.change("catalogue/encoder.yaml", {"tiny.source.config.num_hidden_layers": -1})
    with refused(None, "encoder.yaml", "tiny", "'source.config.num_hidden_layers'", "-1"):
        tones.run("encoder")


def test_an_architecture_that_is_not_there_names_the_nearest(trained: None) -> None:
    tones.change("catalogue/llm.yaml", {"tiny.source.model_type": "lama"})
    with refused(None, "llm 'tiny'", "'lama'", "'llama'"):
        tones.run("llm")


@pytest.mark.parametrize(
    ("kind", "key", "value"),
    [
        ("encoder", "micro_batches", 0),
        ("encoder", "batch_seconds", -1.0),
        ("encoder", "nonspeech_share", 1.0),
        ("encoder", "checkpoint_every", 0),
        ("llm", "steps", 0),
        ("llm", "units", 0),
        ("llm", "noise_share", 1.2),
    ],
)
def test_a_setting_of_a_training_that_is_out_of_range_stops_before_any_work(
    kind: str, key: str, value: float, trained: None
) -> None:
    catalogue.READERS[kind]("tiny")
    tones.change(f"catalogue/{kind}.yaml", {f"tiny.source.training.{key}": value})
    with pytest.raises(InputError, match=rf"catalogue/{kind}\.yaml: tiny.*{value}") as stopped:
        catalogue.READERS[kind]("tiny")
    assert stopped.value.subject == f"source.training.{key}"
    assert stopped.value.hint


@pytest.mark.parametrize(("key", "value"), [("stack", 0), ("hidden", -5)])
def test_a_projector_without_a_size_stops_every_stage(key: str, value: int, world: Path) -> None:
    tones.change("catalogue/projector.yaml", {f"small.{key}": value})
    stopped = command("llm")
    assert stopped.returncode == 2
    assert f"catalogue/projector.yaml: small: '{key}'" in stopped.stderr


@pytest.mark.parametrize("kind", TRAINED)
def test_a_corpus_without_training_speech_trains_nothing(kind: str, trained: None) -> None:
    write_record(empty_folder(Path("data/shards/train")), "shards", parameters=None, inputs={})
    with refused(None, f"{kind} 'tiny'", "train"):
        tones.run(kind)


@pytest.mark.parametrize(
    "shape",
    [
        {"model_type": "lama"},
        {"model_type": "llama", "hidden_size": "wide"},
        {"model_type": "llama", "hidden_size": 0},
    ],
)
def test_a_shape_that_gives_no_network_is_refused(shape: dict) -> None:
    with refused(None, "config.json"):
        build_network(shape, causal=True)
