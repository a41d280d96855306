"""``python -m components.corpus --role ROLE``: the sources of a role → manifests and rejects in
``data/corpus/<role>``.

``python -m components.corpus scan [--corpus NAME]`` writes what every source of a corpus stands on
(relative paths, sizes, digests) to ``data/sources/<corpus>/<role>/<source>.json``, which is kept in
git and is what the stage depends on: moving a data root changes nothing, new data changes just that
file. A scan opens transcripts and tables, never audio.

``python -m components.corpus fetch [--corpus NAME] [--role ROLE]`` downloads what is missing of a
corpus into its data roots (``components.corpus.fetch.provision``).
"""

from __future__ import annotations

import argparse
import json
import re
import sys
from collections import Counter
from pathlib import Path
from typing import Any

from components.config import catalogue
from components.config.errors import InputError, LibrettoError
from components.config.params import read_params
from components.corpus.fetch.provision import needed, provide
from components.corpus.manifest import MANIFEST, REJECTS, Reject, write_rows
from components.corpus.source import CorpusSource, build_source
from components.runtime.artifact import empty_folder, write_record
from components.runtime.stage import Stage, run_stage
from components.text.utterance import Utterance

OUT, SCANS = Path("data/corpus"), Path("data/sources")
NONE = "none.json"  # stands in the folder of a role without sources, so that DVC finds a dependency
RESCAN = "Run 'python -m components.corpus scan' and commit what it writes."


def sources(corpus: str, role: str) -> dict[str, dict[str, Any]]:
    """Settings of each source of a role, by name; raises InputError for a name that is not fit for
    files.
    """
    found = catalogue.corpus(corpus).sources[role]
    for name in found:
        if not re.fullmatch(r"[A-Za-z0-9_-]+", name):
            raise InputError(
                f"corpus '{corpus}', {role}: '{name}' is no name for a source.",
                subject=name,
                hint="Use letters, digits, hyphens and underscores.",
            )
    return found


def scanned(name: str, kind: str, origin: CorpusSource) -> dict[str, Any]:
    """What a source stands on now."""
    return {"source": name, "kind": kind, **origin.scan()}


def as_json(scan: dict[str, Any]) -> str:
    """A scan as JSON with one file a line; the same scan gives the same bytes."""
    parts = []
    for key, value in sorted(scan.items()):
        lines = [json.dumps(row, ensure_ascii=False) for row in value] if key == "files" else []
        text = (
            "[\n  " + ",\n  ".join(lines) + "\n ]"
            if lines
            else json.dumps(value, sort_keys=True, ensure_ascii=False)
        )
        parts.append(f" {json.dumps(key)}: {text}")
    return "{\n" + ",\n".join(parts) + "\n}\n"


def scan(corpus: str) -> None:
    """Writes the scans of a corpus, all or none, and takes away those of sources that it no longer
    lists.
    """
    texts: dict[str, dict[str, str]] = {role: {} for role in catalogue.ROLES}
    for role in catalogue.ROLES:
        for name, settings in sources(corpus, role).items():
            texts[role][f"{name}.json"] = as_json(
                scanned(name, settings["kind"], build_source(name, role, settings))
            )
    for role, files in texts.items():
        folder = empty_folder(SCANS / corpus / role)
        for name, text in (files or {NONE: "{}\n"}).items():
            (folder / name).write_text(text, encoding="utf-8")
    print(f"{SCANS / corpus}: {sum(map(len, texts.values()))} sources")


def fetch_corpus(corpus: str, role: str | None = None) -> None:
    """Brings the archives that the sources of a corpus, or of one of its roles, read into their
    data roots.
    """
    roles = [role] if role else list(catalogue.ROLES)
    listed = [
        (name, build_source(name, each, settings))
        for each in roles
        for name, settings in sources(corpus, each).items()
    ]
    wanted = needed(listed)
    if not wanted:
        print(f"corpus '{corpus}': nothing to fetch")
    for archive in wanted:
        print(f"{archive.root}: {archive.folder}: {provide(archive)}", flush=True)


