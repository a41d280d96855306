"""``torchrun … -m components.train.rank ENGINE TASK MEETING``: one of the processes that train
together.

``TASK`` is the file that ``components.train.engine`` writes; every process reads the same.
``MEETING`` is where the ranks find each other (a file, or ``env://``). Ends with the exit code of
the error that it met (2, 75), which it leaves beside the task for the process that started
torchrun.
"""

from __future__ import annotations

import os
import sys
from datetime import timedelta
from pathlib import Path

import torch
import torch.distributed as dist
from pydantic import TypeAdapter

from components.config.errors import LibrettoError
from components.optim.ranks import Ranks
from components.optim.sharding import local_device
from components.runtime.logs import configure_logging
from components.runtime.pool import die_with_parent
from components.runtime.settings import device
from components.train.build import Task, train
from components.train.engine import record_error

PATIENCE = timedelta(
    hours=2
)  # for the slowest rank: loading an LLM from a disk that all share takes its time


def main(engine: str, path: Path, meeting: str) -> int:
    """Trains as one rank; returns the exit code."""
    die_with_parent()
    configure_logging()
    task = TypeAdapter(Task).validate_json(path.read_bytes())
    rank, count = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
    torch.set_num_threads(task.settings.threads)
    place = local_device(device(), int(os.environ["LOCAL_RANK"]))
    # Numbers of the loop lie on the CPU, gradients where the model is.
    dist.init_process_group(
        "cpu:gloo,cuda:nccl" if place.startswith("cuda") else "gloo",
        init_method=meeting,
        rank=rank,
        world_size=count,
        timeout=PATIENCE,
    )
    try:
        train(Ranks(rank, count, is_sharded=engine == "fsdp"), task, place)
    except LibrettoError as error:
        record_error(error, task.scratch, rank)
        print(f"train, rank {rank}: {error}", file=sys.stderr)
        return error.exit_code
    dist.destroy_process_group()
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1], Path(sys.argv[2]), sys.argv[3]))
