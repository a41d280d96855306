"""What decides the bits of a unit beside code, inputs and parameters: the type of the processor.

In: the module that computes a unit, the runtime setting ``LIBRETTO_DEVICE``, ``/proc/cpuinfo``.
Out: a text for the key of the unit, by its kind:

===========================  =======================================================================
bytes, counts, copies        empty: equal everywhere (``EXACT``)
audio, shards                the type of the CPU: resampling, synthesis and the FLAC encoder use its
                             vector instructions, on a machine with a GPU too
frames, trainings, decoding  the type of the CPU where they run on it, else ``cuda``: on GPUs a
                             tolerance is promised and no bits, so a training may change its GPU
===========================  =======================================================================

torch is not asked, since it takes seconds to load. Cost: one small file, once.
"""

from __future__ import annotations

import os
import platform

from components.runtime.code_digest import code_digest
from components.runtime.instruction_set import CPU_INFO, NATIVE, VARIABLES, current_set, read_cpu
from components.runtime.settings import device

# Modules whose units hold what is equal on every processor: files as they came, tensors that are
# copied or cast one by one, lengths and counts.
EXACT = frozenset(
    {
        "components.corpus.inspection",
        "components.corpus.sources.webdataset",
        "components.encoder.folders",
        "components.model.folders.conversion",
        "components.model.folders.gguf_conversion",
        "components.model.folders.qwen_audio",
        "components.model.folders.whisper_conversion",
        "components.plan.counts",
        "components.train.released",
    }
)
ON_CPU = "components.corpus."  # modules that compute on the CPU, whatever the device is
# Vector instructions between which libraries choose when they run, by their names in cpuinfo.
INSTRUCTIONS = (
    *("avx", "avx2", "fma", "f16c", "avx_vnni"),
    *("avx512f", "avx512bw", "avx512dq", "avx512vl", "avx512_vnni", "avx512_bf16", "avx512_fp16"),
    *("amx_tile", "amx_int8", "amx_bf16"),
    *("asimd", "asimdhp", "asimddp", "sve", "sve2", "i8mm", "bf16"),
)
# Who made it: a library of matrix products takes other instructions on each.
MAKERS = ("vendor_id", "CPU implementer", "CPU part")
# Variables by which libraries take other instructions than the CPU has.
OVERRIDES = (*VARIABLES["avx2"], "MKL_ENABLE_INSTRUCTIONS")


def processor_of(code: str) -> str:
    """What decides the bits of a unit that the module ``code`` computes; empty where nothing
    does.
    """
    libraries = code_digest(code).libraries
    if code in EXACT or not libraries:
        return ""
    if "torch" in libraries and not code.startswith(ON_CPU):
        name = device().partition(":")[0]
        if name != "cpu":
            return name
    return cpu_type()


def cpu_type() -> str:
    """Architecture, maker and vector instructions of this CPU, and what overrides them; where a
    stage has set its instructions, these instead of those that the CPU has.
    """
    architecture, makers, instructions = _describe_cpu()
    chosen = current_set()
    if chosen != NATIVE:
        return " ".join([architecture, *(makers if chosen == "avx2" else ()), chosen])
    overrides = [f"{name}={os.environ[name]}" for name in OVERRIDES if os.environ.get(name)]
    return " ".join([architecture, *makers, *instructions, *overrides])


def _describe_cpu() -> tuple[str, tuple[str, ...], tuple[str, ...]]:
    """Architecture, makers and vector instructions."""
    facts = read_cpu(CPU_INFO)
    if not facts:
        return platform.machine(), (platform.processor(),), ()
    features = set(f"{facts.get('flags', '')} {facts.get('Features', '')}".split())
    makers = tuple(facts[name] for name in MAKERS if name in facts)
    return platform.machine(), makers, tuple(name for name in INSTRUCTIONS if name in features)
