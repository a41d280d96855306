"""``libretto restore``: the workspace as it was before an experiment that failed or was killed.

In: ``params.yaml`` with the names of the experiment, and outputs that DVC removed before their
stages ran. Out: ``params.yaml`` as its recipe or the last commit has it, the lock, and the outputs
that belong to them, from DVC's cache. Nothing is computed, and the text that is replaced goes to
the work cache. Cost: seconds, mostly of DVC.
"""

from __future__ import annotations

import argparse
import logging
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from components.config.params import PARAMS
from components.runtime.hashing import data_digest
from components.runtime.s3 import write_atomically
from components.runtime.settings import work_root
from libretto.recipes import find_original

if TYPE_CHECKING:
    from dvc.stage import Stage

LOCK = Path("dvc.lock")
INCOMPLETE = 1  # exit code where DVC's cache lacks an output


def build_parser(prog: str = "libretto restore") -> argparse.ArgumentParser:
    """The parser of ``libretto restore``."""
    return argparse.ArgumentParser(
        prog=prog,
        description="Puts the workspace back after an experiment that failed or was killed: "
        "params.yaml as its recipe or the last commit has it, models and metrics from DVC's cache. "
        "Nothing is computed.",
    )


def main(arguments: Sequence[str] | None = None, prog: str = "libretto restore") -> int:
    """Restores the current workspace and prints what came back; returns the exit code."""
    build_parser(prog).parse_args(arguments)
    restore_params()
    restored, missing = restore_outputs()
    for path in restored:
        print(f"{path}: back from DVC's cache")
    if missing:
        print(f"DVC's cache has no outputs of {', '.join(missing)}: 'dvc repro' runs these stages.")
        return INCOMPLETE
    print("The workspace is up to date.")
    return 0


def restore_params() -> None:
    """Writes ``params.yaml`` as it was; a text that is replaced is first saved in the work cache.

    Raises InputError where neither a recipe nor a commit says what it was.
    """
    from flows.command import run

    run("git", "reset", "--quiet", "--", str(PARAMS), str(LOCK), "metrics")
    text = PARAMS.read_text(encoding="utf-8")
    original = find_original(text)
    if text == original:
        return
    copy = work_root() / "replaced" / f"params-{data_digest(text)[:12]}.yaml"
    write_atomically(copy, text.encode())
    write_atomically(PARAMS, original.encode())
    print(f"{PARAMS}: as before the experiment; the replaced text is {copy}")


def restore_outputs() -> tuple[list[str], list[str]]:
    """Brings back all outputs that DVC's cache has; returns their paths, and the stages whose
    outputs it lacks.

    The lock of the workspace counts; where it names what the cache lacks, that of the last commit.
    """
    from flows.command import run

    deleted = run("git", "ls-files", "--deleted", "--", "metrics").splitlines()
    if deleted:
        run("git", "checkout", "--quiet", "HEAD", "--", *deleted)
    restored, missing = _check_out_stages()
    committed = run("git", "show", f"HEAD:./{LOCK}") + "\n" if _is_committed(LOCK) else ""
    if missing and committed and committed != LOCK.read_text(encoding="utf-8"):
        current = LOCK.read_bytes()
        write_atomically(LOCK, committed.encode())
        more, gaps = _check_out_stages()
        if not gaps:
            return [*restored, *more], []
        write_atomically(LOCK, current)
    return restored, missing


def _is_committed(path: Path) -> bool:
    from flows.command import run

    return bool(run("git", "ls-tree", "--name-only", "HEAD", "--", str(path)))


def _check_out_stages() -> tuple[list[str], list[str]]:
    """The outputs that came back, stage by stage in DVC's order, and the stages that did not."""
    from dvc.repo import Repo
    from dvc.repo.reproduce import get_active_graph, plan_repro

    logging.getLogger("dvc").setLevel(logging.WARNING)  # it tells of each stage more than once
    restored: list[str] = []
    missing: list[Stage] = []
    with Repo() as repo, repo.lock:
        graph = get_active_graph(repo.index.graph)
        for stage in plan_repro(graph):
            if any(upstream in missing for upstream in graph.successors(stage)):
                missing.append(stage)
            elif not stage.changed():
                continue
            elif _check_out(stage):
                restored += [out.def_path for out in stage.outs]
            else:
                missing.append(stage)
    return restored, [stage.addressing for stage in missing]


def _check_out(stage: Stage) -> bool:
    """Whether DVC's cache has an earlier run of the stage with its present inputs; checks its
    outputs out then.
    """
    from dvc.exceptions import DvcException

    cache = stage.repo.stage_cache
    try:
        stage.save_deps()
        cache.restore(stage, dry=True)
    except DvcException:
        return False
    stage.remove_outs(ignore_remove=False, force=False)
    cache.restore(stage)
    stage.save()
    stage.commit()
    stage.dump(update_pipeline=False)
    return True
