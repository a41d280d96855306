"""A unit of other bits has another key: other libraries, and another type of CPU for what is
computed in floats. Bytes and counts are the same everywhere.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from components.runtime import code_digest as digests
from components.runtime import processor
from components.runtime.hashing import data_digest
from components.runtime.instruction_set import VARIABLES
from components.runtime.unit_cache import UNIT, cached_unit, finished_unit, unit_path
from tests.conftest import REPOSITORY

ON_DEVICE = ("components.features.extract", "components.train.task", "components.decode.shard")
ON_CPU = (
    "components.shards.build",
    "components.corpus.sources.spoken",
    "components.corpus.sources.altered",
)
BYTES = ("components.model.folders.conversion", "components.corpus.inspection")
XEON = "vendor_id : GenuineIntel\nflags : fpu avx avx2 fma avx512f avx512vl avx512bw avx512dq\n\n"
HASWELL = "vendor_id : GenuineIntel\nflags : fpu avx avx2 fma\n\n"
EPYC = "vendor_id : AuthenticAMD\nflags : fpu avx avx2 fma\n\n"


@pytest.fixture(autouse=True)
def _machine(work: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setenv("LIBRETTO_DEVICE", "cpu")
    for name in processor.OVERRIDES:
        monkeypatch.delenv(name, raising=False)
    move_to(XEON, tmp_path, monkeypatch)
    yield
    digests.code_digest.cache_clear()


def move_to(cpu: str, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = folder / f"cpuinfo-{data_digest(cpu)[:8]}"
    file.write_text(cpu * 2)
    monkeypatch.setattr(processor, "CPU_INFO", file)


def paths(modules: tuple[str, ...]) -> list[Path]:
    return [unit_path("stage", {"number": 1}, module) for module in modules]


def test_what_is_computed_in_floats_is_made_anew_on_another_cpu(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    floats, same = paths(ON_DEVICE + ON_CPU), paths(BYTES)
    move_to(EPYC, tmp_path, monkeypatch)
    others = paths(ON_DEVICE + ON_CPU)
    assert not set(floats) & set(others)
    assert paths(BYTES) == same
    monkeypatch.setenv("ATEN_CPU_CAPABILITY", "default")  # as on a CPU without vectors
    assert not set(others) & set(paths(ON_DEVICE + ON_CPU))
    assert paths(BYTES) == same


def test_instructions_that_a_stage_sets_count_in_place_of_those_of_the_cpu(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """MKL heeds AVX2 on the CPUs of one maker alone."""
    modules = ON_DEVICE + ON_CPU

    def paths_of(name: str, cpu: str) -> list[Path]:
        for variable, value in VARIABLES[name].items():
            monkeypatch.setenv(variable, value)
        move_to(cpu, tmp_path, monkeypatch)
        return paths(modules)

    assert paths_of("avx2", XEON) == paths_of("avx2", HASWELL)
    assert not set(paths_of("avx2", XEON)) & set(paths_of("avx2", EPYC))
    compatible = paths_of("compatible", XEON)
    assert compatible == paths_of("compatible", EPYC)
    assert not set(compatible) & set(paths_of("avx2", XEON))


def test_what_runs_on_a_gpu_does_not_depend_on_the_cpu(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    on_cpu, audio = paths(ON_DEVICE), paths(ON_CPU)
    monkeypatch.setenv("LIBRETTO_DEVICE", "cuda:1")
    on_gpu = paths(ON_DEVICE)
    assert not set(on_cpu) & set(on_gpu)
    assert paths(ON_CPU) == audio
    monkeypatch.setenv("LIBRETTO_DEVICE", "cuda")
    move_to(EPYC, tmp_path, monkeypatch)
    assert paths(ON_DEVICE) == on_gpu
    assert not set(paths(ON_CPU)) & set(audio)


def test_a_unit_is_made_anew_after_an_upgrade_and_states_the_versions_that_made_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    module, numbers = "components.features.extract", iter((1, 2))

    def compute(folder: Path) -> None:
        (folder / "number").write_text(str(next(numbers)))

    old = cached_unit("stage", {}, compute, code=module)
    original = digests.version
    monkeypatch.setattr(
        digests, "version", lambda name: "99.0" if name == "torch" else original(name)
    )
    digests.code_digest.cache_clear()
    assert finished_unit("stage", {}, module) is None
    new = cached_unit("stage", {}, compute, code=module)
    versions = [
        json.loads((unit / UNIT).read_text())["key"]["code"]["libraries"]["torch"]
        for unit in (old, new)
    ]
    assert versions == [original("torch"), "99.0"]


def test_the_type_of_the_cpu_is_read_without_torch() -> None:
    script = (
        "import sys; sys.modules['torch'] = sys.modules['numpy'] = None\n"
        "from components.runtime.unit_cache import unit_path\n"
        "print(unit_path('stage', {'number': 1}, 'components.train.task'))"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, cwd=REPOSITORY, check=False
    )
    assert done.returncode == 0, done.stderr
