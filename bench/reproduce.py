"""Whether one commit gives one ``dvc.lock``, however it is run: ``python -m bench.reproduce``.

Runs the last commit in clones of their own, each in another way that must not matter (``RUNS``),
and compares their locks with that of the first one. ``--recipe`` names the recipe, by default the
small ``smoke``; ``--committed`` compares with the lock of the commit instead, at the parameters of
the commit: the one comparison that another type of CPU can fail. Prints a table, and ends with 1
where a lock differs; the first stage that does is named. Cost: a run of the pipeline for each way,
about 2 minutes at smoke size on two cores.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from components.runtime.tables import format_table
from flows.command import run
from libretto.environment import build_environment

ROOT = Path(__file__).parents[1]
LOWEST = {  # what a shell may ask of the libraries: as little as they can do, and as much
    "ATEN_CPU_CAPABILITY": "default",
    "ONEDNN_MAX_CPU_ISA": "SSE41",
    "MKL_CBWR": "COMPATIBLE",
    "OPENBLAS_CORETYPE": "Nehalem",
}
HIGHEST = {
    "ATEN_CPU_CAPABILITY": "avx512",
    "ONEDNN_MAX_CPU_ISA": "ALL",
    "MKL_CBWR": "AUTO",
    "OPENBLAS_CORETYPE": "SkylakeX",
    "NPY_DISABLE_CPU_FEATURES": "",
}


@dataclass(frozen=True)
class PipelineRun:
    """One way to run the pipeline: ``folder`` of the clone below a temporary one, the variables of
    the shell, and whether it has the work cache of the first run.
    """

    name: str
    folder: str
    variables: Mapping[str, str] = field(default_factory=dict)
    is_warm: bool = False


RUNS = (
    PipelineRun("first run", "first"),
    PipelineRun("again, with its work cache", "again", is_warm=True),
    PipelineRun(
        "other folder, home, language, time zone",
        "an öther folder/clone",
        {"HOME": "home", "LC_ALL": "C", "LANG": "tr_TR.UTF-8", "TZ": "Asia/Kathmandu"},
    ),
    PipelineRun(
        "1 worker, OMP_NUM_THREADS=1",
        "serial",
        {"LIBRETTO_WORKERS": "1", "OMP_NUM_THREADS": "1"},
    ),
    PipelineRun(
        "3 workers, OMP_NUM_THREADS=7", "three", {"LIBRETTO_WORKERS": "3", "OMP_NUM_THREADS": "7"}
    ),
    PipelineRun("shell with the lowest instructions", "lowest", LOWEST),
    PipelineRun("shell with the highest instructions", "highest", HIGHEST),
)


def run_pipeline(run: PipelineRun, base: Path, recipe: str, commit: str) -> dict[str, Any]:
    """The lock of a commit, run in this way below the folder ``base``; raises SystemExit with the
    output where the run fails.
    """
    clone = base / run.folder
    work = base / "work" / ("first" if run.is_warm else run.folder)
    variables = {**build_environment(), **run.variables, "LIBRETTO_WORK": str(work)}
    if "HOME" in run.variables:
        variables["HOME"] = str(base / run.variables["HOME"])
        Path(variables["HOME"]).mkdir()
    _call(["git", "clone", "-q", str(ROOT), str(clone)], base, variables)
    _call(["git", "checkout", "-q", commit], clone, variables)
    (clone / "dvc.lock").unlink(missing_ok=True)
    if recipe:
        _call([sys.executable, "-m", "libretto", "use", recipe], clone, variables)
    _call([sys.executable, "-m", "dvc", "repro"], clone, variables)
    return read_lock(clone)


def _call(command: Sequence[str], folder: Path, variables: Mapping[str, str]) -> None:
    done = subprocess.run(
        command, cwd=folder, env=variables, capture_output=True, text=True, check=False
    )
    if done.returncode:
        sys.exit(
            f"{' '.join(command)} failed in {folder}:\n{done.stdout[-3000:]}{done.stderr[-3000:]}"
        )


def read_lock(clone: Path) -> dict[str, Any]:
    """The stages of ``dvc.lock``, by name."""
    stages: dict[str, Any] = yaml.safe_load((clone / "dvc.lock").read_text())["stages"]
    return stages


def first_difference(lock: Mapping[str, Any], expected: Mapping[str, Any]) -> str:
    """The first stage, in the order of ``dvc.yaml``, whose outputs differ, and which of them; empty
    where all are equal.
    """
    order = list(yaml.safe_load((ROOT / "dvc.yaml").read_text())["stages"])
    names = sorted(lock.keys() | expected.keys(), key=lambda name: order.index(name.split("@")[0]))
    for name in names:
        outputs, expected_outputs = (_digests(stages.get(name, {})) for stages in (lock, expected))
        paths = [
            path
            for path in sorted(outputs.keys() | expected_outputs.keys())
            if outputs.get(path) != expected_outputs.get(path)
        ]
        if paths:
            return f"{name}: {', '.join(paths)}"
    return ""


def _digests(stage: Mapping[str, Any]) -> dict[str, str]:
    return {output["path"]: output["md5"] for output in stage.get("outs", [])}


def main() -> int:
    """Runs all, prints the table; returns the exit code."""
    parser = argparse.ArgumentParser(prog="python -m bench.reproduce", description=__doc__)
    parser.add_argument("--recipe", default="smoke", help="default: smoke")
    parser.add_argument(
        "--committed",
        action="store_true",
        help="one run at the parameters of the commit, compared with its dvc.lock",
    )
    options = parser.parse_args()
    expected = read_lock(ROOT) if options.committed else None
    recipe = "" if options.committed else options.recipe
    commit = run("git", "rev-parse", "HEAD")  # of all runs, whatever is committed meanwhile
    rows, is_equal = [], True
    with tempfile.TemporaryDirectory(prefix="reproduce-") as folder:
        for way in RUNS[:1] if options.committed else RUNS:
            started = time.monotonic()
            lock = run_pipeline(way, Path(folder), recipe, commit)
            difference = first_difference(lock, lock if expected is None else expected)
            expected = expected or lock
            is_equal = is_equal and not difference
            seconds = f"{time.monotonic() - started:.0f}"
            rows.append({"run": way.name, "s": seconds, "lock": difference or "equal"})
            print(f"{way.name}: {difference or 'equal'}", file=sys.stderr, flush=True)
    print(format_table(rows))
    return int(not is_equal)


if __name__ == "__main__":
    sys.exit(main())
