"""New data → a run → a version, if the rule says so; earlier models stay available. The model of
the project is as good as its data say.
"""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import soundfile
import yaml
from hypothesis import given
from hypothesis import strategies as st

from components.config.errors import InputError
from flows.differences import UtteranceErrors
from flows.promotion import RunOutcome, judge, next_version
from flows.retrain import retrain

from .conftest import ROOT, Project

SPEAKERS = 8
TABLE = {"kind": "table", "root": "voices", "table": "voices.tsv", "language": "en"}
CORPUS = {
    "voices": {
        "train": {"voices": TABLE},
        "dev": {},
        "test": {},
        "nonspeech-train": {},
        "nonspeech-test": {},
        "noise": {},
    }
}
# Errors of each utterance, and clips with text, are those that a file lists for a model trained on
# that many recordings.
TRAIN_PY = """
import json, os, sys
import pyarrow as pa, pyarrow.parquet as pq
from pathlib import Path

num_files = len(json.loads(Path("data/sources/voices/train/voices.json").read_text())["files"])
wrong, text_rate = json.loads(Path(os.environ["NOTES"]).read_text())[str(num_files)]
for folder in ("metrics", "data/score", "models/bridge"):
    os.makedirs(folder, exist_ok=True)
Path("models/bridge/weights").write_text(f"of {num_files} files")
rows = [{"set": "test", "role": "test", "system": "constrained", "id": f"{n:03d}",
         "speaker": str(n % 8), "words": 10, "substitutions": wrong + n % 2, "deletions": 0,
         "insertions": 0} for n in range(80)]
pq.write_table(pa.Table.from_pylist(rows), "data/score/utterances.parquet")
scores = {"test": {"constrained": {"wer": (wrong + 0.5) / 10}},
          "noise": {"constrained": {"text_rate": text_rate}}}
Path("metrics/score.json").write_text(json.dumps(scores))
"""
STAGES = {
    "train": {
        "cmd": "python train.py",
        "deps": ["data/sources/voices/train", "train.py"],
        "outs": ["data/score", "models/bridge"],
        "metrics": [{"metrics/score.json": {"cache": False}}],
    }
}


