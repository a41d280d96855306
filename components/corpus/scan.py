"""Scans: what each source of a corpus depends on, committed to git in ``data/sources``.

In: the sources of a corpus by role. Out: ``data/sources/<corpus>/<role>/<source>.json`` with
relative paths, sizes and digests. The stage depends on them: moving a data root changes nothing,
new data changes just that file. A scan opens transcripts and tables, and audio only in tars.
"""

from __future__ import annotations

import json
import logging
import re
from pathlib import Path
from typing import Any

from components.config import catalogue
from components.config.errors import InputError
from components.corpus.source import CorpusSource, build_source
from components.runtime.artifact import empty_folder
from components.runtime.json_files import parse_json, read_json

logger = logging.getLogger(__name__)

SCANS = Path("data/sources")
NO_SOURCES = "none.json"  # in the folder of a role without sources: DVC needs the dependency
RESCAN_HINT = "Run 'python -m components.corpus scan' and commit what it writes."


def list_sources(corpus: str, role: str) -> dict[str, dict[str, Any]]:
    """Settings of each source of a role, by name; raises InputError for a name that is not fit for
    files.
    """
    sources = catalogue.corpus(corpus).sources[role]
    for name in sources:
        if not re.fullmatch(r"[A-Za-z0-9_-]+", name):
            raise InputError(
                f"corpus '{corpus}', {role}: '{name}' is not valid as the name of a source.",
                subject=name,
                hint="Use letters, digits, hyphens and underscores.",
            )
    return sources


def scan_source(name: str, kind: str, source: CorpusSource) -> dict[str, Any]:
    """What a source depends on now."""
    return {"source": name, "kind": kind, **source.scan()}


def format_scan(scan: dict[str, Any]) -> str:
    """A scan as JSON with one file a line; the same scan gives the same bytes."""
    entries = []
    for key, value in sorted(scan.items()):
        lines = [json.dumps(row, ensure_ascii=False) for row in value] if key == "files" else []
        text = (
            "[\n  " + ",\n  ".join(lines) + "\n ]"
            if lines
            else json.dumps(value, sort_keys=True, ensure_ascii=False)
        )
        entries.append(f" {json.dumps(key)}: {text}")
    return "{\n" + ",\n".join(entries) + "\n}\n"


def write_scans(corpus: str) -> None:
    """Writes the scans of a corpus, all or none, and removes those of sources that it no longer
    lists.
    """
    texts: dict[str, dict[str, str]] = {role: {} for role in catalogue.ROLES}
    for role in catalogue.ROLES:
        for name, settings in list_sources(corpus, role).items():
            source = build_source(name, role, settings)
            texts[role][f"{name}.json"] = format_scan(scan_source(name, settings["kind"], source))
    for role, text_by_file in texts.items():
        folder = empty_folder(SCANS / corpus / role)
        for file, text in (text_by_file or {NO_SOURCES: "{}\n"}).items():
            (folder / file).write_text(text, encoding="utf-8")
    logger.info("%s: %d sources", SCANS / corpus, sum(map(len, texts.values())))


def read_scan(path: Path) -> dict[str, Any]:
    """The content of a scan; raises InputError where it is missing or damaged."""
    content: dict[str, Any] = read_json(path, hint=RESCAN_HINT)
    types = {"files": list[tuple[str, int]], "seconds": float | int, "recordings": int}
    present = {key: kind for key, kind in types.items() if key in content}
    parse_json(json.dumps(content), str(path), keys=present, hint=RESCAN_HINT)
    return content


def check_scan(corpus: str, role: str, name: str, scan: dict[str, Any]) -> None:
    """Raises InputError if the committed scan of a source is missing or differs from ``scan``."""
    path = SCANS / corpus / role / f"{name}.json"
    if not path.is_file():
        raise InputError(f"{path} is missing.", subject=name, hint=RESCAN_HINT)
    if path.read_bytes() != format_scan(scan).encode():
        changes = _describe_changes(read_scan(path), scan)
        raise InputError(
            f"source '{name}' differs from {path}: {changes}.", subject=name, hint=RESCAN_HINT
        )


def _describe_changes(committed: dict[str, Any], current: dict[str, Any]) -> str:
    old = {file: size for file, size in committed.get("files", [])}
    new = {file: size for file, size in current.get("files", [])}
    files_by_change = {
        "new": sorted(new.keys() - old.keys()),
        "gone": sorted(old.keys() - new.keys()),
        "of another size": sorted(
            file for file in new.keys() & old.keys() if new[file] != old[file]
        ),
    }
    changes = [
        f"{len(files)} {change} ({files[0]}{', …' if files[1:] else ''})"
        for change, files in files_by_change.items()
        if files
    ]
    return ", ".join(changes) or "its content changed"
