"""Libraries compute with the instructions of the setting, whatever the shell and machine say."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from components.runtime import instruction_set
from components.runtime.instruction_set import VARIABLES, has_avx2, pin_instruction_set
from components.runtime.pool import fan_out

needs_avx2 = pytest.mark.skipif(not has_avx2(), reason="this CPU has no AVX2")
COMPUTE = """
from components.runtime.instruction_set import pin_instruction_set
print(pin_instruction_set())
import hashlib
import numpy as np, torch
from numpy._core._multiarray_umath import __cpu_features__ as features
print(torch.backends.cpu.get_cpu_capability(), features["X86_V4"])
torch.manual_seed(0)
torch.set_num_threads(1)
audio = torch.randn(4, 80, 300)
results = [
    torch.nn.Conv1d(80, 96, 3)(audio),
    torch.fft.rfft(audio).abs(),
    torch.randn(200, 300) @ torch.randn(300, 200),
    torch.softmax(torch.nn.functional.gelu(audio), -1),
]
values = np.random.default_rng(0).random((200, 200))
arrays = [result.detach().numpy() for result in results] + [values @ values, np.exp(values)]
print(*(hashlib.sha256(array.tobytes()).hexdigest() for array in arrays))
"""


def compute(**variables: str) -> list[str]:
    """The lines of ``COMPUTE`` in a process of its own, in a shell with these variables."""
    pinned = VARIABLES["avx2"]
    shell = {name: value for name, value in os.environ.items() if name not in pinned} | variables
    return subprocess.run(
        [sys.executable, "-c", COMPUTE], env=shell, capture_output=True, text=True, check=True
    ).stdout.splitlines()


@needs_avx2
@pytest.mark.slow
def test_the_bits_do_not_depend_on_the_shell() -> None:
    """A shell that asks for less and one that asks for all give what an empty one gives."""
    usual = compute()
    assert usual[:2] == ["avx2", "AVX2 False"]
    less = compute(
        ATEN_CPU_CAPABILITY="default",
        ONEDNN_MAX_CPU_ISA="SSE41",
        MKL_CBWR="COMPATIBLE",
        OPENBLAS_CORETYPE="Nehalem",
    )
    more = compute(
        ATEN_CPU_CAPABILITY="avx512",
        ONEDNN_MAX_CPU_ISA="ALL",
        MKL_CBWR="AUTO",
        OPENBLAS_CORETYPE="SkylakeX",
    )
    assert less == usual
    assert more == usual


def list_features_beyond_avx2() -> set[str]:
    """Those for which the wheel of NumPy has loops of their own."""
    from numpy._core import _multiarray_umath

    return set(_multiarray_umath.__cpu_dispatch__) - {"X86_V3"}


@needs_avx2
def test_every_loop_of_numpy_beyond_avx2_is_named() -> None:
    named = set(VARIABLES["avx2"]["NPY_DISABLE_CPU_FEATURES"].split())
    assert named == list_features_beyond_avx2()


@needs_avx2
@pytest.mark.parametrize(("name", "branch"), [("avx2", "AVX2"), ("compatible", "COMPATIBLE")])
def test_a_setting_replaces_what_the_shell_says(
    name: str, branch: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MKL_CBWR", "AUTO")
    monkeypatch.setenv("LIBRETTO_INSTRUCTIONS", name)
    assert pin_instruction_set() == name
    assert os.environ["MKL_CBWR"] == branch


@pytest.mark.parametrize("flags", ["fpu sse2 avx", None], ids=["no AVX2", "no such file"])
def test_a_cpu_without_avx2_is_left_alone(
    flags: str | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Torch would use AVX2 where its variable says so, and be killed."""
    if flags is not None:
        (tmp_path / "cpuinfo").write_text(f"processor : 0\nflags\t\t: {flags}\n")
    monkeypatch.setattr(instruction_set, "CPU_INFO", tmp_path / "cpuinfo")
    for name in VARIABLES["avx2"]:
        monkeypatch.delenv(name, raising=False)
    assert pin_instruction_set() == "native"
    assert not VARIABLES["avx2"].keys() & os.environ.keys()


def read_variable(name: str) -> str:
    return os.environ.get(name, "")


@needs_avx2
def test_worker_processes_inherit_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LIBRETTO_WORKERS", "2")
    monkeypatch.setenv("MKL_CBWR", "AUTO")
    pin_instruction_set()
    assert dict(fan_out(read_variable, ["MKL_CBWR", "ATEN_CPU_CAPABILITY"])) == {
        "MKL_CBWR": "AVX2",
        "ATEN_CPU_CAPABILITY": "avx2",
    }
