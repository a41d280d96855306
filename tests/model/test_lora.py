"""LoRA on every family of encoders: what is adapted is heard and learns, and what would not is
refused. LLMs: test_joined.
"""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from components.config import catalogue
from components.config.errors import InputError
from components.model.encoders.encoder import SpeechEncoder
from components.model.lora import add_adapter, check_gradients
from tests.checkpoints import ENCODER_LORA, save_encoder
from tests.conftest import REPOSITORY
from tests.errors import refused
from tests.model.test_encoder import close, wave

RATE = 16_000
WAVLM = [family for family in ENCODER_LORA if family.startswith("wavlm")]
# The families of the catalogue's names; the longest beginning counts, and the rule for batches
# tells the norm.
FAMILY = {
    "ctc": "parakeet",
    "conformer-ctc": "parakeet",
    "parakeet-ctc": "parakeet",
    "whisper": "whisper",
    "whisper-large-v2-ast": "whisper-ast",
    "qwen-audio": "whisper",
    "hubert": "hubert",
    "wav2vec2": "wav2vec2",
    "wavlm": "wavlm",
}


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("encoders")
    return {family: save_encoder(folder / family, family) for family in ENCODER_LORA}


def heard(encoder: SpeechEncoder) -> torch.Tensor:
    """Frames of a second, with the graph behind them."""
    return encoder.family.encode([wave(RATE)], "last")[0]


def moved(network: torch.nn.Module) -> list[str]:
    """Moves all LoRA weights away from where they started; gives their names."""
    random = torch.Generator().manual_seed(5)
    lora = {name: parameter for name, parameter in network.named_parameters() if "lora_" in name}
    for parameter in lora.values():
        parameter.data += 0.1 * torch.randn(parameter.shape, generator=random)
    return list(lora)


@pytest.mark.parametrize("family", ENCODER_LORA)
def test_every_weight_of_an_adapted_encoder_gets_a_gradient(
    family: str, folders: dict[str, Path]
) -> None:
    encoder = SpeechEncoder(folders[family])
    before = heard(encoder)
    add_adapter(encoder.model, ENCODER_LORA[family], 2, 4, 0.0, 3)
    assert close(heard(encoder).detach(), before), "it starts as no change"
    names = moved(encoder.model)
    assert not close(heard(encoder).detach(), before), "what is adapted is heard"
    # Of two encoders side by side each has its own output projection, and the others both.
    assert len(names) == 2 * 2 * (8 if family == "whisper-ast" else len(ENCODER_LORA[family]))
    assert not [name for name in names if "decoder" in name]
    weighed = torch.randn(before.shape, generator=torch.Generator().manual_seed(1))
    (heard(encoder) * weighed).sum().backward()
    check_gradients(encoder.model, family)
    for name, parameter in encoder.model.named_parameters():
        assert parameter.requires_grad == (name in names), name
        assert name not in names or parameter.grad.abs().sum() > 0, name


@pytest.mark.parametrize("family", WAVLM)
def test_attention_that_reads_weights_alone_is_refused(
    family: str, folders: dict[str, Path]
) -> None:
    encoder = SpeechEncoder(folders[family])
    add_adapter(encoder.model, ["q_proj", "output_dense"], 2, 4, 0.0, 3)
    heard(encoder).pow(2).sum().backward()
    with pytest.raises(
        InputError,
        match=r"encoder 'x': .*q_proj\.lora_A.* and 1 more\. .*intermediate_dense and output_dense",
    ) as stopped:
        check_gradients(encoder.model, "encoder 'x'")
    assert "output_dense.lora" not in str(stopped.value), "what has a gradient is not named"


@pytest.mark.parametrize("family", ENCODER_LORA)
def test_a_target_that_an_encoder_lacks_is_refused(family: str, folders: dict[str, Path]) -> None:
    encoder = SpeechEncoder(folders[family])
    with refused(None, "'q_prj'", "lora.targets", "'q_proj'"):
        add_adapter(encoder.model, [*ENCODER_LORA[family], "q_prj"], 2, 4, 0.0, 3)
    assert not moved(encoder.model), "nothing is adapted"


def test_log_mel_has_nothing_to_adapt(tmp_path: Path) -> None:
    with refused(None, "'q_proj'"):
        add_adapter(SpeechEncoder(save_encoder(tmp_path, "fbank")).model, ["q_proj"], 2, 4, 0.0, 3)


@pytest.mark.parametrize("family", ENCODER_LORA)
def test_the_adapter_holds_its_own_weights_and_repeats_by_its_seed(
    family: str, folders: dict[str, Path], tmp_path: Path
) -> None:
    for place, seed in (("one", 3), ("again", 3), ("other", 4)):
        add_adapter(
            SpeechEncoder(folders[family]).model, ENCODER_LORA[family], 2, 4, 0.0, seed
        ).save_pretrained(tmp_path / place)
    one, again, other = (
        load_file(tmp_path / place / "adapter_model.safetensors")
        for place in ("one", "again", "other")
    )
    assert all("lora_" in name for name in one)
    assert all(torch.equal(one[name], again[name]) for name in one)
    assert any(not torch.equal(one[name], other[name]) for name in one)


@pytest.fixture
def at_home(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(REPOSITORY)


def test_the_catalogue_names_the_layers_of_each_family(at_home: None) -> None:
    for name in catalogue.names("encoder"):
        entry = catalogue.encoder(name)
        if name == "fbank":
            assert entry.lora is None
            continue
        family = FAMILY[max((begin for begin in FAMILY if name.startswith(begin)), key=len)]
        if family not in ENCODER_LORA:
            family += "-group-norm" if entry.numerics.batching == "equal-length" else "-layer-norm"
        assert entry.lora and entry.lora.targets == ENCODER_LORA[family], name
