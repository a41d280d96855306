"""The stage: figures, hypotheses, curves and the audio of the worst utterances →
``data/report/index.html``.

The page holds nothing that differs between two equal runs; a copy with times and machines goes to
``runs/report/index.html``. Cost: a few seconds for 10,000 utterances under three systems; the page
is then about 10 MB and its clips.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from components.config import catalogue
from components.config.params import NAMES
from components.report import error_curves, provenance, tables
from components.report.browser import Browsed, browsed
from components.report.browser import payload as browser_data
from components.report.clips import clips
from components.report.experiment import Experiment, Key, read_experiment
from components.report.page import page
from components.runtime.artifact import empty_folder, recorded_digests, write_record
from components.runtime.hashing import file_digest
from components.runtime.stage import RUNS, Stage

OUT, SHARDS, PAGE = Path("data/report"), Path("data/shards"), "index.html"
CURVE, TRAIN, SCORE = (
    Path("metrics/curve.csv"),
    Path("metrics/train.json"),
    Path("metrics/score.json"),
)
ROLES = ("dev", "test", "nonspeech-test")
# Whose records the page shows, from the figures back to the recordings.
MADE = (
    Path("data/score"),
    Path("data/decode"),
    Path("models/bridge"),
    Path("models/llm"),
    Path("models/encoder"),
    *(
        Path("data") / stage / role
        for stage in ("features", "shards", "corpus")
        for role in ("train", *ROLES)
    ),
)
MEGABYTE = 1_000_000


def work(stage: Stage) -> None:
    out, settings = empty_folder(OUT), stage.params.report
    experiment, sources = read_experiment(Path(".")), _sources(stage.params.corpus)
    shown = browsed([experiment], settings.utterances)
    held = clips(shown.utterances, SHARDS, settings.clips, int(settings.megabytes * MEGABYTE))
    names = {key: getattr(stage.params, key) for key in NAMES}
    context = {
        **contents_of(experiment, shown, held, sources),
        "title": f"Libretto report: {names['corpus']}",
        "names": names,
        "training": error_curves.training(CURVE, TRAIN),
        "artifacts": provenance.artifacts(MADE),
        "timings": [],
    }
    data, audio = browser_data(shown, list(held)), list(held.values())
    (out / PAGE).write_text(page(context, data, audio), encoding="utf-8")
    inputs = {
        "score": recorded_digests(MADE[0]),
        "decode": recorded_digests(MADE[1]),
        "metrics": {path.name: file_digest(path) for path in (CURVE, TRAIN, SCORE)},
        "shards": {role: recorded_digests(SHARDS / role) for role in ROLES},
    }
    write_record(
        out, "report", parameters=asdict(settings), inputs=inputs, libraries=("jinja2", "jiwer")
    )
    timed = RUNS / "report" / PAGE
    timed.parent.mkdir(parents=True, exist_ok=True)
    timed.write_text(
        page(context | {"timings": provenance.timings(RUNS)}, data, audio), encoding="utf-8"
    )
    print(
        f"{stage.label()}: {out / PAGE}: {len(shown.utterances)} of {shown.total} utterances, {len(held)} clips,"
        f" {(out / PAGE).stat().st_size / MEGABYTE:.1f} MB"
    )


def _sources(corpus: str) -> dict[str, Mapping[str, Any]]:
    """Settings of each set, from the catalogue: they say under which condition it stands."""
    roles = catalogue.corpus(corpus).sources
    return {name: settings for role in ROLES for name, settings in roles[role].items()}


def contents_of(
    experiment: Experiment,
    shown: Browsed,
    held: Mapping[Key, bytes],
    sources: Mapping[str, Mapping[str, Any]],
) -> dict[str, Any]:
    """What the page shows of one run's figures, by the names that ``page.html`` uses."""
    scores, systems = experiment.scores, experiment.systems
    found = {name: error_curves.condition_of(settings) for name, settings in sources.items()}
    conditions = {name: error_curves.condition_text(*each) for name, each in found.items() if each}
    return {
        "words": tables.words(scores),
        "forms": tables.forms(scores),
        "form_names": tables.FORMS,
        "kinds": tables.kinds(scores, tables.KINDS, "wer"),
        "kind_names": tables.KINDS,
        "quiet": tables.quiet(scores),
        "quiet_kinds": tables.kinds(scores, tables.QUIET_KINDS, "text_rate"),
        "quiet_kind_names": tables.QUIET_KINDS,
        "perplexities": tables.perplexities(scores),
        "heat": tables.heat(scores, conditions),
        "languages": tables.groups(experiment.groups, "language"),
        "speakers": tables.speakers(experiment.speakers),
        "figures": error_curves.conditions(experiment, sources)
        + error_curves.durations(experiment.groups, systems, list(conditions)),
        "without": [name for name in dict.fromkeys([*scores, *sources]) if not scores.get(name)],
        "total": shown.total,
        "held": len(shown.utterances),
        "form": shown.form,
        "clip_count": len(held),
        "runs": [],
        "comparison": [],
        "chances": [],
    }
