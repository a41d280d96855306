"""The runner of a stage: ``python -m components.<stage>`` with the names that DVC resolved.

At start and at end it checks that ``params.yaml`` and the catalogue still agree with the names that
the stage was started with, since DVC writes their contents at the end into ``dvc.lock``. A mismatch
fails the stage, so that no wrong record is written; its finished units stay in the work cache. What
differs between two equal runs (host, times) goes to ``runs/``.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import platform
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from components.config import catalogue
from components.config.bridge_rules import check_curriculum
from components.config.errors import InputError, LibrettoError
from components.config.heads import check_ctc_heads
from components.config.model_sources import TrainedEncoderSource, TrainedLlmSource, parts_of
from components.config.params import NAMES, Params, read_params
from components.runtime.file_systems import translate_os_errors
from components.runtime.hashing import data_digest
from components.runtime.instruction_set import pin_instruction_set
from components.runtime.json_files import read_json
from components.runtime.logs import configure_logging
from components.runtime.pins import release_pins, share_pins
from components.runtime.processor import cpu_type
from components.runtime.settings import read_settings, work_root
from components.runtime.signals import end_early
from components.runtime.unit_cache import trim
from components.runtime.world_size import (
    RankSettings,
    TrainingSection,
    choose_ranks,
    count_gpus,
    trained_section,
)

RUNS = Path("runs")
NO_NOISE_HINT = (
    "Add a source to the role (rooms have 'rooms: true'), name a corpus that has some, or set the "
    "probability to 0."
)


@dataclass
class Stage:
    """One run of a stage: its checked parameters, and ``facts`` for its record in ``runs/``."""

    name: str
    params: Params
    role: str
    facts: dict[str, Any] = field(default_factory=dict)

    def label(self) -> str:
        """The name of the stage, with its role."""
        return f"{self.name}@{self.role}" if self.role else self.name


def run_stage(
    name: str, work: Callable[[Stage], None], *, names: tuple[str, ...] = (), roles: bool = False
) -> None:
    """Runs ``work`` between the checks; an error ends the process with its exit code.

    ``names`` are the scalars of ``params.yaml`` that the stage takes on its command line; ``roles``
    adds ``--role``. Where the command line lacks a name, that of ``params.yaml`` counts.
    """
    # Idle OpenMP threads that spin starve the other worker processes.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")  # runtime.progress has its own
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    parser = argparse.ArgumentParser(prog=f"python -m components.{name}")
    for option in names:
        parser.add_argument(f"--{option}", help=f"must equal the value of {option} in params.yaml")
    if roles:
        parser.add_argument("--role", required=True, choices=catalogue.ROLES)
    options = vars(parser.parse_args())
    configure_logging()
    end_early(name)
    try:
        with translate_os_errors():
            error_path(name).unlink(missing_ok=True)
            _run(name, work, {key: options[key] for key in names}, options.get("role", ""))
    except LibrettoError as error:
        record = {
            "stage": name,
            "kind": error.kind,
            "subject": error.subject,
            "message": str(error),
            "hint": error.hint,
        }
        _write_error(name, record)
        sys.stderr.write(f"{name}: {error}\n")
        sys.exit(error.exit_code)


def _write_error(name: str, record: dict[str, str]) -> None:
    # Without a work cache to write to, standard error has the message.
    with contextlib.suppress(LibrettoError, OSError):
        path = error_path(name)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(record, indent=1))


def _run(
    name: str, work: Callable[[Stage], None], argument_names: dict[str, str | None], role: str
) -> None:
    started = time.time()
    # A wrong setting stops the stage before hours of work, not after.
    instructions = pin_instruction_set()
    before = _snapshot(name, tuple(argument_names))
    for key, value in argument_names.items():
        if value is not None and value != before["names"][key]:
            raise InputError(
                f"params.yaml has {key}: {before['names'][key]}, but the stage was started with "
                f"{value}.",
                subject=key,
                hint="Somebody or an experiment changed it after DVC read it: correct it and run "
                "again.",
            )
    share_pins()
    stage = Stage(name, read_params(), role, {"instructions": instructions})
    check_names(stage.params)
    for kind in ("encoder", "llm"):  # before hours of work, not after
        catalogue.check_pinned(kind, getattr(stage.params, kind))
    if role == "train":  # what the training waits for
        _check_ranks(stage.params)
    work(stage)
    if _snapshot(name, tuple(argument_names)) != before:
        raise InputError(
            f"params.yaml or the catalogue changed while the stage '{stage.label()}' ran; its "
            "result is not recorded.",
            subject=name,
            hint="Set them back (git checkout params.yaml) and run again: finished units come from "
            "the work cache.",
        )
    _record(stage, before, started)
    release_pins()
    trim()


def _check_ranks(params: Params) -> None:
    """Raises InputError as ``choose_ranks`` does where something will be trained on this machine;
    one without a GPU whose device is not set may compute frames for another one.
    """
    if not read_settings().device and not count_gpus():
        return
    if catalogue.projector(params.projector).weights is None:
        choose_ranks(params.train)
    for _, settings, section in list_trained_here(params):
        choose_ranks(settings, section)


def list_trained_here(params: Params) -> list[tuple[str, RankSettings, TrainingSection]]:
    """The encoder and the LLM where they are trained here: kind, settings, and where these are."""
    return [
        (kind, source.training, trained_section(kind, name))
        for kind in ("encoder", "llm")
        for name in [getattr(params, kind)]
        for source in parts_of(catalogue.READERS[kind](name).source)
        if isinstance(source, TrainedEncoderSource | TrainedLlmSource)
    ]


def check_names(params: Params) -> None:
    """Raises InputError where a name in ``params.yaml`` is not in the catalogue, its entry is
    wrong, or they do not go together.
    """
    for key in NAMES:
        catalogue.READERS[key](getattr(params, key))
    _check_noise(params)
    check_ctc_heads(params)
    check_curriculum(catalogue.projector(params.projector), params.train)


def _check_noise(params: Params) -> None:
    """Raises InputError where noise or rooms have a probability and the corpus has none of them."""
    sources = catalogue.corpus(params.corpus).sources["noise"]
    rooms = catalogue.names_of_rooms(sources)
    for kind, has_sources in (("noise", len(sources) > len(rooms)), ("rooms", bool(rooms))):
        if getattr(params.features.augment, kind).probability and not has_sources:
            raise InputError(
                f"features.augment.{kind} is on, but the corpus '{params.corpus}' has no "
                f"{kind} in its role noise.",
                subject=params.corpus,
                hint=NO_NOISE_HINT,
            )


def _snapshot(name: str, names: tuple[str, ...]) -> dict[str, Any]:
    """What ``params.yaml`` and the catalogue say now, as far as the stage depends on them."""
    params = read_params()
    values = {key: getattr(params, key) for key in names}
    entries = {}
    for key, value in values.items():
        entry = catalogue.raw_entry(key, value)
        entries[key] = {part: content for part, content in entry.items() if part != "card"}
    limits = {"sets": params.raw["decode"]["sets"]} if name == "ctc" else {}  # to be calibrated
    return {
        "names": values,
        "section": None if name in NAMES else params.raw.get(name),
        "prompt": params.raw["train"].get("prompt") if name == "score" else None,  # of an echo
        "entries": entries,
        **limits,
    }


def error_path(stage: str) -> Path:
    """The ``error.json`` of a failed stage of this workspace, since DVC hides the exit code."""
    return work_root() / "errors" / data_digest(str(Path.cwd()))[:12] / stage / "error.json"


def _record(stage: Stage, snapshot: dict[str, Any], started: float) -> None:
    """Writes the record of a run; ``started`` is in seconds since 1970."""
    key = data_digest({"snapshot": snapshot, "role": stage.role})[:12]
    path = RUNS / stage.name / f"{stage.role + '-' if stage.role else ''}{key}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    record = {
        "stage": stage.label(),
        "started": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(started)),
        "seconds": round(time.time() - started, 2),
        "host": platform.node(),
        "cpu": cpu_type(),
        "python": platform.python_version(),
        **_git_state(),
        **stage.facts,
    }
    path.write_text(json.dumps(record, indent=1) + "\n")


def read_run(path: Path) -> dict[str, Any]:
    """The record of a run in ``runs/``; raises InputError where it is damaged."""
    keys = {"stage": str, "started": str, "seconds": int | float}
    record: dict[str, Any] = read_json(
        path, keys=keys, hint="Remove it: it has the times of one run alone."
    )
    return record


def _git_state() -> dict[str, Any]:
    def git(*arguments: str) -> str:
        return subprocess.run(
            ["git", *arguments], capture_output=True, text=True, check=False
        ).stdout.strip()

    return {
        "revision": git("rev-parse", "HEAD"),
        "dirty": bool(git("status", "--porcelain", "--untracked-files=no")),
    }