@pytest.fixture
def data(
    project: Project, prefect_home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Callable[[int, int, float], None]:
    """A project over a data root; returns a function that adds a recording to it, with the quality
    of the model that is trained then.
    """
    folder, root, qualities = project(STAGES), tmp_path / "root", {}
    monkeypatch.setenv("LIBRETTO_ROOT_VOICES", str(root))
    root.mkdir()
    (root / "voices.tsv").write_text("path\ttext\tspeaker\n")
    (folder / "catalogue").mkdir()
    for path in (ROOT / "catalogue").iterdir():
        shutil.copy(path, folder / "catalogue")
    (folder / "catalogue/corpus.yaml").write_text(yaml.safe_dump(CORPUS))
    (folder / "params.yaml").write_text(
        re.sub(
            "^corpus: .*", "corpus: voices", (ROOT / "params.yaml").read_text(), flags=re.MULTILINE
        )
    )
    (folder / "train.py").write_text(TRAIN_PY)
    (folder / ".gitignore").write_text("/data/score\n/models\n")
    stages = yaml.safe_load((folder / "dvc.yaml").read_text())
    (folder / "dvc.yaml").write_text(
        yaml.safe_dump(
            {**stages, "artifacts": {"bridge": {"path": "models/bridge", "type": "model"}}}
        )
    )

    def add(wrong: int, text_rate: float) -> None:
        number = len(qualities) + 1
        soundfile.write(root / f"{number}.flac", np.zeros(16_000, dtype=np.float32), 16_000)
        with (root / "voices.tsv").open("a") as table:
            table.write(f"{number}.flac\tword\ts{number}\n")
        qualities[str(len(qualities) + 2)] = [
            wrong,
            text_rate,
        ]  # the table is one of the files of a scan
        (tmp_path / "notes").write_text(json.dumps(qualities))

    add(3, 0.25)
    git("add", "-A")
    git("commit", "-qm", "all")
    return add


def git(*arguments: str) -> str:
    return subprocess.run(["git", *arguments], capture_output=True, text=True, check=True).stdout


def dvc(*arguments: str) -> None:
    subprocess.run([sys.executable, "-m", "dvc", *arguments], check=True, capture_output=True)


@pytest.mark.slow
def test_a_model_is_promoted_only_where_it_is_better(
    data: Callable[[int, float], None], tmp_path: Path
) -> None:
    assert retrain(plan=False) == "bridge@v1.0.0", "there was none to compare with"
    assert retrain(plan=False) == "nothing new"

    data(4, 0.25)
    assert retrain(plan=False) == "kept", "worse"
    assert git("tag").split() == ["bridge@v1.0.0"]
    assert "worse on test" in git("log", "-1", "--format=%B", "retrain")
    assert retrain(plan=False) == "nothing new", "the same data are not tried twice"

    data(1, 0.5)
    assert retrain(plan=False) == "kept", "better, but it writes more on noise"

    data(1, 0.25)
    assert retrain(plan=False) == "bridge@v2.0.0"
    assert not git("status", "--porcelain", "--untracked-files=no"), "the workspace is as it was"

    dvc("artifacts", "get", ".", "bridge", "--rev", "v1.0.0", "-o", str(tmp_path / "old"))
    assert (tmp_path / "old/weights").read_text() == "of 2 files"
    git("checkout", "-q", "bridge@v2.0.0")
    dvc("checkout")
    assert Path("models/bridge/weights").read_text() == "of 5 files"


def errors(*wrong: int) -> UtteranceErrors:
    count = len(wrong)
    speakers = [str(index % SPEAKERS) for index in range(count)]
    return UtteranceErrors(
        [str(index) for index in range(count)], speakers, np.array(wrong), np.full(count, 10)
    )


def outcome(text_rate: float = 0.0, **sets: UtteranceErrors) -> RunOutcome:
    scores = {"noise": {"free": {"text_rate": text_rate}}}
    return RunOutcome({(name, "free"): counts for name, counts in sets.items()}, scores)


MANY = 60
OLD = outcome(0.1, clean=errors(*[2] * MANY), other=errors(*[4] * MANY))


@pytest.mark.parametrize(
    ("new", "promoted", "why"),
    [
        (
            outcome(0.1, clean=errors(*[1] * MANY), other=errors(*[4] * MANY)),
            True,
            "better on clean, worse on none",
        ),
        (
            outcome(0.0, clean=errors(*[1] * MANY), other=errors(*[3] * MANY)),
            True,
            "better on clean, other",
        ),
        (
            outcome(0.1, clean=errors(*[1] * MANY), other=errors(*[5] * MANY)),
            False,
            "worse on other",
        ),
        (
            outcome(0.2, clean=errors(*[1] * MANY), other=errors(*[4] * MANY)),
            False,
            "worse on noise",
        ),
        (
            outcome(0.1, clean=errors(1, *[2] * (MANY - 1)), other=errors(*[4] * MANY)),
            False,
            "better on no guarded set",
        ),
        (outcome(0.1, clean=errors(*[1] * MANY)), False, "other utterances on other"),
        (
            outcome(0.1, clean=errors(*[1] * (MANY - 1)), other=errors(*[4] * MANY)),
            False,
            "other utterances on clean",
        ),
        (
            RunOutcome(
                {
                    **outcome(clean=errors(*[1] * MANY)).errors,
                    ("other", "free"): errors(*[4] * MANY),
                },
                {},
            ),
            False,
            "on noise",
        ),
    ],
)
def test_rule(new: RunOutcome, promoted: bool, why: str) -> None:
    verdict = judge(OLD, new, "free", resamples=50)
    assert (verdict.is_promoted, why in verdict.reason) == (promoted, True), verdict.reason


def test_only_guarded_sets_decide() -> None:
    new = outcome(0.1, clean=errors(*[1] * MANY), other=errors(*[9] * MANY))
    assert judge(OLD, new, "free", ["clean"], 50).is_promoted
    with pytest.raises(InputError) as caught:
        judge(OLD, new, "free", ["claen"], 50)
    assert caught.value.subject == "claen"
    assert "'clean'" in caught.value.hint


@given(
    st.lists(st.integers(0, 9), min_size=2, max_size=40),
    st.lists(st.integers(0, 9), min_size=2, max_size=40),
)
def test_of_two_models_at_most_one_is_better(first: list[int], second: list[int]) -> None:
    count = min(len(first), len(second))
    one, two = outcome(clean=errors(*first[:count])), outcome(clean=errors(*second[:count]))
    assert not (
        judge(one, two, "free", resamples=20).is_promoted
        and judge(two, one, "free", resamples=20).is_promoted
    )
    assert not judge(one, one, "free", resamples=20).is_promoted


def test_versions_count_on() -> None:
    assert next_version([]) == "bridge@v1.0.0"
    assert next_version(["bridge@v2.0.0", "bridge@v10.0.0", "bridge@v9.1.0"]) == "bridge@v11.0.0"
