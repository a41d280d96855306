"""Weights in CTranslate2's format and in GGUF: what is converted, and what is refused."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from gguf import GGMLQuantizationType as Quantisation
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file
from tokenizers import Tokenizer, models
from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaConfig, LlamaForCausalLM

from components.config.errors import InputError
from components.model.folders.ctranslate2 import read_model
from components.model.folders.gguf import read_gguf
from components.model.folders.gguf_conversion import convert_gguf
from components.model.folders.whisper_conversion import convert_whisper
from tests.checkpoints import WHISPER, save_encoder, tokenizer
from tests.ctranslate2_writer import ModelFile, whisper_file
from tests.errors import refused
from tests.gguf_writer import write_gguf

SPECIAL = ["<|endoftext|>", "<|startoftranscript|>", "<|notimestamps|>"]
FUSED = "encoder/layer_0/self_attention/linear_0"
PROPERTY = settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)


@pytest.fixture(scope="module")
def whisper(tmp_path_factory: pytest.TempPathFactory) -> Callable[[], ModelFile]:
    """Makes a correct file anew each time."""
    folder = save_encoder(tmp_path_factory.mktemp("whisper"), "whisper")
    tensors = load_file(folder / "model.safetensors")
    return lambda: whisper_file(tensors, WHISPER["encoder_attention_heads"])


def convert_file(file: ModelFile | bytes, folder: Path) -> Path:
    """Converts a file beside the smallest other ones that fit."""
    files = {name: folder / name for name in ("model.bin", "config.json", "tokenizer.json")}
    files["model.bin"].write_bytes(file if isinstance(file, bytes) else file.to_bytes())
    files["config.json"].write_text("{}")
    made = Tokenizer(models.BPE({f"t{index}": index for index in range(60)}, []))
    made.add_special_tokens(SPECIAL)
    files["tokenizer.json"].write_text(made.to_str())
    unit = folder / "unit"
    unit.mkdir(exist_ok=True)
    convert_whisper(files, unit, "encoder 'tiny'")
    return unit


def quantise(file: ModelFile) -> None:
    name = f"{FUSED}/weight"
    file.variables[name] = (100 * file.variables[name]).astype(np.int8)


def give_keys_a_bias(file: ModelFile) -> None:
    file.variables[f"{FUSED}/bias"][40] = 1


def widen(file: ModelFile) -> None:
    file.variables["encoder/layer_1/ffn/linear_0/weight"] = np.zeros((64, 33), np.float16)


def put_nan(file: ModelFile) -> None:
    file.variables["decoder/embeddings/weight"][0, 0] = np.nan


BROKEN: dict[str, Callable[[ModelFile], object]] = {
    "version": lambda file: setattr(file, "version", 5),
    "specification": lambda file: setattr(file, "specification", "TransformerSpec"),
    "revision": lambda file: setattr(file, "revision", 2),
    "quantised": quantise,
    "bias of keys": give_keys_a_bias,
    "missing": lambda file: file.variables.pop("encoder/layer_1/ffn/linear_1/bias"),
    "missing setting": lambda file: file.variables.pop("encoder/num_heads"),
    "missing embeddings": lambda file: file.variables.pop("encoder/conv1/weight"),
    "unknown": lambda file: file.variables.update({"encoder/extra": np.ones(3, np.float16)}),
    "shape": widen,
    "heads": lambda file: file.variables.update({"encoder/num_heads": np.array(5, np.int16)}),
    "activation": lambda file: file.variables.update({"decoder/activation": np.array(0, np.int8)}),
    "other projection": lambda file: file.aliases.clear(),
    "not finite": put_nan,
}


@pytest.mark.parametrize("kind", BROKEN)
def test_a_file_that_is_no_whisper_as_expected_is_refused(
    kind: str, whisper: Callable[[], ModelFile], tmp_path: Path
) -> None:
    file = whisper()
    BROKEN[kind](file)
    with refused(None, "encoder 'tiny'"):
        convert_file(file, tmp_path)


@PROPERTY
@given(cut=st.integers(0, 10**9))
def test_a_file_that_is_cut_short_is_refused(
    whisper: Callable[[], ModelFile], tmp_path: Path, cut: int
) -> None:
    data, path = whisper().to_bytes(), tmp_path / "model.bin"
    path.write_bytes(data[: cut % len(data)])
    with refused("model.bin"):
        read_model(path, "x")


@PROPERTY
@given(position=st.integers(0, 10**9), value=st.integers(0, 255))
def test_any_damage_gives_a_model_or_an_error_for_the_user(
    whisper: Callable[[], ModelFile], tmp_path: Path, position: int, value: int
) -> None:
    file = whisper()
    # Names and sizes, not values, so that damage hits what is parsed.
    file.variables = {
        name: values[..., :1] if values.ndim else values for name, values in file.variables.items()
    }
    data, path = bytearray(file.to_bytes()), tmp_path / "model.bin"
    data[position % len(data)] = value
    path.write_bytes(data)
    try:
        read_model(path, "x")
    except InputError as error:
        assert error.hint


def test_bytes_behind_the_end_are_refused(whisper: Callable[[], ModelFile], tmp_path: Path) -> None:
    (tmp_path / "model.bin").write_bytes(whisper().to_bytes() + b"\0")
    with refused("model.bin"):
        read_model(tmp_path / "model.bin", "x")


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("tokenizer.json", "{"),
        ("tokenizer.json", "{}"),
        ("tokenizer.json", '{"added_tokens": [{"content": "<|endoftext|>", "id": 5000}]}'),
        ("config.json", "[]"),
    ],
)
def test_descriptions_that_do_not_fit_are_refused(
    name: str, content: str, whisper: Callable[[], ModelFile], tmp_path: Path
) -> None:
    convert_file(whisper(), tmp_path)
    (tmp_path / name).write_text(content)
    files = {each: tmp_path / each for each in ("model.bin", "config.json", "tokenizer.json")}
    with refused(None, name):
        convert_whisper(files, tmp_path / "unit", "encoder 'tiny'")


def test_a_multilingual_whisper_knows_its_languages(tmp_path: Path) -> None:
    vocabulary = 51_866
    folder = save_encoder(tmp_path / "original", "whisper", vocab_size=vocabulary)
    tensors = load_file(folder / "model.safetensors")
    unit = tmp_path / "unit"
    unit.mkdir()
    files = {name: tmp_path / name for name in ("model.bin", "config.json", "tokenizer.json")}
    files["model.bin"].write_bytes(whisper_file(tensors, 2).to_bytes())
    files["config.json"].write_text('{"suppress_ids": [1, 2], "suppress_ids_begin": [3]}')
    made = Tokenizer(models.BPE({f"t{index}": index for index in range(60)}, []))
    made.add_special_tokens([*SPECIAL, "<|en|>", "<|fr|>", "<|transcribe|>", "<|translate|>"])
    files["tokenizer.json"].write_text(made.to_str())
    convert_whisper(files, unit, "x")
    generation = json.loads((unit / "generation_config.json").read_text())
    assert generation["lang_to_id"] == {"<|en|>": 63, "<|fr|>": 64}
    assert generation["task_to_id"] == {"transcribe": 65, "translate": 66}
    assert generation["suppress_tokens"] == [1, 2] and generation["begin_suppress_tokens"] == [3]
    assert generation["is_multilingual"] and generation["no_timestamps_token_id"] == 62


# ---- GGUF ----


@pytest.fixture(scope="module")
def llama() -> LlamaForCausalLM:
    """A LLaMA whose matrices are made of whole blocks of 32 values."""
    torch.manual_seed(1)
    units = tokenizer(pad="<|im_end|>", form="smollm2")
    config = LlamaConfig(
        vocab_size=len(units),
        hidden_size=64,
        intermediate_size=96,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=128,
        rms_norm_eps=1e-5,
        rope_parameters={"rope_type": "default", "rope_theta": 100_000.0},
        tie_word_embeddings=True,
        initializer_range=0.2,
    )
    return LlamaForCausalLM(config).eval()


def write_llama(path: Path, llama: LlamaForCausalLM, **options: object) -> dict[str, torch.Tensor]:
    tensors = {name: values for name, values in llama.state_dict().items() if "lm_head" not in name}
    units = tokenizer(pad="<|im_end|>", form="smollm2")
    return write_gguf(path, tensors, llama.config, units, **options)  # type: ignore[arg-type]


@pytest.mark.parametrize("quantisation", [Quantisation.F32, Quantisation.Q8_0, Quantisation.Q4_1])
def test_a_converted_llama_gives_the_logits_of_the_values_that_it_stands_for(
    quantisation: Quantisation, llama: LlamaForCausalLM, tmp_path: Path
) -> None:
    path, unit = tmp_path / "model.gguf", tmp_path / "unit"
    unit.mkdir()
    meant = write_llama(path, llama, quantisation=quantisation)
    convert_gguf({"model.gguf": path}, unit, "llm 'tiny'")
    expected = LlamaForCausalLM(llama.config).eval()
    expected.load_state_dict(
        {name: values.half().float() for name, values in meant.items()}, strict=False
    )
    converted = AutoModelForCausalLM.from_pretrained(unit, dtype=torch.float32)
    input_ids = torch.arange(40)[None]
    torch.testing.assert_close(
        converted(input_ids).logits, expected(input_ids).logits, rtol=0, atol=0
    )
    assert converted.config.eos_token_id == tokenizer(form="smollm2").eos_token_id


def test_the_tokenizer_comes_with_its_special_tokens_and_its_template(
    llama: LlamaForCausalLM, tmp_path: Path
) -> None:
    unit = tmp_path / "unit"
    unit.mkdir()
    write_llama(tmp_path / "model.gguf", llama)
    convert_gguf({"model.gguf": tmp_path / "model.gguf"}, unit, "x")
    converted, original = AutoTokenizer.from_pretrained(unit), tokenizer(form="smollm2")
    for text in ("amber birch", "<|im_start|>cedar <|im_end|>", " delta\n"):
        assert converted(text).input_ids == original(text).input_ids
        assert converted.decode(converted(text).input_ids) == text
    assert converted.pad_token == "<|im_end|>" and converted.bos_token == "<|im_start|>"
    turn = [{"role": "user", "content": "ember"}]
    assert converted.apply_chat_template(turn, tokenize=False) == "ember"


@pytest.mark.parametrize(
    "options",
    [
        {"architecture": "mamba"},
        {"pre_tokenizer": "unknown-to-us"},
        {"added": {"rope_freqs.weight": np.ones(8, np.float32)}},
        {"quantisation": Quantisation.Q5_0},  # transformers does not read it
    ],
)
def test_a_gguf_of_another_kind_is_refused(
    options: dict[str, object], llama: LlamaForCausalLM, tmp_path: Path
) -> None:
    write_llama(tmp_path / "model.gguf", llama, **options)
    (tmp_path / "unit").mkdir()
    with refused("llm 'tiny'"):
        convert_gguf({"model.gguf": tmp_path / "model.gguf"}, tmp_path / "unit", "llm 'tiny'")


@pytest.mark.parametrize("change", ["missing", "other shape", "too large", "not finite"])
def test_tensors_that_do_not_fit_are_refused(
    change: str, llama: LlamaForCausalLM, tmp_path: Path
) -> None:
    tensors = {name: values for name, values in llama.state_dict().items() if "lm_head" not in name}
    name = "model.layers.1.mlp.up_proj.weight"
    if change == "missing":
        del tensors[name]
    else:
        rows = tensors[name][:-1] if change == "other shape" else tensors[name].clone()
        if change == "too large":
            rows[0, 0] = 1e6
        if change == "not finite":
            rows[0, 0] = float("nan")
        tensors[name] = rows
    units = tokenizer(pad="<|im_end|>", form="smollm2")
    write_gguf(tmp_path / "model.gguf", tensors, llama.config, units)
    (tmp_path / "unit").mkdir()
    with refused("llm 'tiny'", "blk.1.ffn_up.weight"):
        convert_gguf({"model.gguf": tmp_path / "model.gguf"}, tmp_path / "unit", "llm 'tiny'")


@pytest.fixture(scope="module")
def gguf_bytes(llama: LlamaForCausalLM, tmp_path_factory: pytest.TempPathFactory) -> bytes:
    path = tmp_path_factory.mktemp("gguf") / "model.gguf"
    write_llama(path, llama, quantisation=Quantisation.Q4_1)
    return path.read_bytes()


@PROPERTY
@given(cut=st.integers(0, 10**9))
def test_a_gguf_that_is_cut_short_is_refused(gguf_bytes: bytes, tmp_path: Path, cut: int) -> None:
    path = tmp_path / "model.gguf"
    path.write_bytes(gguf_bytes[: cut % len(gguf_bytes)])
    with refused("x"):
        read_gguf(path, (), "x")


@PROPERTY
@given(position=st.integers(0, 10**9), value=st.integers(0, 255))
def test_any_damage_to_a_gguf_gives_a_network_or_an_error_for_the_user(
    gguf_bytes: bytes, tmp_path: Path, position: int, value: int
) -> None:
    data, path = bytearray(gguf_bytes), tmp_path / "model.gguf"
    data[position % 12_000] = value  # metadata and the table of tensors
    path.write_bytes(data)
    try:
        read_gguf(path, ("tokenizer.ggml.tokens",), "x")
    except InputError as error:
        assert error.hint


def test_bytes_behind_a_gguf_are_refused(gguf_bytes: bytes, tmp_path: Path) -> None:
    (tmp_path / "model.gguf").write_bytes(gguf_bytes + bytes(64))
    with refused("x"):
        read_gguf(tmp_path / "model.gguf", (), "x")
