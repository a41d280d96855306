"""How many processes train together on this machine, and by which engine.

In: the settings of a training and the runtime settings (``LIBRETTO_ENGINE``, ``LIBRETTO_NODES``,
``LIBRETTO_DEVICE``, ``LIBRETTO_WORKERS``). Out: engine and number of processes. Cost: torch is
imported where there is a GPU.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Protocol

from components.config.errors import InputError
from components.runtime.settings import device, read_settings, workers


class RankSettings(Protocol):
    """What all trainings say of their ranks: ``Train``, ``CtcTraining``, ``CopyingTraining``."""

    @property
    def micro_batches(self) -> int:
        """Parts of a step's batch, all ranks together."""

    @property
    def threads(self) -> int:
        """Threads of a process on the CPU."""

    @property
    def precision(self) -> str:
        """fp32, bf16 or fp16."""


@dataclass(frozen=True)
class Engine:
    """How training is distributed over processes; ``name`` is empty where nothing is set."""

    name: str
    nodes: int
    rendezvous: str  # host:port


def engine() -> Engine:
    """The engine of training; raises InputError where several machines have no engine, or no
    address at which their ranks connect.
    """
    settings = read_settings()
    has_port = settings.rendezvous.rpartition(":")[2].isdecimal()
    if settings.nodes > 1 and not (settings.engine and has_port):
        raise InputError(
            f"LIBRETTO_NODES={settings.nodes}: the machines need an engine and a rendezvous.",
            subject="LIBRETTO_NODES",
            hint="Set LIBRETTO_ENGINE to ddp or fsdp, and LIBRETTO_RENDEZVOUS to host:port of the "
            "first of them.",
        )
    return Engine(settings.engine, settings.nodes, settings.rendezvous)


@dataclass(frozen=True)
class TrainingSection:
    """Where the settings of a training are, for messages."""

    owner: str = "train"  # what is trained
    path: str = "train"  # dotted, of its settings
    can_shard: bool = True  # whether ranks can share the layers of what they train


BRIDGE = TrainingSection()


def trained_section(kind: str, name: str) -> TrainingSection:
    """That of an encoder or LLM (``kind``) which is trained here: the catalogue entry ``name``."""
    return TrainingSection(f"{kind} '{name}'", "source.training", can_shard=False)


def choose_ranks(settings: RankSettings, section: TrainingSection = BRIDGE) -> tuple[Engine, int]:
    """The engine, without a name where torchrun is not needed, and the number of processes on this
    machine.

    Without an engine in the runtime settings there are as many ranks as GPUs (on the CPU: as
    workers), and at most as many as micro-batches. Raises InputError where an engine is set and
    there would be more, and for fp16 with FSDP.
    """
    chosen, num_gpus = engine(), count_gpus()
    if chosen.name == "fsdp" and not section.can_shard:
        chosen = replace(chosen, name="ddp")
    if not chosen.name:
        num_processes = min(num_gpus or workers(), settings.micro_batches)
        return replace(chosen, name="ddp" if num_gpus and num_processes > 1 else ""), num_processes
    if chosen.name == "fsdp" and settings.precision == "fp16":
        raise InputError(
            f"{section.owner}: ranks that share a sharded LLM would not agree on which step "
            "overflowed fp16.",
            subject=f"{section.path}.precision",
            hint=f"Set {section.path}.precision to bf16, or LIBRETTO_ENGINE to ddp.",
        )
    num_processes = num_gpus or workers()
    world_size = num_processes * chosen.nodes
    if world_size > settings.micro_batches:
        raise InputError(
            f"{section.owner}: {world_size} ranks would share the {settings.micro_batches} "
            "micro-batches of a step: some would have nothing to do.",
            subject=f"{section.path}.micro_batches",
            hint=f"Set {section.path}.micro_batches to the number of ranks or a multiple of it, or "
            "start fewer processes.",
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
