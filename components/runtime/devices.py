"""The GPUs of this machine, and which of them each worker sees; nothing is asked of torch, which
takes seconds to load.
"""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from pathlib import Path

from components.config.errors import InputError

DEVICES = Path("/dev")


def visible_gpus() -> list[str]:
    """What ``CUDA_VISIBLE_DEVICES`` calls the GPUs that may be used: those that it names, else all
    that the driver shows.

    CUDA counts what it finds from 0, whatever the names of the device files: a container that was
    given nvidia2 and nvidia3 has 0 and 1.
    """
    named = os.environ.get("CUDA_VISIBLE_DEVICES")
    if named is not None:
        return [gpu.strip() for gpu in named.split(",") if gpu.strip() not in ("", "-1")]
    return [
        str(index)
        for index in range(
            sum(bool(re.fullmatch(r"nvidia\d+", file.name)) for file in DEVICES.glob("nvidia*"))
        )
    ]


def share_gpus(gpus: Sequence[str], share: float) -> list[str]:
    """What each worker's ``CUDA_VISIBLE_DEVICES`` is to say, where a worker takes ``share`` GPUs: 2
    of them, or half of one.

    Raises InputError where there are fewer than one worker takes.
    """
    if share < 1:
        return [gpu for _ in range(int(1 / share + 1e-9)) for gpu in gpus]
    size = int(share)
    if len(gpus) < size:
        raise InputError(
            f"LIBRETTO_GPUS={share:g}: this machine has {len(gpus)}.",
            subject="LIBRETTO_GPUS",
            hint="Set it lower.",
        )
    return [",".join(gpus[start : start + size]) for start in range(0, len(gpus) - size + 1, size)]
