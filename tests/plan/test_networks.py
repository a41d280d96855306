"""What a plan counts without weights is what the networks have: the papers' projectors, tiny
checkpoints of every family.
"""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
from peft import LoraConfig, get_peft_model

from components.config import catalogue
from components.config.entries import LoraTargets
from components.config.errors import InputError
from components.config.model_sources import EncoderSource, LlmSource
from components.config.params import Params, read_params
from components.model.encoders.encoder import SpeechEncoder
from components.model.folders.architecture import network_of, parameters
from components.model.llms.causal import load_llm
from components.plan.networks import networks, sized
from components.plan.tuned import lora_sizes_of
from tests.checkpoints import ENCODERS, LLMS, LORA, save_encoder, save_llm
from tests.conftest import REPOSITORY

# SLAM-ASR (arXiv 2402.08846), tables 2 to 4: trained parameters in millions.
PAPER = [
    ("hubert-large", "linear", "vicuna-7b", 18.88),
    ("hubert-xlarge-ls960-ft", "linear", "vicuna-7b", 21.50),
    ("hubert-xlarge-ls960-ft", "linear", "tinyllama-chat", 17.31),
    ("hubert-xlarge-ls960-ft", "linear", "phi-2", 18.35),
    ("whisper-tiny", "linear", "vicuna-7b", 12.33),
    ("whisper-base", "linear", "vicuna-7b", 13.64),
    ("whisper-small", "linear", "vicuna-7b", 16.26),
    ("fbank", "linear-k10", "vicuna-7b", 10.03),
]


@pytest.fixture
def params(monkeypatch: pytest.MonkeyPatch) -> Params:
    monkeypatch.chdir(REPOSITORY)
    return read_params()


@pytest.mark.parametrize(("encoder", "projector", "llm", "millions"), PAPER)
def test_projectors_have_the_parameters_that_the_paper_prints(
    encoder: str, projector: str, llm: str, millions: float, params: Params
) -> None:
    found = networks(replace(params, encoder=encoder, projector=projector, llm=llm))
    trained, frozen = found.modules["projector"]
    assert round(trained / 1e6, 2) == millions
    assert frozen == 0


def test_what_is_trained_and_what_is_frozen_follows_the_curriculum(params: Params) -> None:
    both = networks(params).modules
    alone = networks(
        replace(params, train=replace(params.train, curriculum=params.train.curriculum[:1]))
    ).modules
    assert both["LoRA"][0] > 0 == alone["LoRA"][0]
    assert both["projector"] == alone["projector"]
    assert both["LLM"][0] == both["encoder"][0] == 0 < both["LLM"][1]
    released = networks(
        replace(
            params,
            encoder="wavlm-large",
            projector="slam-asr-wavlm-large-vicuna-7b",
            llm="vicuna-7b-released",
        )
    )
    assert released.trained == 0 < released.modules["projector"][1]


@pytest.mark.parametrize(
    "family", [name for name in ENCODERS if name not in ("fbank", "whisper-ast")]
)
@pytest.mark.parametrize("padding", ["window", "none"])
def test_an_encoder_is_told_from_its_configuration_alone(
    family: str, padding: str, tmp_path: Path
) -> None:
    folder = save_encoder(tmp_path / "encoder", family)
    real = SpeechEncoder(folder, padding=padding)
    found = sized(network_of(json.loads((folder / "config.json").read_text())), padding)
    network = (
        real.model.get_encoder()
        if family == "whisper"
        else getattr(real.family, "body", real.model)
    )
    assert found.parameters == parameters(network)
    assert (found.width, found.rate) == (real.width, real.rate)
    assert (found.window > 0) == (real.padded_seconds(16_000) > 1.0)


@pytest.mark.parametrize("family", LLMS)
def test_an_llm_is_told_from_its_configuration_alone(family: str, tmp_path: Path) -> None:
    folder = save_llm(tmp_path / "llm", family)
    llm, _ = load_llm(folder, "float32", "cpu")
    network = network_of(json.loads((folder / "config.json").read_text()), causal=True)
    assert parameters(network) == parameters(llm)
    counted = sum(lora_sizes_of("llm", network, LORA[family], 4).values())
    adapted = get_peft_model(
        llm, LoraConfig(r=4, target_modules=LORA[family], task_type="CAUSAL_LM")
    )
    assert (
        counted
        == sum(each.numel() for name, each in adapted.named_parameters() if "lora_" in name)
        > 0
    )


@pytest.mark.parametrize("name", catalogue.names("encoder"))
def test_every_encoder_of_the_catalogue_can_be_planned(name: str, params: Params) -> None:
    found = networks(replace(params, encoder=name, projector="linear"))
    assert found.encoder.width > 0
    assert all(each.bytes > 0 for each in found.checkpoints)


def test_of_qwen_audio_the_encoder_alone_is_written(params: Params) -> None:
    found = networks(replace(params, encoder="qwen-audio", projector="linear"))
    whisper = networks(replace(params, encoder="whisper-large-v2", projector="linear"))
    assert found.encoder == replace(whisper.encoder, writer=0), "it has no decoder that would write"
    [fetched] = found.checkpoints
    assert (fetched.bytes, fetched.converted) == (16.8e9, 4 * found.encoder.parameters)


