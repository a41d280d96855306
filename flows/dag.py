"""What DVC says of its DAG: which stages, in which order, and what has changed since one last ran.

There is no second DAG: every answer here is asked of ``dvc.repo.Repo`` in the current folder, about 0.3 s a question.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from dvc.dvcfile import PROJECT_FILE
from dvc.exceptions import DvcException
from dvc.repo import Repo
from dvc.repo.reproduce import collect_stages, get_active_graph, plan_repro

from components.config.errors import InputError, nearest


def stages(targets: Sequence[str] = ()) -> list[str]:
    """Addresses (``corpus@train``) of all stages, or of ``targets`` and what they need, in the order of ``dvc repro``.

    Raises InputError for a target that DVC does not know.
    """
    with Repo() as repo:
        for target in targets:
            _check_target(repo, target)
        chosen = collect_stages(repo, targets or [PROJECT_FILE])
        return [stage.addressing for stage in plan_repro(get_active_graph(repo.index.graph), chosen)]


def _check_target(repo: Repo, target: str) -> None:
    try:
        repo.stage.collect(target)
    except DvcException as error:
        hint = nearest(target, [stage.addressing for stage in repo.index.stages])
        raise InputError(f"DVC knows no stage or output '{target}': {error}.", unit=target, way_out=hint) from None


def changes(stage: str) -> list[str]:
    """What ``dvc status`` finds changed for one stage, a line each (``changed deps: params.yaml``); empty when up to date."""
    with Repo() as repo:
        found = repo.status(targets=[stage]).get(stage, [])
    return [_line(entry) for entry in found]


def _line(entry: str | dict[str, dict[str, Any]]) -> str:
    if isinstance(entry, str):
        return entry
    return "; ".join(f"{kind}: {', '.join(paths)}" for kind, paths in entry.items())
