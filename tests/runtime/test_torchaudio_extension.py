"""torchaudio loads beside any build of torch, and its compiled part is used where that loads."""

from __future__ import annotations

import subprocess
import sys
from importlib.abc import Loader
from types import ModuleType

import numpy as np
import pytest
import torch

from components.runtime import torchaudio_extension
from components.runtime.torchaudio_extension import ExtensionLoader, align
from tests.conftest import REPOSITORY

CODE = """
import components
from peft import LoraConfig
from torchaudio.compliance.kaldi import fbank
from torchaudio.functional import forced_align
from transformers import HubertModel, LlamaForCausalLM
import torch
units, scores = forced_align(torch.eye(3)[[0, 1, 0, 2]].log()[None] + 0.0, torch.tensor([[1, 2]]))
assert units.tolist() == [[0, 1, 0, 2]], units
assert scores.tolist() == [[0.0] * 4], scores
assert fbank(torch.ones(1, 1600)).shape == (8, 23)
"""


def is_compiled() -> bool:
    import torchaudio

    return bool(torchaudio._extension._IS_TORCHAUDIO_EXT_AVAILABLE)


def test_transformers_and_peft_load_beside_torchaudio() -> None:
    subprocess.run([sys.executable, "-c", CODE], check=True, cwd=REPOSITORY)


class FixedLoader(Loader):
    """Loads a module whose compiled part is there, or is not."""

    def __init__(self, error: Exception | None) -> None:
        self.error = error

    def exec_module(self, module: ModuleType) -> None:
        module.__dict__["_IS_TORCHAUDIO_EXT_AVAILABLE"] = "its own"
        if self.error:
            raise self.error


@pytest.mark.parametrize("error", [None, OSError("libc10_cuda.so"), ImportError("torch")])
def test_only_missing_libraries_are_replaced(
    error: Exception | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    defined = []
    monkeypatch.setattr(torchaudio_extension, "_define_operator", lambda: defined.append(1))
    module = ModuleType("extension")
    if isinstance(error, ImportError):
        with pytest.raises(ImportError):
            ExtensionLoader(FixedLoader(error)).exec_module(module)
    else:
        ExtensionLoader(FixedLoader(error)).exec_module(module)
    is_replaced = isinstance(error, OSError)
    assert bool(defined) == is_replaced
    flag = module._IS_TORCHAUDIO_EXT_AVAILABLE
    assert flag is False if is_replaced else flag == "its own"


def test_too_few_frames_are_refused() -> None:
    with pytest.raises(ValueError, match="2 frames"):
        align(np.zeros((2, 2)), np.array([1, 1]), 0)


@pytest.mark.parametrize("seed", range(20))
def test_the_compiled_operator_gives_the_same_path(seed: int) -> None:
    if not is_compiled():
        pytest.skip("the compiled part of torchaudio does not load beside this build of torch")
    from torchaudio.functional import forced_align

    random = np.random.default_rng(seed)
    scores = torch.from_numpy(random.normal(size=(1, 80, 30))).float().log_softmax(-1)
    target = torch.from_numpy(random.integers(1, 30, (1, int(random.integers(1, 30)))))
    path, _ = forced_align(scores, target)
    assert path[0].tolist() == align(scores[0].double().numpy(), target[0].numpy(), 0).tolist()
