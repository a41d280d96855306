"""Whatever is in a file of weights, it is read or refused with a reason, and nothing else."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import save

from components.config.errors import InputError
from components.model.folders.ctranslate2 import read_model
from components.model.folders.folder import fill_unit
from components.model.folders.gguf import read_gguf
from components.model.folders.weights import check_weights
from tests.ctranslate2_writer import ModelFile
from tests.mutations import mutated_files

TENSORS = {"a": torch.arange(6.0).reshape(2, 3), "b": torch.ones(4, dtype=torch.bfloat16)}


def gguf_file(path: Path) -> bytes:
    import gguf

    writer = gguf.GGUFWriter(path, "llama")
    writer.add_block_count(1)
    writer.add_token_list(["a", "b"])
    writer.add_tensor("a", np.arange(64, dtype=np.float32).reshape(2, 32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path.read_bytes()


def test_mutated_safetensors_are_read_or_refused(tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    for _, data in mutated_files({"weights": save(TENSORS)}, 500):
        path.write_bytes(data)
        try:
            check_weights(path, "mine: model.safetensors")
        except InputError as error:
            assert error.hint


def test_mutated_files_of_other_formats_are_read_or_refused(tmp_path: Path) -> None:
    path = tmp_path / "model"
    values = {"a/weight": np.ones((2, 3), np.float16), "b": np.zeros(4, np.float32)}
    files = {
        "ctranslate2": ModelFile(values, {"c": "b"}).to_bytes(),
        "gguf": gguf_file(tmp_path / "whole"),
    }
    for name, data in mutated_files(files, 500):
        path.write_bytes(data)
        try:
            if name == "gguf":
                file = read_gguf(path, ("tokenizer.ggml.tokens",), "mine")
                for tensor in file.shapes:
                    file.tensor(tensor)
            else:
                read_model(path, "mine")
        except InputError as error:
            assert error.hint


def test_mutated_settings_of_a_network_are_taken_or_refused(tmp_path: Path) -> None:
    weights = tmp_path / "model.safetensors"
    weights.write_bytes(save(TENSORS))
    config = {"model_type": "whisper", "encoder_layers": 2, "d_model": 32, "auto_map": {"A": "b.C"}}
    files = {"config.json": json.dumps(config).encode()}
    for number, (name, data) in enumerate(mutated_files(files, 200)):
        (tmp_path / name).write_bytes(data)
        unit = tmp_path / str(number)
        unit.mkdir()
        paths = {name: tmp_path / name, weights.name: weights}
        try:
            fill_unit(unit, paths, "encoder 'mine'", uses_links=False)
        except InputError as error:
            assert error.hint
