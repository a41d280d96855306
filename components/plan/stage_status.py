"""Stages whose outputs stand already: what DVC would find up to date under the planned parameters,
as far as those tell.

In: ``dvc.yaml``, ``dvc.lock`` and parameters. Out: names of stages (``features@train``). Code and
data that changed since are not looked at: what a plan counts as there may still be relinked, which
writes nothing new. Cost: reading two files.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from components.config.catalogue import parsed
from components.config.params import NAMES, PARAMS, Params

DAG, LOCK = Path("dvc.yaml"), Path("dvc.lock")


def up_to_date_stages(params: Params) -> dict[str, int]:
    """Bytes of the outputs that stand, by stage."""
    if not LOCK.is_file():
        return {}
    locked = parsed(LOCK.read_text()).get("stages", {})
    stages = parsed(DAG.read_text())["stages"]
    makers = {out["path"]: name for name, entry in locked.items() for out in entry.get("outs", [])}
    same = {name: _same(name, entry, stages, params) for name, entry in locked.items()}

    def stands(name: str) -> bool:
        below = {
            makers[dep["path"]] for dep in locked[name].get("deps", []) if dep["path"] in makers
        }
        return same[name] and all(map(stands, below))

    return {
        name: sum(out.get("size", 0) for out in entry.get("outs", []))
        for name, entry in locked.items()
        if stands(name)
    }


def _same(name: str, locked: dict[str, Any], stages: dict[str, Any], params: Params) -> bool:
    """Whether a stage was run with the planned parameters, and all that it left is there."""
    stage, _, role = name.partition("@")
    words = {"item.role": role, **{each: getattr(params, each) for each in NAMES}}
    wanted: dict[str, dict[str, Any]] = {}
    for each in stages.get(stage, {}).get("params", []):
        file, keys = next(iter(each.items())) if isinstance(each, dict) else (str(PARAMS), [each])
        for key in keys:
            for word, value in words.items():
                key = key.replace(f"${{{word}}}", value)
            wanted.setdefault(file, {})[key] = _value(file, key, params)
    return wanted == locked.get("params", {}) and all(
        Path(out["path"]).exists() for out in locked.get("outs", [])
    )


def _value(file: str, key: str, params: Params) -> Any:
    data: Any = params.raw if file == str(PARAMS) else parsed(Path(file).read_text())
    for part in key.split("."):
        data = data.get(part) if isinstance(data, dict) else None
    return data
