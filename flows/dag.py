"""What DVC says of its DAG: which stages, in which order, and with which parameters they last ran.

There is no second DAG: every answer here is asked of DVC in the current folder, about 0.3 s a
question.
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

from components.config.catalogue import parse_yaml
from components.config.errors import InputError, nearest


def stages(targets: Sequence[str] = ()) -> list[str]:
    """Addresses (``corpus@train``) of all stages, or of ``targets`` and what they need, in the
    order of ``dvc repro``.

    Raises InputError for a target that DVC does not know.
    """
    with Repo() as repo:
        for target in targets:
            _check_target(repo, target)
        chosen = collect_stages(repo, targets or [PROJECT_FILE])
        return [
            stage.addressing for stage in plan_repro(get_active_graph(repo.index.graph), chosen)
        ]


def is_clean() -> bool:
    """Whether ``dvc repro`` would find nothing to do; not where DVC can't tell: it will say why."""
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


def parameters() -> dict[str, Any]:
    """What ``dvc.lock`` says that the stages last ran with: ``params.yaml: train.seed`` → value;
    empty where there is no lock.
    """
    lock = Path(LOCK_FILE)
    if not lock.is_file():
        return {}
    stages = (parse_yaml(lock.read_text()) or {}).get("stages", {})
    files = [each for stage in stages.values() for each in stage.get("params", {}).items()]
    return {
        f"{file}: {key}": value
        for file, held in files
        for name, own in held.items()
        for key, value in _flat(name, own)
    }


def _flat(name: str, value: Any) -> Iterator[tuple[str, Any]]:
    if isinstance(value, dict) and value:
        for key, own in value.items():
            yield from _flat(f"{name}.{key}", own)
    else:
        yield name, value


def changed_parameters(before: Mapping[str, Any], now: Mapping[str, Any]) -> list[dict[str, str]]:
    """A row for each parameter that is new, gone or another one; none where there was no run
    before.
    """
    names = (
        sorted(name for name in before.keys() | now.keys() if before.get(name) != now.get(name))
        if before
        else []
    )
    return [
        {"parameter": name, "before": str(before.get(name, "-")), "now": str(now.get(name, "-"))}
        for name in names
    ]
