"""The LLM stage: training to copy, killed trainings, and local checkpoints."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from transformers import AutoModelForCausalLM, AutoTokenizer

from components.config.errors import InputError
from components.config.model_sources import CopyingTraining
from components.llm import copying
from components.model.folders.linked_checkpoint import open_checkpoint
from components.model.llms.causal import load_llm
from components.optim.ranks import Ranks, train_together
from components.runtime.artifact import read_record, recorded_digests
from components.runtime.hashing import folder_digests
from tests import world as tones
from tests.checkpoints import LLMS, PROMPT, TEXTS, save_llm

CONFIG = {
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 64,
}
TRAINING = CopyingTraining(
    seed=1,
    units=300,
    steps=12,
    batch=6,
    micro_batches=2,
    threads=1,
    learning_rate=0.005,
    warmup=2,
    weight_decay=0.01,
    clip=1.0,
    clean_share=0.3,
    noise_share=0.7,
    checkpoint_every=4,
)


class Killed(Exception):
    """Stands for a kill."""


def training_in(
    out: Path, family: str = "llama", config: dict[str, Any] | None = None, **changed: Any
) -> copying.LlmTraining:
    out.mkdir(exist_ok=True)
    training = CopyingTraining(**{**asdict(TRAINING), **changed})
    return copying.LlmTraining(
        TEXTS,
        str(out),
        str(out.with_suffix(".scratch")),
        family,
        config or CONFIG,
        training,
        PROMPT,
    )


@pytest.mark.parametrize(
    ("family", "config"),
    [
        ("llama", CONFIG),
        ("phi", CONFIG),
        ("phi", {**CONFIG, "resid_pdrop": 0.1}),
        ("llama", {**CONFIG, "attention_dropout": 0.1}),
    ],
)
@pytest.mark.parametrize("call", [3, 12, 21])
def test_a_killed_training_goes_on_and_ends_with_the_same_bits(
    family: str, config: dict[str, Any], call: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    copying.train(Ranks(), training_in(tmp_path / "undisturbed", family, config))
    original, countdown = copying.predict_targets, [call]

    def die(*arguments: Any) -> Any:
        countdown[0] -= 1
        if countdown[0] == 0:
            raise Killed
        return original(*arguments)

    monkeypatch.setattr(copying, "predict_targets", die)
    with pytest.raises(Killed):
        copying.train(Ranks(), training_in(tmp_path / "killed", family, config))
    torch.manual_seed(99)
    copying.train(Ranks(), training_in(tmp_path / "killed", family, config))
    assert folder_digests(tmp_path / "killed") == folder_digests(tmp_path / "undisturbed")


def test_a_training_that_diverges_stops_and_writes_no_llm(tmp_path: Path) -> None:
    training = training_in(tmp_path / "out", learning_rate=1e30, warmup=0)
    with pytest.raises(InputError, match=r"llm: .* (nan|inf) at step \d") as stopped:
        copying.train(Ranks(), training)
    assert "source.training.learning_rate" in stopped.value.hint
    assert not list((tmp_path / "out").iterdir())


@pytest.mark.slow
def test_two_processes_give_the_bits_of_one(tmp_path: Path) -> None:
    for processes in (1, 2):
        train_together(copying.train, (training_in(tmp_path / str(processes)),), processes, 1)
    assert folder_digests(tmp_path / "1") == folder_digests(tmp_path / "2")


@pytest.mark.parametrize("family", ["llama", "phi"])
def test_the_folder_is_read_by_the_auto_classes(family: str, tmp_path: Path) -> None:
    copying.train(Ranks(), training_in(tmp_path / "out", family))
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "out", local_files_only=True)
    model = AutoModelForCausalLM.from_pretrained(tmp_path / "out", local_files_only=True)
    assert model.config.model_type == family
    assert model.config.vocab_size == len(tokenizer) <= TRAINING.units
    assert (tokenizer.bos_token, tokenizer.eos_token, tokenizer.pad_token) == (
        copying.BOS,
        copying.EOS,
        copying.PAD,
    )
    assert model.config.eos_token_id == tokenizer.eos_token_id
    assert not [
        path
        for path in (tmp_path / "out").iterdir()
        if path.suffix not in (".json", ".safetensors")
    ]
    for text in ("amber birch", "Wörter, 四!", "x  y"):
        assert tokenizer.decode(tokenizer(text, add_special_tokens=False).input_ids) == text
    llm, _ = load_llm(tmp_path / "out", "float32", "cpu")
    assert not llm.training
    assert not any(parameter.requires_grad for parameter in llm.parameters())


@given(st.text(st.characters(codec="utf-8", exclude_characters="<"), max_size=40))
def test_the_tokenizer_is_lossless(text: str) -> None:
    assert TOKENIZER.decode(TOKENIZER(text, add_special_tokens=False).input_ids) == text


TOKENIZER = copying.build_tokenizer(TEXTS, 300)


def test_words_of_the_texts_and_of_the_prompt_become_units(tmp_path: Path) -> None:
    copying.train(Ranks(), training_in(tmp_path / "out", units=400))
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "out", local_files_only=True)
    assert len(tokenizer("juniper", add_special_tokens=False).input_ids) == 1
    assert (
        len(tokenizer(PROMPT.template, add_special_tokens=False).input_ids)
        < len(PROMPT.template) / 3
    )


def test_short_clean_word_lists_come_first_and_corruption_later() -> None:
    training = training_of(steps=100, batch=50)
    words = ["amber", "birch"]
    first = copying.draw_tasks(training, words, 0)
    assert not any(task.is_corrupted for task in first)
    assert all(
        1 <= len(task.text.split()) <= 8 and set(task.text.split()) <= set(words) for task in first
    )
    shares = [
        sum(task.is_corrupted for task in copying.draw_tasks(training, words, step)) / 50
        for step in (29, 50, 99)
    ]
    assert shares[0] == 0 < shares[1] < shares[2]
    assert shares[2] == pytest.approx(TRAINING.noise_share, abs=0.25)
    assert first == copying.draw_tasks(training, words, 0) != copying.draw_tasks(training, words, 1)


def training_of(**changed: Any) -> copying.LlmTraining:
    return copying.LlmTraining(
        TEXTS, "", "", "llama", CONFIG, CopyingTraining(**{**asdict(TRAINING), **changed}), PROMPT
    )


def test_a_clean_task_is_its_embeddings_and_a_corrupted_one_is_not() -> None:
    torch.manual_seed(1)
    embed, ids = torch.nn.Embedding(300, 16), list(range(40, 60))
    clean = copying.speech_embeddings(embed, ids, copying.CopyTask("", False, 5))
    assert torch.equal(clean, embed(torch.tensor(ids)))
    corrupted = copying.speech_embeddings(embed, ids, copying.CopyTask("", True, 5))
    assert torch.equal(
        corrupted, copying.speech_embeddings(embed, ids, copying.CopyTask("", True, 5))
    )
    assert not torch.equal(
        corrupted, copying.speech_embeddings(embed, ids, copying.CopyTask("", True, 6))
    )
    lengths = [
        len(copying.speech_embeddings(embed, ids, copying.CopyTask("", True, seed)))
        for seed in range(200)
    ]
    assert np.mean(lengths) == pytest.approx(1.15 * len(ids), rel=0.05)
    assert len(copying.speech_embeddings(embed, [], copying.CopyTask("", True, 5))) == 0


def test_copying_is_learnt(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shares: list[float] = []
    original = copying.predict_targets

    def note_share(*arguments: Any) -> Any:
        output = original(*arguments)
        shares.append(output.num_correct / output.num_targets)
        return output

    monkeypatch.setattr(copying, "predict_targets", note_share)
    copying.train(
        Ranks(), training_in(tmp_path / "out", steps=60, clean_share=1.0, noise_share=0.0)
    )
    assert np.mean(shares[-10:]) > np.mean(shares[:10]) + 0.1


@pytest.mark.parametrize("family", LLMS)
def test_every_family_is_built_from_its_seed(family: str) -> None:
    one, same, other = (
        copying.build_llm(family, LLMS[family], TOKENIZER, seed) for seed in (1, 1, 2)
    )
    assert all(torch.equal(a, b) for a, b in zip(one.parameters(), same.parameters(), strict=True))
    assert not all(
        torch.equal(a, b) for a, b in zip(one.parameters(), other.parameters(), strict=True)
    )


def test_the_stage_trains_once_and_records_its_inputs(
    world: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = {
        "kind": "copying",
        "model_type": "llama",
        "config": CONFIG,
        "training": asdict(TRAINING),
    }
    tones.change("catalogue/llm.yaml", {"tiny.source": source})
    tones.run("llm")
    files = folder_digests(tones.LLM)
    assert set(read_record(tones.LLM)["inputs"]) == {"texts", "prompt"}
    assert recorded_digests(tones.LLM).keys() == set(files) - {"inputs.json"}
    load_llm(tones.LLM, "float32", "cpu")

    def never(*arguments: Any) -> None:
        raise AssertionError("it is trained already")

    with monkeypatch.context() as patch:
        patch.setattr(copying, "train", never)
        tones.run("llm")
        assert folder_digests(tones.LLM) == files
    tones.change("catalogue/llm.yaml", {"tiny.prompt.template": "{speech} = "})
    tones.run("llm")
    assert folder_digests(tones.LLM) != files


@pytest.fixture
def checkpoint(world: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A local checkpoint with more in its folder than weights."""
    folder = save_llm(tmp_path / "local/llm", "phi", seed=5)
    (folder / "inputs.json").unlink()
    (folder / "pytorch_model.bin").write_bytes(b"a pickle")
    (folder / "modeling_phi.py").write_text("raise SystemExit")
    monkeypatch.setenv("LIBRETTO_MODELS", str(tmp_path / "local"))
    return folder


