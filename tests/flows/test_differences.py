"""Experiments against the first: which rows there are, and that their errors are read from DVC's
cache.
"""

from __future__ import annotations

import shutil
import subprocess
import sys

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from components.score.build import UTTERANCES as SCHEMA
from components.score.significance import compare
from flows.differences import OTHER_UTTERANCES, collect_errors, list_differences, read_errors

from .conftest import Project


def table(
    wrong: float, seed: int, name: str = "speech", utterances: int = 200, role: str = "test"
) -> pa.Table:
    """Utterances of ten speakers, of which about a share of the words is wrong."""
    draw, sizes = np.random.default_rng(seed), np.random.default_rng(0)
    rows = []
    for number in draw.permutation(utterances):  # in any order
        rows.append(
            {
                "set": name,
                "role": role,
                "system": "free",
                "id": f"u-{number:03d}",
                "speaker": f"s-{number % 10}",
                "language": "en",
                "seconds": 2.0,
                "reference": "",
                "text": "",
                "deletions": 0,
                "insertions": 0,
                "character_errors": 0,
                "characters": 9,
                "kind": "",
            }
        )
    words = {f"u-{number:03d}": int(sizes.integers(5, 20)) for number in range(utterances)}
    for row in rows:
        row |= {
            "words": words[row["id"]],
            "substitutions": int(draw.binomial(words[row["id"]], wrong)),
        }
    return pa.Table.from_pylist(rows, schema=SCHEMA)


def test_a_better_experiment_is_marked_and_an_equal_one_is_not() -> None:
    errors = {
        name: collect_errors(table(wrong, seed))
        for name, wrong, seed in (("base", 0.2, 1), ("good", 0.1, 2), ("same", 0.2, 3))
    }
    good, same = list_differences(["base", "good", "same"], errors, 300)
    base, better = errors["base"]["speech", "free"], errors["good"]["speech", "free"]
    test = compare(base.errors, better.errors, base.words, base.speakers, 300)
    assert good["experiment"] == "good"
    assert (
        good["difference"]
        == f"{100 * test.difference:+.2f} ({100 * test.low:+.2f} to {100 * test.high:+.2f})"
    )
    assert good["difference"].startswith("-")
    assert (good["p"], good["p < 0.05"]) == ("0.0000", "*")
    assert same["p < 0.05"] == ""
    assert float(same["p"]) > 0.05
    assert "(" not in list_differences(["base", "good"], errors, 0)[0]["difference"], (
        "no resamples, no interval"
    )


def test_only_results_of_the_same_utterances_are_compared() -> None:
    errors = {
        "base": collect_errors(
            pa.concat_tables(
                [
                    table(0.2, 1),
                    table(0.2, 1, "noise", role="nonspeech-test"),
                    table(0.2, 1, "more"),
                ]
            )
        ),
        "fewer": collect_errors(table(0.2, 2, utterances=199)),
        "another-set": collect_errors(table(0.2, 2, "another")),
        "both": collect_errors(
            pa.concat_tables([table(0.1, 2, "more"), table(0.1, 2, "noise", role="nonspeech-test")])
        ),
    }
    rows = list_differences(["base", "fewer", "another-set", "failed", "both"], errors, 100)
    assert [(row["experiment"], row["set"]) for row in rows] == [
        ("fewer", "speech"),
        ("both", "more"),
    ]
    assert rows[0]["difference"] == OTHER_UTTERANCES
    assert list_differences(["failed", "base"], errors, 100) == [], "there is no baseline"


def test_errors_come_from_the_cache_by_revision(project: Project) -> None:
    write = f"{sys.executable} -c \"import shutil; shutil.copytree('scored', 'data/score')\""
    folder = project({"score": {"cmd": write, "deps": ["scored"], "outs": ["data/score"]}})
    (folder / "scored").mkdir()
    (folder / ".gitignore").write_text("/data/score\n")
    revisions = []
    for seed in (1, 2):
        pq.write_table(table(0.2, seed), folder / "scored/utterances.parquet")
        for command in (f"{sys.executable} -m dvc repro -q", "git add -A", "git commit -qm scored"):
            subprocess.run(command.split(), check=True)
        revisions.append(
            subprocess.run(
                ["git", "rev-parse", "HEAD"], capture_output=True, text=True, check=True
            ).stdout.strip()
        )
    shutil.rmtree(folder / "data/score")
    for seed, revision in zip((1, 2), revisions, strict=True):
        errors, expected = read_errors(revision), collect_errors(table(0.2, seed))
        assert errors is not None and errors.keys() == expected.keys() == {("speech", "free")}
        assert np.array_equal(errors["speech", "free"].errors, expected["speech", "free"].errors)
    first = subprocess.run(
        ["git", "rev-list", "--max-parents=0", "HEAD"], capture_output=True, text=True, check=True
    ).stdout.strip()
    assert read_errors(first) is None, "it was never scored"
    shutil.rmtree(folder / ".dvc/cache")
    assert read_errors(revisions[0]) is None