def check_scan(corpus: str, role: str, name: str, now: dict[str, Any]) -> None:
    """Raises InputError where the committed scan is missing or says something else than what lies
    there now.
    """
    path = SCANS / corpus / role / f"{name}.json"
    if not path.is_file():
        raise InputError(f"{path} is missing.", subject=name, hint=RESCAN)
    text = path.read_text(encoding="utf-8")
    if text != as_json(now):
        then = {file: size for file, size in json.loads(text).get("files", [])}
        here = {file: size for file, size in now.get("files", [])}
        parts = {
            "new": sorted(here.keys() - then.keys()),
            "gone": sorted(then.keys() - here.keys()),
            "of another size": sorted(
                file for file in here.keys() & then.keys() if here[file] != then[file]
            ),
        }
        changes = [
            f"{len(files)} {what} ({files[0]}{', …' if files[1:] else ''})"
            for what, files in parts.items()
            if files
        ]
        what = ", ".join(changes) or "its content changed"
        raise InputError(
            f"source '{name}' is not what {path} says: {what}.", subject=name, hint=RESCAN
        )


def check_ids(role: str, seen: dict[str, str], name: str, kept: list[Utterance]) -> None:
    """Adds the ids of a source to ``seen`` (source by id); raises InputError where another source
    has one of them.
    """
    shared = [row.id for row in kept if row.id in seen]
    if shared:
        raise InputError(
            f"{role}: {len(shared)} ids of '{name}' stand in '{seen[shared[0]]}': "
            f"{', '.join(shared[:3])}.",
            subject=shared[0],
            hint="Take one of the sources out of the role, or rename the files.",
        )
    seen.update({row.id: name for row in kept})


def summary(kept: list[Utterance], rejected: list[Reject]) -> dict[str, Any]:
    """Counts of one source: found, kept, rejected by reason, and the hours kept."""
    reasons = Counter(row.reason.partition(":")[0] for row in rejected)
    hours = sum(row.duration_s for row in kept) / 3600
    return {
        "found": len(kept) + len(rejected),
        "kept": len(kept),
        "rejected": dict(sorted(reasons.items())),
        "hours": round(hours, 3),
    }


def work(stage: Stage) -> None:
    corpus, role = stage.params.corpus, stage.role
    for each in catalogue.ROLES:  # a wrong setting of any source stops before any work
        for name, settings in sources(corpus, each).items():
            build_source(name, each, settings)
    listed = sources(corpus, role)
    out = empty_folder(OUT / role)
    seen: dict[str, str] = {}
    inputs = {}
    for name, settings in listed.items():
        origin = build_source(name, role, settings)
        now = scanned(name, settings["kind"], origin)
        check_scan(corpus, role, name, now)
        kept, rejected = origin.list_utterances()
        counts = summary(kept, rejected)
        if not kept:
            first = (
                f"The first: {rejected[0].path}: {rejected[0].reason}."
                if rejected
                else "See its settings."
            )
            raise InputError(
                f"source '{name}': nothing is kept of {counts['found']} found.",
                subject=name,
                hint=(
                    f"{first} Mend it, or take the source out of the role '{role}' of "
                    f"corpus '{corpus}'."
                ),
            )
        check_ids(role, seen, name, kept)
        (out / name).mkdir()
        write_rows(out / name / MANIFEST, Utterance, kept)
        write_rows(out / name / REJECTS, Reject, rejected)
        reasons = ", ".join(f"{count} {reason}" for reason, count in counts["rejected"].items())
        print(
            f"{stage.label()}: {name}: {counts['found']} found, {len(kept)} kept, {len(rejected)} rejected"
            f"{f' ({reasons})' if reasons else ''}, {counts['hours']:.3f} h"
        )
        stage.facts[name] = counts
        inputs[name] = now["digest"]
    write_record(
        out,
        "corpus",
        parameters=listed,
        inputs=inputs,
        libraries=("numpy", "pyarrow", "soundfile", "soxr"),
    )


def main(arguments: list[str]) -> None:
    if arguments[:1] not in (["scan"], ["fetch"]):
        run_stage("corpus", work, names=("corpus",), roles=True)
        return
    action = arguments[0]
    parser = argparse.ArgumentParser(prog=f"python -m components.corpus {action}")
    parser.add_argument(
        "--corpus", help="name in catalogue/corpus.yaml (default: the one of params.yaml)"
    )
    if action == "fetch":
        parser.add_argument(
            "--role", choices=catalogue.ROLES, help="fetch for the sources of this role alone"
        )
    options = parser.parse_args(arguments[1:])
    try:
        corpus = options.corpus or read_params().corpus
        if action == "scan":
            scan(corpus)
        else:
            fetch_corpus(corpus, options.role)
    except LibrettoError as error:
        print(f"corpus {action}: {error}", file=sys.stderr)
        sys.exit(error.exit_code)


if __name__ == "__main__":
    main(sys.argv[1:])
