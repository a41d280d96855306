"""When a newly trained model replaces the one in use, and how that is recorded.

A model is promoted by a Git tag ``bridge@vN.0.0`` on the commit that produced it, which is how DVC
names a version of the artifact ``bridge`` of ``dvc.yaml``: ``dvc artifacts get . bridge --rev
vN.0.0`` brings any of them back.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from components.config.errors import InputError, nearest
from components.score.significance import compare
from flows.command import run
from flows.differences import OTHER_UTTERANCES, UtteranceErrors, format_points
from flows.results import Scores, format_percent

ARTIFACT = "bridge"
BETTER, WORSE, SAME = "better", "worse", "no difference"


@dataclass(frozen=True)
class Verdict:
    """Whether the new model is promoted, why, and what was compared: a row a set."""

    is_promoted: bool
    reason: str
    rows: list[dict[str, str]]


@dataclass(frozen=True)
class RunOutcome:
    """The result of a run, as the rule reads it: errors by (set, system), and
    ``metrics/score.json``.
    """

    errors: Mapping[tuple[str, str], UtteranceErrors]
    scores: Scores


def judge(
    old: RunOutcome,
    new: RunOutcome,
    system: str,
    guarded: Sequence[str] = (),
    resamples: int = 1000,
) -> Verdict:
    """The rule: significantly better on at least one guarded set, significantly worse on none, text
    on no set of non-speech more often.

    ``guarded`` are sets of speech (by default all that the old model has), as transcribed by
    ``system``. A guarded set that the new run lacks, or in which it transcribed other utterances,
    can't be judged: the model is not promoted. Raises InputError for a set that does not exist.
    """
    sets = list(guarded) or sorted(name for name, other in old.errors if other == system)
    for name in sets:
        if (name, system) not in old.errors:
            raise InputError(
                f"The model in use has no set '{name}' transcribed by '{system}'.",
                subject=name,
                hint=nearest(name, {test_set for test_set, _ in old.errors}),
            )
    rows = [
        _compare_errors(name, old.errors[name, system], new.errors.get((name, system)), resamples)
        for name in sets
    ]
    for name, systems in old.scores.items():
        if "text_rate" in systems.get(system, {}):
            figures = new.scores.get(name, {}).get(system, {})
            rows.append(_compare_texts(name, float(systems[system]["text_rate"]), figures))
    return _decide(rows)


def _decide(rows: list[dict[str, str]]) -> Verdict:
    """The verdict over the outcomes of all sets."""
    names: dict[str, list[str]] = {}
    for row in rows:
        names.setdefault(row["outcome"], []).append(row["set"])
    objections = [
        f"{outcome} on {', '.join(sets)}"
        for outcome, sets in sorted(names.items())
        if outcome not in (BETTER, SAME)
    ]
    if objections:
        return Verdict(False, "; ".join(objections), rows)
    if BETTER not in names:
        return Verdict(False, "significantly better on no guarded set", rows)
    reason = f"significantly better on {', '.join(names[BETTER])}, worse on none"
    return Verdict(True, reason, rows)


def _compare_errors(
    name: str, old: UtteranceErrors, new: UtteranceErrors | None, resamples: int
) -> dict[str, str]:
    """The row of a set of speech."""
    if new is None or not old.has_utterances_of(new):
        return {"set": name, "outcome": OTHER_UTTERANCES}
    test = compare(old.errors, new.errors, old.words, old.speakers, resamples)
    outcome = SAME
    if test.is_significant:
        outcome = BETTER if test.difference < 0 else WORSE
    return {
        "set": name,
        "outcome": outcome,
        "before %": format_percent(old.errors.sum() / old.words.sum()),
        "now %": format_percent(new.errors.sum() / new.words.sum()),
        "difference": format_points(test.difference),
        "p": f"{test.matched_p:.4f}",
    }


def _compare_texts(name: str, before: float, figures: Mapping[str, object]) -> dict[str, str]:
    """The row of a set of non-speech: any more text is worse, by however little."""
    rate = figures.get("text_rate")
    if not isinstance(rate, (int, float)):
        return {"set": name, "outcome": OTHER_UTTERANCES}
    return {
        "set": name,
        "outcome": WORSE if rate > before else SAME,
        "before %": format_percent(before),
        "now %": format_percent(rate),
        "difference": format_points(rate - before),
    }


def list_versions() -> list[str]:
    """Tags of the promoted models, the last one first."""
    return run("git", "tag", "--list", f"{ARTIFACT}@v*", "--sort=-version:refname").split()


def next_version(tags: Iterable[str]) -> str:
    """The tag of the next model to be promoted."""
    numbers = [int(tag.rpartition("@v")[2].split(".")[0]) for tag in tags]
    return f"{ARTIFACT}@v{max(numbers, default=0) + 1}.0.0"


def promote(folder: str, commit: str, reason: str) -> str:
    """Tags ``commit`` of the repository in ``folder`` as the next version; returns the tag."""
    tag = next_version(list_versions())
    run("git", "-C", folder, "tag", "--annotate", "-m", reason, tag, commit)
    return tag
