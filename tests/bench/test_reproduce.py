"""Which stage is named where two locks differ."""

from __future__ import annotations

from typing import Any

import pytest

from bench.reproduce import first_difference


def stage(**outputs: str) -> dict[str, Any]:
    return {
        "cmd": "python",
        "deps": [{"path": "code", "md5": "any"}],
        "outs": [{"path": path, "md5": md5} for path, md5 in outputs.items()],
    }


LOCK = {
    "corpus@test": stage(manifest="a"),
    "encoder": stage(encoder="b"),
    "features@dev": stage(frames="c", index="d"),
    "train": stage(bridge="e"),
}


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({}, ""),
        # The first in the order of dvc.yaml: what follows differs since it does.
        (
            {"corpus@test": stage(manifest="z"), "encoder": stage(encoder="z")},
            "corpus@test: manifest",
        ),
        (
            {"train": stage(bridge="z"), "features@dev": stage(frames="c", index="z")},
            "features@dev: index",
        ),
        ({"report": stage(page="f")}, "report: page"),
        ({"encoder": stage()}, "encoder: encoder"),
        # What a stage read is no result.
        ({"train": {**LOCK["train"], "deps": [{"path": "code", "md5": "other"}]}}, ""),
    ],
)
def test_the_first_stage_that_differs_is_named(changes: dict[str, Any], expected: str) -> None:
    assert first_difference({**LOCK, **changes}, LOCK) == expected
    assert first_difference(LOCK, {**LOCK, **changes}) == expected
