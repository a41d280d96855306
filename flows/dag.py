"""DVC's DAG: its stages, their order, and the parameters with which they last ran.

There is no second DAG: every answer here comes from DVC in the current folder. Cost: about 0.3 s a
call.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from dvc.dvcfile import LOCK_FILE, PROJECT_FILE
from dvc.exceptions import DvcException
from dvc.repo import Repo
from dvc.repo.reproduce import collect_stages, get_active_graph, plan_repro

from components.config.errors import InputError, nearest
from components.config.yaml_files import read_yaml


def list_stages(targets: Sequence[str] = ()) -> list[str]:
    """Addresses (``corpus@train``) of all stages, or of ``targets`` and all that they depend on, in
    the order of ``dvc repro``.

    Raises InputError for a target that DVC does not know.
    """
    with Repo() as repo:
        for target in targets:
            _check_target(repo, target)
        stages = collect_stages(repo, targets or [PROJECT_FILE])
        graph = get_active_graph(repo.index.graph)
        return [stage.addressing for stage in plan_repro(graph, stages)]


def is_clean() -> bool:
    """Whether ``dvc repro`` would find nothing to do; False if DVC can't tell: it will say why."""
    with contextlib.suppress(DvcException), Repo() as repo:
        return not repo.status()
    return False


def _check_target(repo: Repo, target: str) -> None:
    try:
        repo.stage.collect(target)
    except DvcException as error:
        hint = nearest(target, [stage.addressing for stage in repo.index.stages])
        raise InputError(
            f"DVC knows no stage or output '{target}': {error}.", subject=target, hint=hint
        ) from None


def read_parameters() -> dict[str, Any]:
    """The parameters with which the stages last ran, by ``dvc.lock``: ``params.yaml: train.seed`` →
    value; empty if there is no lock.
    """
    lock = Path(LOCK_FILE)
    if not lock.is_file():
        return {}
    stages = read_yaml(lock).get("stages", {})
    files = [item for stage in stages.values() for item in stage.get("params", {}).items()]
    return {
        f"{file}: {key}": value
        for file, sections in files
        for name, section in sections.items()
        for key, value in flatten(name, section)
    }


def flatten(name: str, value: Any) -> Iterator[tuple[str, Any]]:
    """Dotted keys, below ``name``, and values of nested mappings."""
    if isinstance(value, dict) and value:
        for key, item in value.items():
            yield from flatten(f"{name}.{key}", item)
    else:
        yield name, value


def list_changes(before: Mapping[str, Any], now: Mapping[str, Any]) -> list[dict[str, str]]:
    """A row for each parameter that was added, removed or changed; none if there was no run
    before.
    """
    if not before:
        return []
    return [
        {"parameter": name, "before": str(before.get(name, "-")), "now": str(now.get(name, "-"))}
        for name in sorted(before.keys() | now.keys())
        if before.get(name) != now.get(name)
    ]
