"""Reader of YAML files that people edit: ``params.yaml``, the catalogue, recipes, DVC's files."""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path
from typing import Any

import yaml

from components.config.errors import InputError

MERGE_TAG = "tag:yaml.org,2002:merge"  # of the key <<


def refuse_repeated_keys(node: yaml.Node | None) -> None:
    """Raises yaml.YAMLError where a mapping in a tree of nodes has a key twice, as DVC does: YAML
    would take the last one without a word. Keys of ``<<`` may be given again.
    """
    if isinstance(node, yaml.SequenceNode):
        for item in node.value:
            refuse_repeated_keys(item)
    if isinstance(node, yaml.MappingNode):
        keys: set[str] = set()
        for key, value in node.value:
            if isinstance(key, yaml.ScalarNode) and key.tag != MERGE_TAG:
                if key.value in keys:
                    raise yaml.constructor.ConstructorError(
                        None, None, f"'{key.value}' is given twice", key.start_mark
                    )
                keys.add(key.value)
            refuse_repeated_keys(value)


@lru_cache(maxsize=16)
def parse_yaml(text: str) -> Any:
    """The data of a YAML text; raises yaml.YAMLError, also where a key is given twice. All callers
    share one result: it must not be changed.
    """
    refuse_repeated_keys(yaml.compose(text, Loader=yaml.CSafeLoader))
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
        data = parse_yaml(path.read_text(encoding="utf-8-sig"))
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        # ValueError: of bytes that are no UTF-8, and of dates that are none.
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
