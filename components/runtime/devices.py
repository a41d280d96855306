"""The GPUs of this machine, and which of them each worker sees.

In: the environment and device files; torch, which takes seconds to load, is not asked. Out: values
for ``CUDA_VISIBLE_DEVICES``. Cost: microseconds.
"""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from pathlib import Path

from components.config.errors import InputError

DEVICES = Path("/dev")


def visible_gpus() -> list[str]:
    """The GPUs that may be used, as ``CUDA_VISIBLE_DEVICES`` names them: those that it lists, else
    all GPUs of the driver.

    CUDA counts GPUs from 0, whatever the names of the device files are: in a container with nvidia2
    and nvidia3 they are 0 and 1.
    """
    names = os.environ.get("CUDA_VISIBLE_DEVICES")
    if names is not None:
        return [name.strip() for name in names.split(",") if name.strip() not in ("", "-1")]
    files = DEVICES.glob("nvidia*")
    return [
        str(index) for index in range(sum(bool(re.fullmatch(r"nvidia\d+", f.name)) for f in files))
    ]


def share_gpus(gpus: Sequence[str], share: float) -> list[str]:
    """``CUDA_VISIBLE_DEVICES`` for each worker, where a worker takes ``share`` GPUs: a count such
    as 2, or a share such as 0.5.

    Raises InputError where one worker takes more GPUs than there are.
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
