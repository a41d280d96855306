"""The end of a curriculum stage as a unit of the work cache: a longer curriculum, or one with
another end, continues from it.

In: parameters and inputs of a training. Out: a key for each stage, the same where everything up to
its end is the same; and the folder of the stage (selected checkpoint, curve) in the cache or from
there. Cost: links, and a second copy of the weights that the stage tuned on disk.
"""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from components.runtime.durability import DIGESTS, find_fault, sync_tree, write_digests
from components.runtime.unit_cache import (
    Key,
    cached_unit,
    finished_unit,
    link_file,
    link_files,
    lock,
    unit_path,
)

CODE = "components.train.task"  # the module that computes the stages and the bridge
# In the folder of a stage: rows of the curve, selected checkpoint, number of planned steps; DONE
# exists once the others are complete.
CURVE, BEST, STEPS, DONE = "curve.jsonl", "best", "steps", "done"


def stage_keys(version: int, parameters: Mapping[str, Any], inputs: Mapping[str, Any]) -> list[Key]:
    """A key for the end of each stage; ``parameters`` and ``inputs`` are those of the training.

    A key depends on later stages in one respect: which base checkpoints they tune, since that
    decides the precision in which they are loaded from the start.
    """
    train = parameters["train"]
    bases = sorted(
        {part for stage in train["curriculum"] for part in stage["tune"]} - {"projector", "lora"}
    )
    keys = []
    for end in range(1, len(train["curriculum"]) + 1):
        beginning = {**train, "curriculum": train["curriculum"][:end]}
        keys.append(
            {
                "version": version,
                "parameters": {**parameters, "train": beginning},
                "inputs": dict(inputs),
                "bases": bases,
            }
        )
    return keys


def finish(folder: Path) -> None:
    """Marks the stage of a folder as finished, once all its files are on the disk."""
    best = [f"{BEST}/{path.name}" for path in sorted((folder / BEST).iterdir())]
    write_digests(folder, [CURVE, STEPS, *best])
    sync_tree(folder)
    (folder / DONE).touch()


def drop_damaged(folder: Path) -> str:
    """Removes a finished stage whose files are damaged; returns what is wrong with them."""
    fault = find_fault(folder) if (folder / DONE).is_file() else ""
    if fault:
        shutil.rmtree(folder)
    return fault


def restore(key: Key, folder: Path) -> bool:
    """Links the stage of this key into ``folder`` where a training has finished it and ``folder``
    does not have it; returns whether it did.
    """
    if (folder / DONE).is_file():
        return False
    path = unit_path("curriculum", key, CODE)
    path.parent.mkdir(parents=True, exist_ok=True)
    with lock(path):  # nobody drops it before it is linked
        unit = finished_unit("curriculum", key, CODE)
        if unit is None:
            return False
        shutil.rmtree(folder, ignore_errors=True)
        link_files(unit, folder)
    (folder / DONE).touch()
    return True


def store(key: Key, folder: Path) -> None:
    """Stores the finished stage of ``folder`` under its key."""

    def fill(unit: Path) -> None:
        for path in (
            *(folder / name for name in (CURVE, STEPS, DIGESTS)),
            *(folder / BEST).iterdir(),
        ):
            link_file(path, unit / path.relative_to(folder))

    cached_unit("curriculum", key, fill, code=CODE)
