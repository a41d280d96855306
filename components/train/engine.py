"""The processes that train: those of this machine by themselves, or ``torchrun``'s, on one machine
or several.

In: a task and the runtime settings (``LIBRETTO_ENGINE``, ``LIBRETTO_NODES``, ``LIBRETTO_RENDEZVOUS``).
Out: what the task writes, the same but for rounding whatever the engine, since the batch of a step
comes from the parameters alone. Cost: a few seconds to start.

============  =================================================================================================================
(not set)     CPU: ``LIBRETTO_WORKERS`` processes of this machine, no more than there are micro-batches. GPU: ``ddp`` over all
              GPUs where there are several, else one process
``ddp``       torchrun; every rank holds all weights, gradients are summed over ranks
``fsdp``      torchrun; the LLM's layers lie in parts on all ranks (FSDP2): for an LLM that one GPU can't hold
============  =================================================================================================================
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, Protocol

from pydantic import TypeAdapter

from components.config.errors import BY_KIND, InputError, LibrettoError, TransientError
from components.config.training import Train
from components.optim.ranks import Ranks, train_together
from components.runtime.pool import die_with_parent
from components.runtime.settings import Engine, device, engine, workers

RANK = "components.train.rank"  # the module that torchrun runs
TASK, FAILED = "task.json", "failed"


class Task(Protocol):
    """What the ranks compute: plain data that can be written as JSON."""

    @property
    def settings(self) -> Train:
        """Of the training."""

    @property
    def scratch(self) -> Path:
        """Folder, absolute, of what only the unfinished training needs."""


def run(function: Callable[[Ranks, Any], None], task: Task) -> None:
    """``function(ranks, task)`` by the engine of the runtime settings.

    Raises InputError as ``ranks`` does, what a rank raised, and TransientError where one was
    killed.
    """
    chosen, processes = ranks(task.settings)
    if chosen.name:
        _torchrun(task, chosen, processes)
    else:
        train_together(function, (task,), processes, task.settings.threads)


def ranks(settings: Train) -> tuple[Engine, int]:
    """The engine, without a name where no torchrun is started, and how many processes of this
    machine train.

    Raises InputError where there would be more ranks than micro-batches, and for fp16 in parts.
    """
    chosen, gpus = engine(), _gpus(device())
    if chosen.name == "fsdp" and settings.precision == "fp16":
        raise InputError(
            "train: ranks that hold an LLM in parts would not agree on which step overflowed fp16.",
            subject="train.precision",
            hint="Set train.precision to bf16, or LIBRETTO_ENGINE to ddp.",
        )
    if not chosen.name and gpus < 2:
        return chosen, 1 if gpus else min(workers(), settings.micro_batches)
    processes = gpus or workers()
    if processes * chosen.nodes > settings.micro_batches:
        raise InputError(
            f"train: {processes * chosen.nodes} ranks would share the {settings.micro_batches} micro-batches of a step: some "
            "would have nothing to do.",
            subject="train.micro_batches",
            hint=(
                "Set train.micro_batches to their number or a multiple of it, or start "
                "fewer processes."
            ),
        )
    return replace(chosen, name=chosen.name or "ddp"), processes


def _gpus(name: str) -> int:
    """GPUs that train: all for ``cuda``, one for ``cuda:1``; 0 for the CPU."""
    if not name.startswith("cuda"):
        return 0
    import torch

    return torch.cuda.device_count() if name == "cuda" else 1


def _torchrun(task: Task, chosen: Engine, processes: int) -> None:
    failed = task.scratch / FAILED
    shutil.rmtree(failed, ignore_errors=True)
    failed.mkdir(parents=True)
    path = task.scratch / TASK
    path.write_bytes(TypeAdapter(type(task)).dump_json(task, indent=1))
    several = chosen.nodes > 1
    # One machine's launcher and ranks meet in files, so that nothing listens beyond loopback.
    meeting = (
        [f"--rdzv-endpoint={chosen.rendezvous}"]
        if several
        else ["--rdzv-conf=store_type=file", f"--rdzv-endpoint={failed / 'meeting'}"]
    )
    command = [
        sys.executable,
        "-m",
        "torch.distributed.run",
        f"--nnodes={chosen.nodes}",
        f"--nproc-per-node={processes}",
        "--rdzv-backend=c10d",
        f"--rdzv-id={task.scratch.parent.name}",
        *meeting,
        "-m",
        RANK,
        chosen.name,
        str(path),
        "env://" if several else f"file://{failed / 'ranks'}",
    ]
    environment = {**os.environ, "OMP_NUM_THREADS": str(task.settings.threads)}
    if several:
        print(
            f"train: waits for {chosen.nodes} nodes; start on each of the others, in this "
            f"folder: {' '.join(['python', *command[1:]])}"
        )
    else:
        environment |= {
            "GLOO_SOCKET_IFNAME": "lo",
            "NCCL_SOCKET_IFNAME": "lo",
            "TORCH_DISABLE_SHARE_RDZV_TCP_STORE": "1",
        }
    done = subprocess.run(command, env=environment, check=False, preexec_fn=die_with_parent)
    errors = sorted(
        (_error(file) for file in failed.glob("*.json")),
        key=lambda error: not isinstance(error, InputError),
    )
    if errors:
        raise errors[0]
    if done.returncode:
        raise TransientError(
            f"A training process was killed or failed; torchrun ended with {done.returncode} "
            "(see above).",
            hint="Run again: it goes on from its checkpoint.",
        )


def record_error(error: LibrettoError, folder: Path, rank: int) -> None:
    """Leaves what a rank raised where ``run`` finds it; standard error has it too."""
    record = {
        "kind": error.kind,
        "message": error.args[0],
        "subject": error.subject,
        "hint": error.hint,
    }
    (folder / FAILED / f"{rank}.json").write_text(json.dumps(record))


def _error(file: Path) -> LibrettoError:
    record = json.loads(file.read_text())
    return BY_KIND[record["kind"]](
        record["message"], subject=record["subject"], hint=record["hint"]
    )
