"""The stage: figures, hypotheses, curves and the audio of the worst utterances →
``data/report/index.html``.

The page is the same for two equal runs; a copy with times and machines is written to
``runs/report/index.html``. Cost: a few seconds for 10,000 utterances and three systems; the page is
then about 10 MB without its clips.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from components.audio.condition import condition_of
from components.config import catalogue
from components.config.params import NAMES
from components.report import error_curves, provenance, tables, training_curves
from components.report.browser import RankedUtterances, browser_data, rank_utterances
from components.report.clips import read_clips
from components.report.experiment import Experiment, read_experiment
from components.report.page import render_page
from components.runtime.artifact import empty_folder, recorded_digests, write_record
from components.runtime.hashing import file_digest
from components.runtime.stage import RUNS, Stage
from components.score.insertions import CLIP_KINDS, KINDS
from components.text.forms import FORMS

logger = logging.getLogger(__name__)
OUT, SHARDS, PAGE = Path("data/report"), Path("data/shards"), "index.html"
CURVE = Path("metrics/curve.csv")
TRAIN = Path("metrics/train.json")
SCORE = Path("metrics/score.json")
ROLES = ("dev", "test", "nonspeech-test")
# Artifacts whose records are on the page, from the figures back to the recordings.
ARTIFACTS = (
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
    """Writes the page, its record and the copy with times."""
    out, settings = empty_folder(OUT), stage.params.report
    experiment, sources = read_experiment(Path(".")), _sources(stage.params.corpus)
    ranked = rank_utterances([experiment], settings.utterances)
    max_bytes = int(settings.megabytes * MEGABYTE)
    clips = read_clips(ranked.utterances, SHARDS, settings.clips, max_bytes)
    names = {key: getattr(stage.params, key) for key in NAMES}
    context = {
        **page_context(experiment, ranked, len(clips), sources),
        "title": f"Libretto report: {names['corpus']}",
        "names": names,
        "training": training_curves.draw_training(CURVE, TRAIN),
        "artifacts": provenance.read_artifacts(ARTIFACTS),
        "timings": [],
    }
    data, audio = browser_data(ranked, list(clips)), list(clips.values())
    (out / PAGE).write_text(render_page(context, data, audio), encoding="utf-8")
    _write_record(out, asdict(settings))
    timed = RUNS / "report" / PAGE
    timed.parent.mkdir(parents=True, exist_ok=True)
    context["timings"] = provenance.run_times(RUNS)
    timed.write_text(render_page(context, data, audio), encoding="utf-8")
    logger.info(
        "%s: %s: %d of %d utterances, %d clips, %.1f MB",
        stage.label(),
        out / PAGE,
        len(ranked.utterances),
        ranked.total,
        len(clips),
        (out / PAGE).stat().st_size / MEGABYTE,
    )


def _write_record(out: Path, parameters: dict[str, Any]) -> None:
    inputs = {
        "score": recorded_digests(ARTIFACTS[0]),
        "decode": recorded_digests(ARTIFACTS[1]),
        "metrics": {path.name: file_digest(path) for path in (CURVE, TRAIN, SCORE)},
        "shards": {role: recorded_digests(SHARDS / role) for role in ROLES},
    }
    libraries = ("jinja2", "jiwer")
    write_record(out, "report", parameters=parameters, inputs=inputs, libraries=libraries)


def _sources(corpus: str) -> dict[str, Mapping[str, Any]]:
    """Settings of each set from the catalogue, which name its condition."""
    roles = catalogue.corpus(corpus).sources
    return {name: settings for role in ROLES for name, settings in roles[role].items()}


def page_context(
    experiment: Experiment,
    ranked: RankedUtterances,
    num_clips: int,
    sources: Mapping[str, Mapping[str, Any]],
) -> dict[str, Any]:
    """The figures of a run, by the names that ``page.html`` uses."""
    scores = experiment.scores
    condition_by_set = {name: condition_of(settings) for name, settings in sources.items()}
    conditions = {
        name: condition.title() for name, condition in condition_by_set.items() if condition
    }
    condition_charts = error_curves.draw_conditions(experiment, sources)
    duration_charts = error_curves.draw_durations(experiment.groups, experiment.systems, conditions)
    return {
        "verdict": tables.verdict_lines(scores),
        "word_errors": tables.word_error_rows(scores),
        "forms": tables.form_rows(scores),
        "form_names": list(FORMS),
        "kinds": tables.kind_rows(scores, KINDS, "wer"),
        "kind_names": KINDS,
        "nonspeech": tables.nonspeech_rows(scores),
        "clip_kinds": tables.kind_rows(scores, CLIP_KINDS, "text_rate"),
        "clip_kind_names": CLIP_KINDS,
        "perplexities": tables.perplexity_rows(scores),
        "heat_maps": tables.heat_maps(scores, conditions),
        "languages": tables.language_rows(experiment.groups),
        "speakers": tables.speaker_rows(experiment.speakers),
        "charts": condition_charts + duration_charts,
        "empty_sets": [name for name in dict.fromkeys([*scores, *sources]) if not scores.get(name)],
        "total": ranked.total,
        "num_utterances": len(ranked.utterances),
        "form": ranked.form,
        "num_clips": num_clips,
        "runs": [],
        "comparison": [],
        "differences": [],
    }
