"""A copy of this project at smoke size, in a folder of its own, in which the real ``dvc`` runs the
real stages.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).parents[2]


class Project:
    """One workspace and the work cache that its stages use."""

    def __init__(self, folder: Path, work: Path) -> None:
        self.folder, self.work = folder, work

    def run(
        self, *command: str, check: bool = True, **variables: str
    ) -> subprocess.CompletedProcess[str]:
        """Runs a command in the workspace, with some variables set; its output is text."""
        done = subprocess.run(
            command,
            cwd=self.folder,
            env=self.environment(**variables),
            capture_output=True,
            text=True,
            check=False,
        )
        assert not check or done.returncode == 0, (
            f"{command} ended with {done.returncode}:\n{done.stdout[-3000:]}\n{done.stderr[-3000:]}"
        )
        return done

    def start(self, *command: str) -> subprocess.Popen[str]:
        """Starts a command in the workspace, in a process group of its own."""
        return subprocess.Popen(
            command,
            cwd=self.folder,
            env=self.environment(),
            text=True,
            start_new_session=True,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
        )

    def dvc(self, *arguments: str, check: bool = True, **variables: str) -> str:
        """Runs ``dvc``; returns its output."""
        done = self.run(sys.executable, "-m", "dvc", *arguments, check=check, **variables)
        return done.stdout + done.stderr

    def environment(self, **variables: str) -> dict[str, str]:
        """The tests' environment, with this project's work cache, and the interpreter of the tests
        as ``python``.
        """
        path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
        settings = {
            "LIBRETTO_WORK": str(self.work),
            "PATH": path,
            "DVC_NO_ANALYTICS": "1",
            "PYTHONDONTWRITEBYTECODE": "1",
        }
        return {**os.environ, **settings, **variables}

    def params(self) -> dict[str, Any]:
        """The content of ``params.yaml``."""
        return yaml.safe_load((self.folder / "params.yaml").read_text())

    def set(self, **values: Any) -> None:
        """Sets parameters by dotted name, with double underscores in place of the dots."""
        params = self.params()
        for name, value in values.items():
            _assign(params, name.replace("__", "."), value)
        (self.folder / "params.yaml").write_text(yaml.safe_dump(params, sort_keys=False))

    def lock(self) -> dict[str, Any]:
        """The stages of ``dvc.lock``."""
        return yaml.safe_load((self.folder / "dvc.lock").read_text())["stages"]

    def ran(self, output: str) -> set[str]:
        """The stages that a ``dvc repro`` ran, by its output."""
        return {
            line.split("'")[1] for line in output.splitlines() if line.startswith("Running stage '")
        }

    def scores(self) -> dict[str, Any]:
        """The content of ``metrics/score.json``."""
        return json.loads((self.folder / "metrics/score.json").read_text())

    def copy(self, folder: Path, work: Path | None = None) -> Project:
        """Another workspace with the same state; with ``work`` on another work cache."""
        shutil.copytree(self.folder, folder, symlinks=True)
        return Project(folder, work or self.work)

    def hashes(self) -> dict[str, str]:
        """MD5 of each output in ``dvc.lock``."""
        return {
            out["path"]: out["md5"]
            for stage in self.lock().values()
            for out in stage.get("outs", [])
        }


def _assign(params: Any, name: str, value: Any) -> None:
    *path, last = name.split(".")
    for part in path:
        params = params[int(part) if isinstance(params, list) else part]
    params[int(last) if isinstance(params, list) else last] = value


def create_project(folder: Path, work: Path) -> Project:
    """A new workspace at smoke size: the files that Git tracks or would add, without results of
    other runs.
    """
    listed = subprocess.run(
        ["git", "ls-files", "-co", "--exclude-standard"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    for name in listed.stdout.splitlines():
        if (
            name not in ("dvc.lock", "metrics/score.json", "metrics/train.json")
            and not name.startswith("models/human/")  # it would be the one that transcribes
            and (ROOT / name).is_file()
        ):
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(ROOT / name, folder / name)
    project = Project(folder, work)
    for name, value in yaml.safe_load((ROOT / "flows/recipes/smoke.yaml").read_text())[
        "overrides"
    ].items():
        project.set(**{name.replace(".", "__"): value})
    for command in (
        "init -q",
        "add -A",
        "-c user.name=test -c user.email=test@example.invalid commit -qm smoke",
    ):
        project.run("git", *command.split())
    project.run("git", "config", "user.name", "test")
    project.run("git", "config", "user.email", "test@example.invalid")
    return project


def digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()
