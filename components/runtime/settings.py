"""Runtime settings: how and where a run happens, never what it computes.

They come from the environment, or from one file of ``NAME=value`` lines that ``LIBRETTO_SETTINGS``
names by an absolute path (the environment wins). No DVC stage depends on them, so changing one
leaves ``dvc status`` clean.

=========================  ===================================================================================================
LIBRETTO_WORK              work cache, an absolute path (default: the user's cache directory)
LIBRETTO_WORK_GB           size at which the oldest finished units of the work cache are dropped (default 50)
LIBRETTO_ROOT_<NAME>       data root of a source whose catalogue entry says ``root: <name>``: a folder, or ``s3://bucket/prefix``
LIBRETTO_STORE             ``s3://bucket/prefix`` for tars, where ``shards.remote`` or ``features.remote`` is on
LIBRETTO_READ_AHEAD_MB     of memory, in each process that trains, for tars read ahead from the store (default 2000)
LIBRETTO_S3_TRIES          how often S3 is asked before a failure that may pass counts (default 7: 8 to 16 s of waiting)
LIBRETTO_S3_TIMEOUT        seconds without an answer of S3 after which it is asked again (default 20)
LIBRETTO_OPENSLR           base address of a mirror of https://www.openslr.org/resources (default: each archive's own address)
LIBRETTO_MODELS            folder in which encoders and LLMs of kind ``folder`` lie
LIBRETTO_DEVICE            ``cpu``, ``cuda``, ``cuda:1`` … (default: the GPU when there is one)
LIBRETTO_WORKERS           worker processes on this machine (default: the processor's cores)
LIBRETTO_FANOUT            who does work by shard: ``local`` (default: processes of this machine) or ``ray`` (runtime/ray_pool.py)
LIBRETTO_RAY               address of the Ray cluster, host:port of its head (default ``auto``: the one that this machine is part of)
LIBRETTO_GPUS              GPUs that a worker takes: 2, or 0.5 where two share one (default 1 where the device is a GPU)
LIBRETTO_ENGINE            ``ddp`` or ``fsdp``: training by torchrun, see components/train/engine.py (default: processes of this
                           machine on the CPU; ``ddp`` where there are several GPUs)
LIBRETTO_NODES             machines that train together (default 1)
LIBRETTO_MEETING           host:port of the first of them, where the ranks meet
LIBRETTO_PROGRESS          file to which progress goes as JSON lines
=========================  ===================================================================================================

For checkpoints of a hub those of huggingface_hub hold, from the environment alone: ``HF_HOME``
(cache), ``HF_ENDPOINT`` (mirror), ``HF_TOKEN`` and ``HF_HUB_OFFLINE``. Telemetry is off.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from components.config.errors import InputError

GPU_DRIVERS = (
    Path("/dev/nvidiactl"),
    Path("/dev/kfd"),
    Path("/dev/dxg"),
)  # without one, torch (seconds) need not be asked


@cache
def _file() -> dict[str, str]:
    name = os.environ.get("LIBRETTO_SETTINGS")
    if not name:
        return {}
    path = Path(name)
    if not path.is_absolute() or not path.is_file():
        raise InputError(
            f"LIBRETTO_SETTINGS={name} is not an absolute path of a file.",
            hint="Give one, or unset it.",
        )
    pairs = (
        line.split("=", 1)
        for line in path.read_text().splitlines()
        if "=" in line and not line.startswith("#")
    )
    return {key.strip(): value.strip() for key, value in pairs}


def setting(name: str, default: str = "") -> str:
    """The value of one runtime setting, from the environment or the settings file."""
    return os.environ.get(name) or _file().get(name, default)


def _directory(name: str, default: Path) -> Path:
    path = Path(setting(name, str(default))).expanduser()
    if not path.is_absolute():
        raise InputError(
            f"{name}={path} is not an absolute path.",
            hint="Queued experiments run in copies: make it absolute.",
        )
    return path


def work_root() -> Path:
    """Root of the work cache."""
    base = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    return _directory("LIBRETTO_WORK", base / "libretto")


def _number(name: str, default: str) -> float:
    value = setting(name, default)
    try:
        return float(value)
    except ValueError:
        raise InputError(
            f"{name}={value} is not a number.", subject=name, hint="Set it to one, or unset it."
        ) from None


def work_bytes() -> int:
    """Size in bytes above which the work cache drops its oldest finished units."""
    return int(_number("LIBRETTO_WORK_GB", "50") * 1e9)


def openslr_mirror() -> str:
    """Base address from which archives are fetched in place of their own; empty where
    none is set.
    """
    return setting("LIBRETTO_OPENSLR").rstrip("/")


def root_setting(name: str) -> tuple[str, str]:
    """(name of the setting, its value) of the data root ``name``; the value is empty where it is
    not set.
    """
    variable = f"LIBRETTO_ROOT_{name.upper().replace('-', '_')}"
    return variable, setting(variable)


def store_url() -> str:
    """Address of the store; raises InputError where it is not set or none of S3."""
    value = setting("LIBRETTO_STORE").rstrip("/")
    if not value.startswith("s3://"):
        raise InputError(
            f"LIBRETTO_STORE={value} is no address of S3.",
            subject="LIBRETTO_STORE",
            hint="Set it to s3://bucket/prefix.",
        )
    return value


def read_ahead_bytes() -> int:
    """Memory for tars that are read ahead."""
    return int(_number("LIBRETTO_READ_AHEAD_MB", "2000") * 1e6)


def s3_tries() -> int:
    """How often S3 is asked the same."""
    return max(1, int(_number("LIBRETTO_S3_TRIES", "7")))


def s3_timeout() -> float:
    """Seconds without an answer of S3 after which it is asked again."""
    return _number("LIBRETTO_S3_TIMEOUT", "20")


def models_root() -> Path:
    """Folder of local checkpoints; raises InputError where it is not set."""
    if not setting("LIBRETTO_MODELS"):
        raise InputError(
            "LIBRETTO_MODELS is not set.",
            hint="Set it to the folder that holds the checkpoint's folder.",
        )
    return _directory("LIBRETTO_MODELS", Path("/"))


def workers() -> int:
    """Worker processes on this machine."""
    return max(1, int(_number("LIBRETTO_WORKERS", str(len(os.sched_getaffinity(0))))))


def fanout() -> str:
    """Who does work by shard, ``local`` or ``ray``; raises InputError for anything else."""
    chosen = setting("LIBRETTO_FANOUT", "local")
    if chosen not in ("local", "ray"):
        raise InputError(
            f"LIBRETTO_FANOUT={chosen} is not known.",
            subject="LIBRETTO_FANOUT",
            hint="Known: local, ray.",
        )
    return chosen


def ray_address() -> str:
    """Where the Ray cluster is."""
    return setting("LIBRETTO_RAY", "auto")


def gpu_share() -> float:
    """GPUs that a worker takes, a count or a share of one; 0 where the device is no GPU. Raises
    InputError for what can't be had.
    """
    on_gpu = device().startswith("cuda")
    share = _number("LIBRETTO_GPUS", "1" if on_gpu else "0")
    if share < 0 or (share > 1 and share != int(share)) or (on_gpu and not share):
        raise InputError(
            f"LIBRETTO_GPUS={share:g} is neither a count nor a share of one.",
            subject="LIBRETTO_GPUS",
            hint="Such as 1 or 0.5.",
        )
    return share


@dataclass(frozen=True)
class Engine:
    """How training is spread over processes; ``name`` is empty where nothing is set."""

    name: str
    nodes: int
    rendezvous: str  # host:port


def engine() -> Engine:
    """The engine of training; raises InputError for one that there is not, and for several machines
    without a place to meet.
    """
    chosen = Engine(
        setting("LIBRETTO_ENGINE"), int(_number("LIBRETTO_NODES", "1")), setting("LIBRETTO_MEETING")
    )
    if chosen.name not in ("", "ddp", "fsdp"):
        raise InputError(
            f"LIBRETTO_ENGINE={chosen.name} is no engine.",
            subject="LIBRETTO_ENGINE",
            hint="Known: ddp, fsdp.",
        )
    if chosen.nodes > 1 and not (chosen.name and chosen.rendezvous.rpartition(":")[2].isdecimal()):
        raise InputError(
            f"LIBRETTO_NODES={chosen.nodes}: several machines need an engine and a place to meet.",
            subject="LIBRETTO_NODES",
            hint=(
                "Set LIBRETTO_ENGINE to ddp or fsdp, and LIBRETTO_MEETING to host:port of "
                "the first of them."
            ),
        )
    return chosen


def device() -> str:
    """Name of the torch device: the setting, else the GPU when there is one, else the CPU."""
    chosen = setting("LIBRETTO_DEVICE")
    if chosen or not any(path.exists() for path in GPU_DRIVERS):
        return chosen or "cpu"
    import torch

    return "cuda" if torch.cuda.is_available() else "cpu"


def progress_file() -> Path | None:
    """File for progress in JSON lines, if one was asked for."""
    value = setting("LIBRETTO_PROGRESS")
    return Path(value) if value else None
