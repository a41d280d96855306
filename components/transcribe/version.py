"""The version of this package, and the commit of its code where one is recorded.

A checkout names the commit of Git. A package that pip installed from a repository names the commit
that pip recorded. Any other package has a version only.
"""

from __future__ import annotations

import json
import subprocess
import tomllib
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path

PACKAGE = "libretto"
ROOT = Path(__file__).resolve().parents[2]  # of a checkout; ``site-packages`` of an installation


def package_version() -> str:
    """The version number: of ``pyproject.toml`` in a checkout, else of the installed package."""
    project = ROOT / "pyproject.toml"
    if project.is_file():
        return str(tomllib.loads(project.read_text(encoding="utf-8"))["project"]["version"])
    try:
        return distribution(PACKAGE).version
    except PackageNotFoundError:
        return "unknown"


def source_commit() -> str:
    """The commit of this code, with ``+changes`` if tracked files differ; empty if unknown."""
    if (ROOT / "pyproject.toml").is_file():
        commit = _git("rev-parse", "HEAD")
        return commit + ("+changes" if commit and _git("status", "--porcelain", "-uno") else "")
    try:
        record = distribution(PACKAGE).read_text("direct_url.json") or "{}"
    except PackageNotFoundError:
        return ""
    return str(json.loads(record).get("vcs_info", {}).get("commit_id", ""))


def version_line() -> str:
    """Name, version and commit on one line, as ``libretto --version`` prints them."""
    commit = source_commit()
    return f"{PACKAGE} {package_version()}" + (f" (commit {commit})" if commit else "")


def _git(*arguments: str) -> str:
    try:
        done = subprocess.run(
            ["git", "-C", str(ROOT), *arguments], capture_output=True, text=True, check=False
        )
    except FileNotFoundError:  # no Git on this machine
        return ""
    return done.stdout.strip() if done.returncode == 0 else ""
