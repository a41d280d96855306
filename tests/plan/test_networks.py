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
from components.config.model_sources import LocalSource
from components.config.params import Params, read_params
from components.model.encoders.encoder import SpeechEncoder
from components.model.folders.architecture import build_network, count_parameters
from components.model.llms.causal import load_llm
from components.plan.counts import layer_sizes, size_of
from components.plan.networks import read_networks
from components.plan.tuning import lora_sizes
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
    networks = read_networks(replace(params, encoder=encoder, projector=projector, llm=llm))
    trained, frozen = networks.modules["projector"]
    assert round(trained / 1e6, 2) == millions
    assert frozen == 0


def test_trained_and_frozen_parameters_follow_the_curriculum(params: Params) -> None:
    both = read_networks(params).modules
    projector_only = read_networks(
        replace(params, train=replace(params.train, curriculum=params.train.curriculum[:1]))
    ).modules
    assert both["LoRA"][0] > 0 == projector_only["LoRA"][0]
    assert both["projector"] == projector_only["projector"]
    assert both["LLM"][0] == both["encoder"][0] == 0 < both["LLM"][1]
    released = read_networks(
        replace(
            params,
            encoder="wavlm-large",
            projector="slam-asr-wavlm-large-vicuna-7b",
            llm="vicuna-7b-released",
        )
    )
    assert released.num_trained == 0 < released.modules["projector"][1]


@pytest.mark.parametrize(
    "family", [name for name in ENCODERS if name not in ("fbank", "whisper-ast")]
)
@pytest.mark.parametrize("padding", ["window", "none"])
def test_an_encoder_is_counted_from_its_configuration_alone(
    family: str, padding: str, tmp_path: Path
) -> None:
    folder = save_encoder(tmp_path / "encoder", family)
    real = SpeechEncoder(folder, padding=padding)
    size = size_of(build_network(json.loads((folder / "config.json").read_text())), padding)
    network = (
        real.model.get_encoder()
        if family == "whisper"
        else getattr(real.family, "body", real.model)
    )
    assert size.num_parameters == count_parameters(network)
    assert (size.width, size.frame_rate) == (real.width, real.frame_rate)
    assert (size.window_s > 0) == (real.computed_duration_s(16_000) > 1.0)


@pytest.mark.parametrize("family", LLMS)
def test_an_llm_is_counted_from_its_configuration_alone(family: str, tmp_path: Path) -> None:
    folder = save_llm(tmp_path / "llm", family)
    llm, _ = load_llm(folder, "float32", "cpu")
    network = build_network(json.loads((folder / "config.json").read_text()), causal=True)
    assert count_parameters(network) == count_parameters(llm)
    counted = sum(lora_sizes("llm", layer_sizes(network), LORA[family], 4).values())
    adapted = get_peft_model(
        llm, LoraConfig(r=4, target_modules=LORA[family], task_type="CAUSAL_LM")
    )
    assert (
        counted
        == sum(
            parameter.numel() for name, parameter in adapted.named_parameters() if "lora_" in name
        )
        > 0
    )


@pytest.mark.parametrize("name", catalogue.names("encoder"))
def test_every_encoder_of_the_catalogue_can_be_planned(name: str, params: Params) -> None:
    networks = read_networks(replace(params, encoder=name, projector="linear"))
    assert networks.encoder.width > 0
    assert all(checkpoint.num_bytes > 0 for checkpoint in networks.checkpoints)


def test_the_encoder_alone_of_qwen_audio_is_written(params: Params) -> None:
    networks = read_networks(replace(params, encoder="qwen-audio", projector="linear"))
    whisper = read_networks(replace(params, encoder="whisper-large-v2", projector="linear"))
    assert networks.encoder == replace(whisper.encoder, decoder_parameters=0)
    [fetched] = networks.checkpoints
    assert (fetched.num_bytes, fetched.converted_bytes) == (
        16.8e9,
        4 * networks.encoder.num_parameters,
    )


@pytest.mark.parametrize("name", catalogue.names("llm"))
def test_every_llm_of_the_catalogue_can_be_planned(name: str, params: Params) -> None:
    networks = read_networks(replace(params, llm=name))
    assert networks.modules["LoRA"][0] > 0
    assert networks.llm.has_position_ids != name.startswith("bloom")
    assert all(checkpoint.num_bytes > 0 for checkpoint in networks.checkpoints)


def test_a_matching_loss_that_is_off_trains_no_head(params: Params) -> None:
    def count(weight: float) -> int:
        matching = replace(params.train.matching, weight=weight)
        train = replace(params.train, matching=matching)
        return read_networks(replace(params, train=train)).modules["matching head"][0]

    assert count(0.3) > 0 == count(0.0)


