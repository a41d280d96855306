"""The end of a curriculum stage as a unit of the work cache: what a longer curriculum, or one with
another end, goes on from.

In: what a training hangs on. Out: a key for each stage, the same wherever all up to its end is the
same; and the stage's folder (chosen checkpoint, curve) kept under it or taken from there. Cost:
links, and the weights that the stage tuned once more on the disk.
"""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from components.runtime.unit_cache import Key, cached_unit, finished_unit, link_file, link_files

CODE = "components.train.curriculum"  # the module that computes what is kept here
CURVE, BEST, DONE = (
    "curve.jsonl",
    "best",
    "done",
)  # of a stage's folder; DONE is there once the others are whole


def stage_keys(version: int, parameters: Mapping[str, Any], inputs: Mapping[str, Any]) -> list[Key]:
    """A key for the end of each stage; ``parameters`` and ``inputs`` are those of the whole
    training.

    Of the stages that follow only one thing counts: which bases are tuned, since that says how they
    are held from the start.
    """
    train = parameters["train"]
    bases = sorted(
        {part for stage in train["curriculum"] for part in stage["tune"]} - {"projector", "lora"}
    )
    ends = range(1, len(train["curriculum"]) + 1)
    cut = [
        {**parameters, "train": {**train, "curriculum": train["curriculum"][:end]}} for end in ends
    ]
    return [
        {"version": version, "parameters": each, "inputs": dict(inputs), "bases": bases}
        for each in cut
    ]


def restore(key: Key, folder: Path) -> bool:
    """Lays out in ``folder`` the stage of this key, where a training made it and ``folder`` has not
    got it; whether it did.
    """
    unit = None if (folder / DONE).is_file() else finished_unit("curriculum", key, CODE)
    if unit is None:
        return False
    shutil.rmtree(folder, ignore_errors=True)
    link_files(unit, folder)
    (folder / DONE).touch()
    return True


def store(key: Key, folder: Path) -> None:
    """Keeps the finished stage in ``folder`` under its key."""

    def fill(unit: Path) -> None:
        for file in (folder / CURVE, *(folder / BEST).iterdir()):
            link_file(file, unit / file.relative_to(folder))

    cached_unit("curriculum", key, fill, code=CODE)