def test_pickles_and_code_of_a_local_checkpoint_are_not_copied(checkpoint: Path) -> None:
    tones.run("llm")
    copied = {
        path.name for path in checkpoint.iterdir() if path.suffix in (".json", ".safetensors")
    }
    assert {path.name for path in open_checkpoint(tones.LLM).iterdir()} == copied | {"inputs.json"}
    assert str(checkpoint.parent) not in (tones.LLM / "inputs.json").read_text()
    llm, tokenizer = load_llm(open_checkpoint(tones.LLM), "float32", "cpu")
    assert llm.config.model_type == "phi"
    assert tokenizer.decode(tokenizer("amber").input_ids) == "amber"


@pytest.mark.parametrize("missing", ["model.safetensors", "config.json"])
def test_an_incomplete_local_checkpoint_is_refused(missing: str, checkpoint: Path) -> None:
    (checkpoint / missing).unlink()
    (checkpoint / "pytorch_model.bin").unlink(missing_ok=True)
    with pytest.raises(InputError, match=r"llm 'tiny'.*config\.json") as refused:
        tones.run("llm")
    assert refused.value.hint
    tones.change("catalogue/llm.yaml", {"tiny.source.folder": "elsewhere"})
    with pytest.raises(InputError, match=r"llm 'tiny'.*elsewhere") as refused:
        tones.run("llm")
    assert refused.value.hint


def test_a_folder_with_pickled_weights_only_does_not_load(tmp_path: Path) -> None:
    folder = save_llm(tmp_path / "llm")
    torch.save(
        AutoModelForCausalLM.from_pretrained(folder).state_dict(), folder / "pytorch_model.bin"
    )
    (folder / "model.safetensors").unlink()
    with pytest.raises(InputError, match=str(folder)) as refused:
        load_llm(folder, "float32", "cpu")
    assert refused.value.hint
    with pytest.raises(InputError, match="no such folder"):
        load_llm(tmp_path / "no such folder", "float32", "cpu")