@pytest.mark.parametrize("name", catalogue.names("llm"))
def test_every_llm_of_the_catalogue_can_be_planned(name: str, params: Params) -> None:
    found = networks(replace(params, llm=name))
    assert found.modules["LoRA"][0] > 0
    assert found.llm.packs != name.startswith("bloom")
    assert all(each.bytes > 0 for each in found.checkpoints)


def test_a_matching_loss_that_is_off_trains_no_head(params: Params) -> None:
    off = replace(params.train, matching=replace(params.train.matching, weight=0.0))
    assert (
        networks(params).modules["matching head"][0]
        > 0
        == networks(replace(params, train=off)).modules["matching head"][0]
    )


@pytest.mark.parametrize(
    ("config", "says"),
    [
        (None, r"my-encoder/config\.json can't be read"),
        ("{", r"config\.json can't be read"),
        (
            '{"model_type": "wav2vec2-bert"}',
            r"encoder 'mine': its model_type 'wav2vec2-bert' is of no known family",
        ),
        ('{"model_type": "qwen"}', r"its model_type 'qwen' is of no known family"),
    ],
)
def test_a_local_folder_that_is_no_encoder_says_so(
    config: str | None, says: str, params: Params, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LIBRETTO_MODELS", str(tmp_path))
    if config is not None:
        (tmp_path / "my-encoder").mkdir()
        (tmp_path / "my-encoder/config.json").write_text(config)
    entry = catalogue.READERS["encoder"]("ctc-tiny")
    monkeypatch.setattr(
        catalogue,
        "encoder",
        lambda name: replace(entry, source=EncoderSource("folder", folder="my-encoder")),
    )
    with pytest.raises(InputError, match=says):
        networks(replace(params, encoder="mine"))


def test_parakeet_without_its_head_is_told_too() -> None:
    whole = network_of({"model_type": "parakeet_ctc", "encoder_config": {"hidden_size": 64}})
    body = network_of({"model_type": "parakeet_encoder", "hidden_size": 64})
    assert sized(body, "none") == sized(whole, "none")


def test_a_shape_that_makes_no_network_says_so() -> None:
    for shape in (
        {"model_type": "llama", "hidden_size": 30, "num_attention_heads": 4},
        {"model_type": "no-such"},
        {},
    ):
        with pytest.raises(InputError, match="No network can be made of"):
            network_of(shape, causal=True)


def test_a_local_folder_tells_its_shape_itself(
    params: Params, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    save_llm(tmp_path / "mine", "phi")
    monkeypatch.setenv("LIBRETTO_MODELS", str(tmp_path))
    source = LlmSource("folder", folder="mine")
    monkeypatch.setattr(
        catalogue,
        "llm",
        lambda name: replace(llm_entry, source=source, lora=LoraTargets(LORA["phi"])),
    )
    llm_entry = catalogue.READERS["llm"]("phi-2")
    found = networks(replace(params, llm="mine"))
    assert found.llm.width == 32
    assert [each.repo for each in found.checkpoints] == [""]


def test_the_q_former_of_salmonn_has_the_parameters_that_the_paper_prints(params: Params) -> None:
    """About 33 M with LoRA of rank 8 on query and value (arXiv 2310.13289, section 4.1); its
    audio-event encoder is as wide as ours.
    """
    rank = replace(params.train, lora=replace(params.train.lora, rank=8))
    entry = catalogue.llm("vicuna-13b")
    found = networks(
        replace(
            params,
            encoder="whisper-large-v2-ast",
            projector="salmonn-qformer",
            llm="vicuna-13b",
            train=rank,
        )
    )
    projector = found.modules["projector"][0]
    assert round(projector / 1e6, 2) == 26.78
    adapted = sum(
        lora_sizes_of(
            "llm", network_of(entry.source.shape, causal=True), ["q_proj", "v_proj"], 8
        ).values()
    )
    assert round((projector + adapted) / 1e6) == 33
    assert (found.encoder.width, found.stride) == (2048, 17)


@pytest.mark.parametrize("name", catalogue.names("projector"))
def test_every_bridge_of_the_catalogue_can_be_planned(name: str, params: Params) -> None:
    found = networks(
        replace(params, encoder="hubert-large-ls960-ft", projector=name, llm="vicuna-7b")
    )
    assert sum(found.modules["projector"]) > 0
    assert found.stride >= 1


def test_what_is_tuned_of_encoder_and_llm_is_counted(params: Params) -> None:
    """LoRA at its rank on every attention of whisper-tiny: 4 layers, 4 matrices, 384 wide; a base
    moves as a whole.
    """
    whisper, stage = (
        replace(params, encoder="whisper-tiny", projector="linear"),
        params.train.curriculum[0],
    )

    def modules(*tune: str) -> dict[str, tuple[int, int]]:
        return networks(
            replace(whisper, train=replace(params.train, curriculum=[replace(stage, tune=[*tune])]))
        ).modules

    frozen = modules("projector")
    assert modules("encoder-lora")["encoder LoRA"] == (4 * 4 * 8 * (384 + 384), 0)
    assert frozen["encoder LoRA"] == (0, 0)
    for part, name in (("encoder", "encoder"), ("llm", "LLM")):
        assert modules(part)[name] == frozen[name][::-1]
        assert frozen[name][0] == 0 < frozen[name][1]
