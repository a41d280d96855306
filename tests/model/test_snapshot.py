"""Every family out of a pinned snapshot in a hub's local cache, by the stages themselves and
without a network.
"""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

import pytest
import torch
import yaml
from huggingface_hub import constants
from safetensors.torch import load_file

from components.config import catalogue
from components.model.encoders.encoder import SpeechEncoder
from components.model.folders.linked_checkpoint import open_checkpoint
from components.model.llms.causal import load_llm
from components.model.llms.prompt import PromptBuilder
from tests import world as tones
from tests.checkpoints import ENCODERS, LLMS, LORA, WAVEFORM, save_encoder, save_llm
from tests.conftest import REPOSITORY
from tests.model.hub_server import REVISION, etag
from tests.model.test_encoder import wave
from tests.model.test_llms import FORMED, form_of

# How checkpoints of older releases name the norm of the positional convolution.
OLDER = {
    "parametrizations.weight.original0": "weight_g",
    "parametrizations.weight.original1": "weight_v",
}


@pytest.fixture
def project(tmp_path: Path, work: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A workspace with parameters and a catalogue alone; a HF cache of one's own, and no hub to
    ask.
    """
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hf/hub"))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    params, entries = tones.settings()
    Path("params.yaml").write_text(yaml.safe_dump(params))
    Path("catalogue").mkdir()
    for kind, content in entries.items():
        Path(f"catalogue/{kind}.yaml").write_text(yaml.safe_dump(content))
    return tmp_path


def snapshot(checkpoint: Path, repo: str) -> dict[str, object]:
    """Puts a checkpoint into the cache as hf puts it there; gives the source that names it."""
    storage = Path(constants.HF_HUB_CACHE) / f"models--{repo.replace('/', '--')}"
    held = storage / "snapshots" / REVISION
    held.mkdir(parents=True)
    (storage / "blobs").mkdir()
    files = sorted(set(os.listdir(checkpoint)) - {"inputs.json"})
    for file in files:
        blob = storage / "blobs" / etag(checkpoint / file)
        shutil.copyfile(checkpoint / file, blob)
        (held / file).symlink_to(os.path.relpath(blob, held))
    return {"kind": "hub", "repo": repo, "revision": REVISION, "files": files}


def as_published(checkpoint: Path) -> None:
    """Torch's own weights under older names, without what only training uses: so are most of
    HuBERT, wav2vec 2.0 and WavLM.
    """
    weights = {}
    for name, tensor in load_file(checkpoint / "model.safetensors").items():
        for new, old in OLDER.items():
            name = name.replace(new, old)
        if not name.endswith("masked_spec_embed"):
            weights[name] = tensor
    torch.save(weights, checkpoint / "pytorch_model.bin")
    (checkpoint / "model.safetensors").unlink()


@pytest.mark.parametrize("family", ENCODERS)
def test_an_encoder_of_the_cache_gives_the_frames_of_its_checkpoint(
    family: str, project: Path
) -> None:
    checkpoint = save_encoder(project / "remote", family)
    sound = [wave(16_000)]
    wanted = SpeechEncoder(checkpoint)(sound)[0]
    if family == "fbank":
        source: dict[str, object] = {"kind": "fbank", "config": {"feature_size": 32}}
    elif family == "whisper-ast":
        parts = {part: snapshot(checkpoint / part, f"acme/{part}") for part in ("speech", "events")}
        source = {"kind": "joined", "parts": parts}
    else:
        if family in WAVEFORM:
            as_published(checkpoint)
        source = snapshot(checkpoint, f"acme/{family}")
    entries = yaml.safe_load(Path("catalogue/encoder.yaml").read_text())
    entries["tiny"]["source"] = source
    Path("catalogue/encoder.yaml").write_text(
        yaml.safe_dump(entries, sort_keys=False)
    )  # the first part sets the rate
    tones.run("encoder")
    assert torch.equal(SpeechEncoder(open_checkpoint(tones.ENCODER))(sound)[0], wanted)
    assert not list(open_checkpoint(tones.ENCODER).rglob("*.bin"))


@pytest.mark.parametrize("family", LLMS)
def test_an_llm_of_the_cache_is_its_checkpoint_and_takes_its_prompt(
    family: str, project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    name = FORMED[family]
    checkpoint = save_llm(project / "remote", family, form=form_of(name))
    entry = yaml.safe_load((REPOSITORY / "catalogue/llm.yaml").read_text())[name]
    tiny = {
        "source": snapshot(checkpoint, f"acme/{family}"),
        "prompt": entry["prompt"],
        "lora": {"targets": LORA[family]},
    }
    Path("catalogue/llm.yaml").write_text(
        yaml.safe_dump({"tiny": {**tiny, "numerics": {"dtype": "float32"}}})
    )
    tones.run("llm")
    (there, units), (here, same) = (
        load_llm(folder, "float32", "cpu") for folder in (checkpoint, open_checkpoint(tones.LLM))
    )
    assert (
        json.loads((open_checkpoint(tones.LLM) / "config.json").read_text())["model_type"] == family
    )
    tokens = torch.arange(3, 40)[None]
    assert torch.equal(here(tokens).logits, there(tokens).logits)
    builder, wanted = (PromptBuilder(each, catalogue.llm("tiny").prompt) for each in (same, units))
    assert (builder.before, builder.after, builder.eos) == (wanted.before, wanted.after, wanted.eos)
    assert builder.decode([*builder.encode("it 's , well ."), builder.eos, 40]) == "it 's , well ."
