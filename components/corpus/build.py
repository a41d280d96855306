"""The stage: the sources of a role → manifests and rejects in ``data/corpus/<role>``.

In: the catalogue's sources of the role and their committed scans. Out: a folder a source with
``manifest.parquet`` and ``rejects.parquet``; all or nothing. Cost: that of the kinds of sources.
"""

from __future__ import annotations

import logging
from collections import Counter
from pathlib import Path
from typing import Any

from components.config import catalogue
from components.config.errors import InputError
from components.corpus.manifest import MANIFEST, REJECTS, Reject, write_rows
from components.corpus.scan import check_scan, list_sources, scan_source
from components.corpus.source import build_source
from components.runtime.artifact import empty_folder, write_record
from components.runtime.stage import Stage
from components.text.utterance import Utterance

logger = logging.getLogger(__name__)

OUT = Path("data/corpus")


def work(stage: Stage) -> None:
    """Writes the manifests of the role that the stage runs for.

    Raises InputError for a wrong setting of any source of the corpus, a scan that is missing or no
    longer true, a source of which nothing is accepted, and an id that two sources share.
    """
    corpus, role = stage.params.corpus, stage.role
    for any_role in catalogue.ROLES:  # a wrong setting of any source stops before any work
        for name, settings in list_sources(corpus, any_role).items():
            build_source(name, any_role, settings)
    sources = list_sources(corpus, role)
    out = empty_folder(OUT / role)
    source_by_id: dict[str, str] = {}
    digests = {}
    for name, settings in sources.items():
        source = build_source(name, role, settings)
        scan = scan_source(name, settings["kind"], source)
        check_scan(corpus, role, name, scan)
        accepted, rejected = source.list_utterances()
        counts = count_rows(accepted, rejected)
        if not accepted:
            raise _nothing_accepted(corpus, role, name, rejected)
        check_ids(role, source_by_id, name, accepted)
        (out / name).mkdir()
        write_rows(out / name / MANIFEST, Utterance, accepted)
        write_rows(out / name / REJECTS, Reject, rejected)
        _log_counts(stage.label(), name, counts)
        stage.facts[name] = counts
        digests[name] = scan["digest"]
    write_record(
        out,
        "corpus",
        parameters=sources,
        inputs=digests,
        libraries=("numpy", "pyarrow", "soundfile", "soxr"),
    )


def check_ids(
    role: str, source_by_id: dict[str, str], name: str, utterances: list[Utterance]
) -> None:
    """Adds the ids of a source to ``source_by_id``; raises InputError if another source has one of
    them.
    """
    shared = [utterance.id for utterance in utterances if utterance.id in source_by_id]
    if shared:
        raise InputError(
            f"{role}: {len(shared)} ids of '{name}' are in '{source_by_id[shared[0]]}' too: "
            f"{', '.join(shared[:3])}.",
            subject=shared[0],
            hint="Remove one of the sources from the role, or rename the files.",
        )
    source_by_id.update({utterance.id: name for utterance in utterances})


def count_rows(accepted: list[Utterance], rejected: list[Reject]) -> dict[str, Any]:
    """Counts of one source: found, kept, of these recordings that another kept one equals byte by
    byte, rejected by reason, and the hours kept.
    """
    digests = {utterance.sha256 for utterance in accepted}
    num_by_reason = Counter(reject.reason.partition(":")[0] for reject in rejected)
    hours = sum(utterance.duration_s for utterance in accepted) / 3600
    return {
        "found": len(accepted) + len(rejected),
        "kept": len(accepted),
        "repeated": len(accepted) - len(digests),
        "rejected": dict(sorted(num_by_reason.items())),
        "hours": round(hours, 3),
    }


def _log_counts(label: str, name: str, counts: dict[str, Any]) -> None:
    reasons = ", ".join(f"{count} {reason}" for reason, count in counts["rejected"].items())
    logger.info(
        "%s: %s: %d found, %d kept%s, %d rejected%s, %.3f h",
        label,
        name,
        counts["found"],
        counts["kept"],
        f" ({counts['repeated']} of them twice)" if counts["repeated"] else "",
        sum(counts["rejected"].values()),
        f" ({reasons})" if reasons else "",
        counts["hours"],
    )


def _nothing_accepted(corpus: str, role: str, name: str, rejected: list[Reject]) -> InputError:
    example = (
        f"The first: {rejected[0].path}: {rejected[0].reason}." if rejected else "See its settings."
    )
    return InputError(
        f"source '{name}': nothing is kept of {len(rejected)} found.",
        subject=name,
        hint=(
            f"{example} Correct it, or remove the source from the role '{role}' of corpus "
            f"'{corpus}'."
        ),
    )
