"""Starts the processes that train an encoder, an LLM or a bridge: those of this machine, or those
of ``torchrun`` on one or several machines.

In: a task and the runtime settings (``LIBRETTO_ENGINE``, ``LIBRETTO_NODES``,
``LIBRETTO_RENDEZVOUS``). Out: what the task writes, the same but for rounding with every engine,
since the batch of a step depends on the parameters only. Cost: a few seconds to start.

============  ======================================================================================
(not set)     CPU: ``LIBRETTO_WORKERS`` processes of this machine. GPU: ``ddp`` over all GPUs where
              there are several, else one process. At most as many as micro-batches
``ddp``       torchrun; every rank has all weights, gradients are summed over ranks
``fsdp``      torchrun; the layers of the LLM are sharded over all ranks (FSDP2): for an LLM that is
              too large for one GPU. As ``ddp`` for an encoder or an LLM that is trained here
============  ======================================================================================
"""

from __future__ import annotations

import json
import logging
import os
import shutil
import subprocess
import sys
from functools import partial
from pathlib import Path
from typing import Protocol

from pydantic import TypeAdapter

from components.config.errors import BY_KIND, InputError, LibrettoError, TransientError
from components.optim.ranks import Ranks, train_together
from components.runtime.signals import die_with_parent
from components.runtime.world_size import Engine, RankSettings, TrainingSection, choose_ranks

RANK_MODULE = "components.optim.rank"  # the module that torchrun runs
TASK_FILE, ERROR_FOLDER = "task.json", "failed"

logger = logging.getLogger(__name__)


class RankTask(Protocol):
    """What the ranks compute: a dataclass at the top of a module, whose fields can be written as
    JSON.
    """

    @property
    def section(self) -> TrainingSection:
        """The settings of the training, as a message names them."""

    @property
    def settings(self) -> RankSettings:
        """The settings of the training."""

    @property
    def scratch(self) -> Path:
        """Absolute path of the folder with checkpoints."""

    def train(self, ranks: Ranks, rank_device: str = "") -> None:
        """Trains as one of the ranks, on ``rank_device`` (by default that of the runtime
        settings).
        """


def run_ranks(task: RankTask) -> None:
    """Runs ``task.train`` on every rank, with the engine of the runtime settings.

    Raises InputError as ``choose_ranks`` does, what a rank raised, and TransientError where one was
    killed.
    """
    chosen, num_processes = choose_ranks(task.settings, task.section)
    if chosen.name:
        _run_torchrun(task, chosen, num_processes)
    else:
        train_together(_train, (task,), num_processes, task.settings.threads)


def _train(ranks: Ranks, task: RankTask) -> None:
    task.train(ranks)


def _run_torchrun(task: RankTask, chosen: Engine, num_processes: int) -> None:
    error_folder = task.scratch / ERROR_FOLDER
    shutil.rmtree(error_folder, ignore_errors=True)
    error_folder.mkdir(parents=True)
    task_path = task.scratch / TASK_FILE
    task_path.write_bytes(TypeAdapter(type(task)).dump_json(task, indent=1))
    has_other_nodes = chosen.nodes > 1
    command = _torchrun_command(task, chosen, num_processes)
    environment = {
        **os.environ,
        "OMP_NUM_THREADS": str(task.settings.threads),
        # What ends a stage is the stage's to handle: torchrun's handlers print a traceback.
        "TORCHELASTIC_SIGNALS_TO_HANDLE": "SIGQUIT",
    }
    if has_other_nodes:
        logger.info(
            "%s: waits for %d nodes; start on each other node, in this folder: %s",
            task.section.owner,
            chosen.nodes,
            " ".join(["python", *command[1:]]),
        )
    else:
        environment |= {
            "GLOO_SOCKET_IFNAME": "lo",
            "NCCL_SOCKET_IFNAME": "lo",
            "TORCH_DISABLE_SHARE_RDZV_TCP_STORE": "1",
        }
    process = subprocess.run(
        command, env=environment, check=False, preexec_fn=partial(die_with_parent, os.getpid())
    )
    errors = sorted(
        (_read_error(path) for path in error_folder.glob("*.json")),
        key=lambda error: not isinstance(error, InputError),
    )
    if errors:
        raise errors[0]
    if process.returncode:
        raise TransientError(
            f"A training process was killed or failed; torchrun returned {process.returncode} "
            "(see above).",
            hint="Run again: it resumes from its checkpoint.",
        )


def _torchrun_command(task: RankTask, chosen: Engine, num_processes: int) -> list[str]:
    """The command line of a node. On one machine launcher and ranks meet in files, so that nothing
    listens beyond loopback.
    """
    error_folder = task.scratch / ERROR_FOLDER
    if chosen.nodes > 1:
        rendezvous = [f"--rdzv-endpoint={chosen.rendezvous}"]
        init_method = "env://"
    else:
        endpoint = error_folder / "rendezvous"
        rendezvous = ["--rdzv-conf=store_type=file", f"--rdzv-endpoint={endpoint}"]
        init_method = f"file://{error_folder / 'ranks'}"
    return [
        sys.executable,
        "-m",
        "torch.distributed.run",
        f"--nnodes={chosen.nodes}",
        f"--nproc-per-node={num_processes}",
        "--rdzv-backend=c10d",
        f"--rdzv-id={task.scratch.parent.name}",
        *rendezvous,
        "-m",
        RANK_MODULE,
        f"{type(task).__module__}:{type(task).__qualname__}",
        chosen.name,
        str(task.scratch / TASK_FILE),
        init_method,
    ]


def record_error(error: LibrettoError, folder: Path, rank: int) -> None:
    """Writes what a rank raised to where ``run_ranks`` reads it."""
    record = {
        "kind": error.kind,
        "message": error.args[0],
        "subject": error.subject,
        "hint": error.hint,
    }
    (folder / ERROR_FOLDER / f"{rank}.json").write_text(json.dumps(record))


def _read_error(path: Path) -> LibrettoError:
    record = json.loads(path.read_text())
    return BY_KIND[record["kind"]](
        record["message"], subject=record["subject"], hint=record["hint"]
    )
