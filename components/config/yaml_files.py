"""Reader of YAML files that people edit: ``params.yaml``, the catalogue, recipes, DVC's files."""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path
from typing import Any

import yaml

from components.config.errors import InputError


@lru_cache(maxsize=16)
def parse_yaml(text: str) -> Any:
    """The data of a YAML text (3 ms for the corpora); raises yaml.YAMLError. All callers share one
    result: it must not be changed.
    """
    return yaml.load(text, Loader=yaml.CSafeLoader)


def read_yaml(path: Path) -> dict[str, Any]:
    """The mapping in a YAML file, shared as ``parse_yaml`` shares it; raises InputError naming the
    file where it is missing, is not YAML (with the line) or holds something else.
    """
    if not path.is_file():
        raise InputError(
            f"{path.resolve()} is missing.",
            subject=str(path),
            hint="Run from the root of the repository.",
        )
    try:
        data = parse_yaml(path.read_text())
    except yaml.YAMLError as error:
        raise InputError(
            f"{path}: not valid YAML: {error}", subject=str(path), hint="Correct this line."
        ) from None
    if not isinstance(data, dict):
        raise InputError(
            f"{path}: keys with values are expected, not {type(data).__name__}.",
            subject=str(path),
            hint=f"'git diff {path}' shows what changed.",
        )
    return data
