"""Files that a run would read and Git does not track: a copy of the workspace (a clone, an
experiment) has none of them.

In: the workspace with its ``dvc.yaml``. Out: their names, and a line for people. Cost: one listing
by Git.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from components.config.yaml_files import read_yaml
from flows.command import run

MOST_NAMED = 10  # in a line; the rest is counted


def list_untracked_inputs() -> list[str]:
    """Paths of the files that stages depend on, that no stage makes and that Git neither tracks nor
    ignores; raises InputError outside a Git repository.
    """
    stages = read_yaml(Path("dvc.yaml")).get("stages", {})
    definitions = [stage.get("do", stage) for stage in stages.values()]
    inputs = sorted({path for stage in definitions for path in _inputs_of(stage)})
    if not inputs:
        return []
    listed = run("git", "ls-files", "-z", "--others", "--exclude-standard", "--", *inputs)
    return [name for name in listed.split("\0") if name]


def _inputs_of(stage: dict[str, Any]) -> Iterator[str]:
    """What a stage reads, as pathspecs of Git: ``${corpus}`` stands for any name."""
    parameters = [item for item in stage.get("params", []) if isinstance(item, dict)]
    for path in (*stage.get("deps", []), *(name for item in parameters for name in item)):
        fixed = str(path).partition("${")[0].rstrip("/")
        yield f":(literal){fixed or '.'}"


def describe_untracked() -> str:
    """A line that names the files, and how to add them; empty where there are none."""
    names = list_untracked_inputs()
    if not names:
        return ""
    more = f" and {len(names) - MOST_NAMED} more" if len(names) > MOST_NAMED else ""
    return (
        f"not in Git, so this runs without: {', '.join(names[:MOST_NAMED])}{more}. 'git add' takes "
        "them in, for a flow with a commit after it."
    )