@pytest.mark.parametrize(
    ("config", "cause"),
    [
        (None, "config.json"),
        ("{", "config.json"),
        ('{"model_type": "wav2vec2-bert"}', "'wav2vec2-bert'"),
        ('{"model_type": "qwen"}', "'qwen'"),
    ],
)
def test_a_local_folder_that_is_no_encoder_stops(
    config: str | None, cause: str, params: Params, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LIBRETTO_MODELS", str(tmp_path))
    if config is not None:
        (tmp_path / "my-encoder").mkdir()
        (tmp_path / "my-encoder/config.json").write_text(config)
    entry = catalogue.READERS["encoder"]("ctc-tiny")
    monkeypatch.setattr(
        catalogue,
        "encoder",
        lambda name: replace(entry, source=LocalSource("folder", "my-encoder")),
    )
    with pytest.raises(InputError) as caught:
        read_networks(replace(params, encoder="mine"))
    assert "mine" in caught.value.subject
    assert cause in str(caught.value)
    assert caught.value.hint


def test_parakeet_without_its_head_is_counted_too() -> None:
    with_head = build_network({"model_type": "parakeet_ctc", "encoder_config": {"hidden_size": 64}})
    encoder = build_network({"model_type": "parakeet_encoder", "hidden_size": 64})
    assert size_of(with_head, "none") == replace(size_of(encoder, "none"), has_ctc=True)


def test_a_shape_that_makes_no_network_stops() -> None:
    for shape in (
        {"model_type": "llama", "hidden_size": 30, "num_attention_heads": 4},
        {"model_type": "no-such"},
        {},
    ):
        with pytest.raises(InputError) as caught:
            build_network(shape, causal=True)
        assert caught.value.subject == "shape"
        assert caught.value.hint


def test_the_shape_of_a_local_folder_is_that_of_its_config(
    params: Params, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    save_llm(tmp_path / "mine", "phi")
    monkeypatch.setenv("LIBRETTO_MODELS", str(tmp_path))
    source = LocalSource("folder", "mine")
    monkeypatch.setattr(
        catalogue,
        "llm",
        lambda name: replace(llm_entry, source=source, lora=LoraTargets(LORA["phi"])),
    )
    llm_entry = catalogue.READERS["llm"]("phi-2")
    networks = read_networks(replace(params, llm="mine"))
    assert networks.llm.width == 32
    assert [checkpoint.repo for checkpoint in networks.checkpoints] == [""]


def test_the_q_former_of_salmonn_has_the_parameters_that_the_paper_prints(params: Params) -> None:
    """About 33 M with LoRA of rank 8 on query and value (arXiv 2310.13289, section 4.1); its
    audio-event encoder is as wide as ours.
    """
    rank = replace(params.train, lora=replace(params.train.lora, rank=8))
    entry = catalogue.llm("vicuna-13b")
    networks = read_networks(
        replace(
            params,
            encoder="whisper-large-v2-ast",
            projector="salmonn-qformer",
            llm="vicuna-13b",
            train=rank,
        )
    )
    projector = networks.modules["projector"][0]
    assert round(projector / 1e6, 2) == 26.78
    adapted = sum(
        lora_sizes(
            "llm",
            layer_sizes(build_network(entry.source.shape, causal=True)),
            ["q_proj", "v_proj"],
            8,
        ).values()
    )
    assert round((projector + adapted) / 1e6) == 33
    assert (networks.encoder.width, networks.bridge.stride) == (2048, 17)


@pytest.mark.parametrize("name", catalogue.names("projector"))
def test_every_bridge_of_the_catalogue_can_be_planned(name: str, params: Params) -> None:
    networks = read_networks(
        replace(params, encoder="hubert-large-ls960-ft", projector=name, llm="vicuna-7b")
    )
    assert sum(networks.modules["projector"]) > 0
    assert networks.bridge.stride >= 1


def test_tuned_parameters_of_encoder_and_llm_are_counted(params: Params) -> None:
    """LoRA at its rank on every attention of whisper-tiny: 4 layers, 4 matrices, 384 wide; a base
    moves as a whole.
    """
    whisper, stage = (
        replace(params, encoder="whisper-tiny", projector="linear"),
        params.train.curriculum[0],
    )

    def modules(*tune: str) -> dict[str, tuple[int, int]]:
        return read_networks(
            replace(whisper, train=replace(params.train, curriculum=[replace(stage, tune=[*tune])]))
        ).modules

    frozen = modules("projector")
    assert modules("encoder-lora")["encoder LoRA"] == (4 * 4 * 8 * (384 + 384), 0)
    assert frozen["encoder LoRA"] == (0, 0)
    for part, name in (("encoder", "encoder"), ("llm", "LLM")):
        assert modules(part)[name] == frozen[name][::-1]
        assert frozen[name][0] == 0 < frozen[name][1]
