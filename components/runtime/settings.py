"""Runtime settings: how and where a run happens, never what it computes.

In: variables of the environment whose names begin with ``LIBRETTO_``, or one file of
``NAME=value`` lines that ``LIBRETTO_SETTINGS`` names by an absolute path (the environment wins).
Out: typed, checked values; they are read anew on each call. No DVC stage depends on them, so
changing one leaves ``dvc status`` clean. Cost: microseconds.

``LIBRETTO_ROOT_<NAME>`` sets the data root of a source whose catalogue entry says
``root: <name>``: a folder, or ``s3://bucket/prefix``.

For checkpoints of a hub those of huggingface_hub hold, from the environment alone: ``HF_HOME``
(cache), ``HF_ENDPOINT`` (mirror), ``HF_TOKEN`` and ``HF_HUB_OFFLINE``. Telemetry is off.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Annotated, Literal

from pydantic import AfterValidator, ConfigDict, Field

from components.config.errors import InputError
from components.config.ranges import (
    Machines,
    NonNegativeFloat,
    PositiveFloat,
    PositiveInt,
    Processes,
)
from components.config.schema import Unit, parse_as

PREFIX = "LIBRETTO_"
RENAMED_SETTINGS = {"LIBRETTO_MEETING": "LIBRETTO_RENDEZVOUS"}

# Device files of GPU drivers; without any, torch, which takes seconds to load, is not asked.
GPU_DRIVERS = (Path("/dev/nvidiactl"), Path("/dev/kfd"), Path("/dev/dxg"))


def _check_absolute(path: Path) -> Path:
    path = path.expanduser()
    if not path.is_absolute():
        raise ValueError("it must be an absolute path, since queued experiments run in copies")
    return path


def has_bucket(address: str) -> bool:
    """Whether an address of S3 names a bucket: ``s3://bucket/prefix``, not ``s3:///prefix``."""
    return bool(address.removeprefix("s3://").partition("/")[0])


def _check_store(address: str) -> str:
    if not address.startswith("s3://") or not has_bucket(address):
        raise ValueError("it must be an address of S3, s3://bucket/prefix")
    return address.rstrip("/")


def _check_gpus(share: float) -> float:
    if share > 1 and share != int(share):
        raise ValueError("it must be a count or a share of one, such as 2 or 0.5")
    return share


AbsolutePath = Annotated[Path, AfterValidator(_check_absolute)]


def _setting_name(field: str) -> str:
    return f"{PREFIX}{field.upper()}"


@dataclass(frozen=True)
class RuntimeSettings:
    """All runtime settings but the data roots; None where a default depends on the machine."""

    __pydantic_config__ = ConfigDict(
        alias_generator=_setting_name, extra="ignore", allow_inf_nan=False
    )
    work: Annotated[
        AbsolutePath | None,
        Field(description="Work cache, an absolute path; default: in the user's cache directory."),
    ] = None
    work_gb: Annotated[
        NonNegativeFloat,
        Unit("10^9 bytes"),
        Field(description="Size at which the oldest finished units of the work cache go."),
    ] = 50
    store: Annotated[
        str | None,
        AfterValidator(lambda address: address and _check_store(address)),
        Field(
            description="s3://bucket/prefix for tars, where shards.remote or features.remote is on."
        ),
    ] = None
    read_ahead_mb: Annotated[
        NonNegativeFloat,
        Unit("10^6 bytes"),
        Field(description="Memory, in each process that trains, for tars read ahead from there."),
    ] = 2000
    s3_tries: Annotated[
        PositiveInt,
        Field(description="Requests to S3 before a failure counts; 7 wait 8 to 16 s in all."),
    ] = 7
    s3_timeout: Annotated[
        PositiveFloat,
        Unit("s"),
        Field(description="Without an answer of S3, after which the request is repeated."),
    ] = 20
    openslr: Annotated[
        str,
        Field(
            pattern="^(https?://.+)?$",  # a file:// would be read, and deleted where it is wrong
            description="Address of a mirror of https://www.openslr.org/resources; default: each "
            "archive's own address.",
        ),
    ] = ""
    models: Annotated[
        AbsolutePath | None,
        Field(description="Folder of the encoders and LLMs of kind folder, an absolute path."),
    ] = None
    device: Annotated[
        str, Field(description="cpu, cuda, cuda:1 …; default: the GPU when there is one.")
    ] = ""
    workers: Annotated[
        Processes | None,
        Field(description="Worker processes on this machine; default: the processor's cores."),
    ] = None
    fanout: Annotated[
        Literal["local", "ray"],
        Field(
            description="Where work by shard runs: in processes of this machine, or as Ray tasks."
        ),
    ] = "local"
    ray: Annotated[
        str,
        Field(
            description="Address of the Ray cluster, host:port of its head; auto: the one that "
            "this machine is part of."
        ),
    ] = "auto"
    gpus: Annotated[
        NonNegativeFloat | None,
        AfterValidator(lambda share: share and _check_gpus(share)),
        Field(
            description="GPUs that a worker takes: 2, or 0.5 where two share one; default: 1 where "
            "the device is a GPU."
        ),
    ] = None
    engine: Annotated[
        Literal["", "ddp", "fsdp"],
        Field(
            description="Training by torchrun (components/optim/engine.py); default: processes of "
            "this machine on the CPU, ddp where there are several GPUs."
        ),
    ] = ""
    nodes: Annotated[Machines, Field(description="Machines that train together.")] = 1
    rendezvous: Annotated[
        str, Field(description="host:port of the first of them, where the ranks connect.")
    ] = ""
    instructions: Annotated[
        Literal["avx2", "compatible", "native"],
        Field(
            description="Instructions of the CPU that stages compute with: avx2, compatible (MKL's "
            "own for the CPUs of all makers, slower), or native: all that the machine has."
        ),
    ] = "avx2"
    progress: Annotated[
        Path | None, Field(description="File to which progress goes as JSON lines.")
    ] = None


