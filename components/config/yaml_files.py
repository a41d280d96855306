"""Reader of YAML files that people edit: ``params.yaml``, the catalogue, recipes, DVC's files."""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path
from typing import Any

import yaml

from components.config.errors import InputError

MAX_DEPTH = 50  # of lists and mappings in each other; the deepest of this project have eight
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


def _refuse_depth(text: str) -> None:
    """Raises yaml.YAMLError where lists and mappings are nested deeper than ``MAX_DEPTH``: PyYAML's
    composer calls itself for each level, and the process would end without a word.
    """
    depth = 0
    for event in yaml.parse(text, Loader=yaml.CSafeLoader):
        depth += isinstance(event, yaml.CollectionStartEvent)
        depth -= isinstance(event, yaml.CollectionEndEvent)
        if depth > MAX_DEPTH:
            line = event.start_mark.line + 1 if event.start_mark else "?"
            raise yaml.YAMLError(f"nested too deeply in line {line}")


@lru_cache(maxsize=16)
def parse_yaml(text: str) -> Any:
    """The data of a YAML text; raises yaml.YAMLError, also where a key is given twice. All callers
    share one result: it must not be changed.
    """
    _refuse_depth(text)
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
    except (UnicodeDecodeError, RecursionError, OSError) as error:
        reason = "nested too deeply" if isinstance(error, RecursionError) else str(error)
        raise InputError(
            f"{path} can't be read: {reason}.",
            subject=str(path),
            hint=f"'git diff {path}' shows what changed.",
        ) from None
    except (yaml.YAMLError, ValueError, OverflowError) as error:  # a date without such a day
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
