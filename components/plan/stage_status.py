"""Stages whose outputs exist already: what DVC would find up to date under the planned parameters,
as far as those tell.

In: ``dvc.yaml``, ``dvc.lock`` and parameters. Out: bytes of the outputs by stage
(``features@train``). Code and data that changed since are not compared: what a plan counts as done
may still be relinked, which writes nothing new. Cost: reading two files.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from components.config.params import NAMES, PARAMS, Params
from components.config.yaml_files import read_yaml

DAG, LOCK = Path("dvc.yaml"), Path("dvc.lock")


def up_to_date_stages(params: Params) -> dict[str, int]:
    """Bytes of the outputs of each stage that is up to date, with all that it depends on."""
    if not LOCK.is_file():
        return {}
    locked = read_yaml(LOCK).get("stages", {})
    stages = read_yaml(DAG)["stages"]
    producers = {
        out["path"]: name for name, entry in locked.items() for out in entry.get("outs", [])
    }
    unchanged = {name: _is_unchanged(name, entry, stages, params) for name, entry in locked.items()}

    def is_up_to_date(name: str) -> bool:
        paths = [dep["path"] for dep in locked[name].get("deps", [])]
        inputs = {producers[path] for path in paths if path in producers}
        return unchanged[name] and all(map(is_up_to_date, inputs))

    return {
        name: sum(out.get("size", 0) for out in entry.get("outs", []))
        for name, entry in locked.items()
        if is_up_to_date(name)
    }


def _is_unchanged(name: str, entry: dict[str, Any], stages: dict[str, Any], params: Params) -> bool:
    """Whether a stage last ran with the planned parameters, and all its outputs exist."""
    stage, _, role = name.partition("@")
    names = {"item.role": role, **{name: getattr(params, name) for name in NAMES}}
    planned: dict[str, dict[str, Any]] = {}
    for item in stages.get(stage, {}).get("params", []):
        file, keys = next(iter(item.items())) if isinstance(item, dict) else (str(PARAMS), [item])
        for key in keys:
            for variable, value in names.items():
                key = key.replace(f"${{{variable}}}", value)
            planned.setdefault(file, {})[key] = _value(file, key, params)
    if planned != entry.get("params", {}):
        return False
    return all(Path(out["path"]).exists() for out in entry.get("outs", []))


def _value(file: str, key: str, params: Params) -> Any:
    """The planned value of a dotted key; None where there is none."""
    data: Any = params.raw if file == str(PARAMS) else read_yaml(Path(file))
    for part in key.split("."):
        data = data.get(part) if isinstance(data, dict) else None
    return data
