"""The instructions of the CPU that the libraries of a stage compute with.

A library that takes the widest vectors of the machine adds floats in another order on another
machine, and its sums have other last bits. So a stage sets what its libraries choose, in its own
process and before it imports any of them; worker processes, ranks and Ray tasks inherit it.

In: ``LIBRETTO_INSTRUCTIONS``. Out: variables of the environment. Cost: docs/results/overheads.md.

What is not set, since it has no switch or needs none: libFLAC and the C library take FMA wherever
AVX2 is; soxr and pyarrow decide when they are compiled; onnxruntime, which speaks the synthetic
voices of some corpora, chooses by the machine and has no switch.
"""

from __future__ import annotations

import os
import platform
from functools import cache
from pathlib import Path

from components.runtime.settings import read_settings

CPU_INFO = Path("/proc/cpuinfo")
NATIVE = "native"
_AVX2 = {
    "ATEN_CPU_CAPABILITY": "avx2",  # torch's own loops
    "ONEDNN_MAX_CPU_ISA": "AVX2",  # torch's convolutions
    "MKL_CBWR": "AVX2",  # torch's matrix products and FFT; MKL heeds it on Intel's CPUs alone
    "OPENBLAS_CORETYPE": "Haswell",  # NumPy's matrix products; Haswell was the first with AVX2
    # NumPy's own loops: the names of all that its wheel has beyond AVX2 (NumPy 2.4).
    "NPY_DISABLE_CPU_FEATURES": "X86_V4 AVX512_ICL AVX512_SPR",
}
VARIABLES = {
    "avx2": _AVX2,
    # SSE2 in MKL: the one choice that it makes on the CPUs of all makers.
    "compatible": {**_AVX2, "MKL_CBWR": "COMPATIBLE"},
    NATIVE: {},
}


def pin_instruction_set() -> str:
    """Has libraries that are imported from now on compute with the instructions of the setting,
    whatever the shell says; returns its name: ``native`` on a CPU without AVX2.

    Raises InputError where the setting is wrong.
    """
    chosen = read_settings().instructions
    name = chosen if has_avx2() else NATIVE
    os.environ.update(VARIABLES[name])
    return name


def current_set() -> str:
    """The name of the set that this process computes with, by its variables."""
    return next(
        (name for name, values in VARIABLES.items() if values.items() <= os.environ.items()), NATIVE
    )


def pinned_variables() -> dict[str, str]:
    """The variables as this process has them, for workers that do not inherit them."""
    return {name: os.environ[name] for name in _AVX2 if name in os.environ}


def has_avx2() -> bool:
    """Whether this is an x86-64 CPU with AVX2 and FMA: torch takes its setting unchecked, and would
    be ended by the first instruction that is missing.
    """
    is_x86 = platform.machine() in ("x86_64", "AMD64")
    return is_x86 and {"avx2", "fma"} <= set(read_cpu(CPU_INFO).get("flags", "").split())


@cache
def read_cpu(file: Path) -> dict[str, str]:
    """What the kernel says of the first processor of a machine, by name; empty where the system
    has no such file.
    """
    try:
        lines = file.read_text().partition("\n\n")[0].splitlines()
    except OSError:  # not Linux
        return {}
    pairs = (line.split(":", 1) for line in lines if ":" in line)
    return {name.strip(): value.strip() for name, value in pairs}