@cache
def _file() -> dict[str, str]:
    name = os.environ.get("LIBRETTO_SETTINGS")
    if not name:
        return {}
    path = Path(name)
    if not path.is_absolute() or not path.is_file():
        raise InputError(
            f"LIBRETTO_SETTINGS={name} is not an absolute path of a file.",
            subject="LIBRETTO_SETTINGS",
            hint="Set it to one, or unset it.",
        )
    pairs = (
        line.split("=", 1)
        for line in path.read_text("utf-8", "surrogateescape").splitlines()
        if "=" in line and not line.startswith("#")
    )
    return {key.strip(): value.strip() for key, value in pairs if value.strip()}


def read_settings() -> RuntimeSettings:
    """All settings; raises InputError that names the variable for a wrong value and an old name."""
    values = _file() | {
        name: value for name, value in os.environ.items() if name.startswith(PREFIX) and value
    }
    for name, new_name in RENAMED_SETTINGS.items():
        if name in values:
            raise InputError(
                f"The setting {name} has the name {new_name} now.",
                subject=name,
                hint=f"Set {new_name}.",
            )
    return parse_as(RuntimeSettings, values, "runtime settings")


def setting(name: str) -> str:
    """The text of one variable; empty where neither environment nor settings file set it."""
    return os.environ.get(name) or _file().get(name, "")


def root_setting(name: str) -> tuple[str, str]:
    """(variable, its value) of the data root ``name``; the value is empty where it is not set."""
    variable = f"LIBRETTO_ROOT_{name.upper().replace('-', '_')}"
    return variable, setting(variable)


def work_root() -> Path:
    """Root of the work cache, an absolute path; raises InputError where its setting is wrong.

    No other setting is checked, so that the error of another one can be recorded there.
    """
    name = _setting_name("work")
    work = parse_as(RuntimeSettings, {name: setting(name) or None}, "runtime settings").work
    if work:
        return work
    base = Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser()
    if not base.is_absolute():
        raise InputError(
            f"XDG_CACHE_HOME={base} is not an absolute path, and the work cache is in it.",
            subject="XDG_CACHE_HOME",
            hint=f"Set it to one, or set {name} to the folder of the work cache.",
        )
    return base / "libretto"


def work_bytes() -> int:
    """Size in bytes above which the work cache drops its oldest finished units."""
    return int(read_settings().work_gb * 1e9)


def openslr_mirror() -> str:
    """Base address of a mirror of the archives of OpenSLR; empty where none is set."""
    return read_settings().openslr.rstrip("/")


def store_url() -> str:
    """Address of the store; raises InputError where it is not set."""
    address = read_settings().store
    if not address:
        raise InputError(
            "LIBRETTO_STORE is not set.",
            subject="LIBRETTO_STORE",
            hint="Set it to s3://bucket/prefix.",
        )
    return address


def read_ahead_bytes() -> int:
    """Memory in bytes for tars that are read ahead."""
    return int(read_settings().read_ahead_mb * 1e6)


def s3_tries() -> int:
    """Requests to S3 before a failure counts."""
    return read_settings().s3_tries


def s3_timeout() -> float:
    """Seconds without an answer of S3 after which a request is repeated."""
    return read_settings().s3_timeout


def models_root() -> Path:
    """Folder of local checkpoints; raises InputError where it is not set."""
    folder = read_settings().models
    if not folder:
        raise InputError(
            "LIBRETTO_MODELS is not set.",
            subject="LIBRETTO_MODELS",
            hint="Set it to the folder that contains the checkpoint's folder.",
        )
    return folder


def workers() -> int:
    """Worker processes on this machine, at least 1."""
    count = read_settings().workers
    return max(1, len(os.sched_getaffinity(0)) if count is None else count)


def fanout() -> str:
    """Where work by shard runs: ``local`` or ``ray``."""
    return read_settings().fanout


def ray_address() -> str:
    """Address of the Ray cluster."""
    return read_settings().ray


def gpu_share() -> float:
    """GPUs that a worker takes, a count or a share of one; 0 where the device is no GPU. Raises
    InputError for a GPU as device of which a worker takes none.
    """
    uses_gpu = device().startswith("cuda")
    share = read_settings().gpus
    if uses_gpu and share == 0:
        raise InputError(
            "LIBRETTO_GPUS is 0, but the device is a GPU.",
            subject="LIBRETTO_GPUS",
            hint="Set it to a count or a share, such as 1 or 0.5.",
        )
    return float(uses_gpu) if share is None else share


def device() -> str:
    """Name of the torch device: the setting, else the GPU when there is one, else the CPU."""
    name = read_settings().device
    if name or not any(path.exists() for path in GPU_DRIVERS):
        return name or "cpu"
    import torch

    return "cuda" if torch.cuda.is_available() else "cpu"


def progress_file() -> Path | None:
    """File for progress in JSON lines; None where none is set."""
    return read_settings().progress
