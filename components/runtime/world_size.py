"""How many processes train together on this machine, and by which engine.

In: the section ``train`` and the runtime settings (``LIBRETTO_ENGINE``, ``LIBRETTO_NODES``,
``LIBRETTO_DEVICE``, ``LIBRETTO_WORKERS``). Out: engine and number of processes. Cost: torch is
imported where there is a GPU.
"""

from __future__ import annotations

from dataclasses import replace

from components.config.errors import InputError
from components.config.training import Train
from components.runtime.settings import Engine, device, engine, workers


def choose_ranks(settings: Train) -> tuple[Engine, int]:
    """The engine, without a name where torchrun is not needed, and the number of processes on this
    machine.

    Without an engine in the runtime settings there are as many ranks as GPUs (on the CPU: as
    workers), and at most as many as micro-batches. Raises InputError where an engine is set and
    there would be more, and for fp16 with FSDP.
    """
    chosen, num_gpus = engine(), count_gpus()
    if not chosen.name:
        num_processes = min(num_gpus or workers(), settings.micro_batches)
        return replace(chosen, name="ddp" if num_gpus and num_processes > 1 else ""), num_processes
    if chosen.name == "fsdp" and settings.precision == "fp16":
        raise InputError(
            "train: ranks that share a sharded LLM would not agree on which step overflowed fp16.",
            subject="train.precision",
            hint="Set train.precision to bf16, or LIBRETTO_ENGINE to ddp.",
        )
    num_processes = num_gpus or workers()
    world_size = num_processes * chosen.nodes
    if world_size > settings.micro_batches:
        raise InputError(
            f"train: {world_size} ranks would share the {settings.micro_batches} micro-batches of "
            "a step: some would have nothing to do.",
            subject="train.micro_batches",
            hint="Set train.micro_batches to the number of ranks or a multiple of it, or start "
            "fewer processes.",
        )
    return chosen, num_processes


def count_gpus() -> int:
    """Number of GPUs that may train: all for the device ``cuda``, one for ``cuda:1``; 0 for the
    CPU.
    """
    name = device()
    if not name.startswith("cuda"):
        return 0
    import torch

    return torch.cuda.device_count() if name == "cuda" else 1
