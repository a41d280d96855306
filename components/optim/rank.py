"""``torchrun … -m components.optim.rank TYPE ENGINE TASK INIT_METHOD``: one of the processes that
train together.

``TASK`` is the file that ``components.optim.engine`` writes; every process reads the same, as the
class ``TYPE`` (``module:name``).
``INIT_METHOD`` says how the ranks find each other (a file, or ``env://``). The exit code is that of
the error (2, 75), which is also written beside the task for the process that started torchrun.
"""

from __future__ import annotations

import logging
import os
import sys
from datetime import timedelta
from importlib import import_module
from pathlib import Path

import torch
import torch.distributed as dist
from pydantic import TypeAdapter

from components.config.errors import LibrettoError
from components.optim.engine import RankTask, record_error
from components.optim.ranks import Ranks
from components.optim.sharding import local_device
from components.runtime.file_systems import translate_os_errors
from components.runtime.logs import configure_logging
from components.runtime.settings import device
from components.runtime.signals import die_with_parent, is_started_by

LAUNCHER = "torch"  # torchrun, or python -m torch.distributed.run
# For the slowest rank: loading an LLM from a shared disk is slow.
TIMEOUT = timedelta(hours=2)

logger = logging.getLogger(__name__)


def main(task_type: str, engine: str, task_path: Path, init_method: str) -> int:
    """Trains as one rank; returns the exit code."""
    die_with_parent()
    if not is_started_by(LAUNCHER):  # it died before the kernel was asked
        return 1
    configure_logging()
    task = read_task(task_type, task_path)
    rank, world_size = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
    torch.set_num_threads(task.settings.threads)
    rank_device = local_device(device(), int(os.environ["LOCAL_RANK"]))
    # Figures of the loop are on the CPU, gradients on the device of the model.
    dist.init_process_group(
        "cpu:gloo,cuda:nccl" if rank_device.startswith("cuda") else "gloo",
        init_method=init_method,
        rank=rank,
        world_size=world_size,
        timeout=TIMEOUT,
    )
    try:
        with translate_os_errors():
            task.train(Ranks(rank, world_size, is_sharded=engine == "fsdp"), rank_device)
    except LibrettoError as error:
        record_error(error, task.scratch, rank)
        logger.error("%s, rank %d: %s", task.section.owner, rank, error)
        return error.exit_code
    dist.destroy_process_group()
    return 0


def read_task(task_type: str, path: Path) -> RankTask:
    """The task in a file, of the class ``module:name``."""
    module, _, name = task_type.partition(":")
    task: RankTask = TypeAdapter(getattr(import_module(module), name)).validate_json(
        path.read_bytes()
    )
    return task


if __name__ == "__main__":
    sys.exit(main(sys.argv[1], sys.argv[2], Path(sys.argv[3]), sys.argv[4]))
