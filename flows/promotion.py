"""When a newly trained model takes the place of the one in use, and how that is recorded.

A model is promoted by a Git tag ``bridge@vN.0.0`` on the commit that made it, which is how DVC
names a version of the artifact ``bridge`` of ``dvc.yaml``: ``dvc artifacts get . bridge --rev
vN.0.0`` brings any of them back.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from components.config.errors import InputError, nearest
from components.score.significance import compare
from flows.command import run
from flows.differences import NOT_ALIKE, Errors, signed
from flows.results import Scores, percent

ARTIFACT = "bridge"
BETTER, WORSE, SAME = "better", "worse", "no difference"


@dataclass(frozen=True)
class Verdict:
    """Whether the new model is promoted, why, and what was compared: a row a set."""

    promoted: bool
    why: str
    rows: list[dict[str, str]]


@dataclass(frozen=True)
class Outcome:
    """What a run gave, as the rule reads it: errors by (set, system), and
    ``metrics/score.json``.
    """

    errors: Mapping[tuple[str, str], Errors]
    scores: Scores


def judge(
    old: Outcome, new: Outcome, system: str, guarded: Sequence[str] = (), resamples: int = 1000
) -> Verdict:
    """The rule: significantly better on at least one guarded set, significantly worse on none, text
    on no set of non-speech more often.

    ``guarded`` are sets of speech (all that the old model has by default), read by ``system``. A
    guarded set that the new run lacks, or in which it heard other utterances, can't be judged: the
    model is not promoted. Raises InputError for a set that there is not.
    """
    sets = list(guarded) or sorted(name for name, own in old.errors if own == system)
    for name in sets:
        if (name, system) not in old.errors:
            raise InputError(
                f"The model in use has no set '{name}' read by '{system}'.",
                subject=name,
                hint=nearest(name, {each for each, _ in old.errors}),
            )
    rows = [
        _row(name, old.errors[name, system], new.errors.get((name, system)), resamples)
        for name in sets
    ]
    rows += [
        _text_row(name, float(own[system]["text_rate"]), new.scores.get(name, {}).get(system, {}))
        for name, own in old.scores.items()
        if "text_rate" in own.get(system, {})
    ]
    held = {
        outcome: [row["set"] for row in rows if row["outcome"] == outcome]
        for outcome in {row["outcome"] for row in rows}
    }
    bad = [
        f"{outcome} on {', '.join(names)}"
        for outcome, names in sorted(held.items())
        if outcome not in (BETTER, SAME)
    ]
    if bad:
        return Verdict(False, "; ".join(bad), rows)
    if BETTER not in held:
        return Verdict(False, "significantly better on no guarded set", rows)
    return Verdict(True, f"significantly better on {', '.join(held[BETTER])}, worse on none", rows)


def _row(name: str, old: Errors, new: Errors | None, resamples: int) -> dict[str, str]:
    if (
        new is None
        or old.ids != new.ids
        or not np.array_equal(old.words, new.words)
        or not old.words.sum()
    ):
        return {"set": name, "outcome": NOT_ALIKE}
    found = compare(old.errors, new.errors, old.words, old.speakers, resamples)
    outcome = (BETTER if found.difference < 0 else WORSE) if found.is_significant else SAME
    return {
        "set": name,
        "outcome": outcome,
        "before %": percent(old.errors.sum() / old.words.sum()),
        "now %": percent(new.errors.sum() / new.words.sum()),
        "difference": signed(found.difference),
        "p": f"{found.matched_p:.4f}",
    }


def _text_row(name: str, before: float, now: Mapping[str, object]) -> dict[str, str]:
    """Text on non-speech: any more of it is worse, by however little."""
    rate = now.get("text_rate")
    if not isinstance(rate, (int, float)):
        return {"set": name, "outcome": NOT_ALIKE}
    return {
        "set": name,
        "outcome": WORSE if rate > before else SAME,
        "before %": percent(before),
        "now %": percent(rate),
        "difference": signed(rate - before),
    }


def versions() -> list[str]:
    """Tags of the promoted models, the last one first."""
    return run("git", "tag", "--list", f"{ARTIFACT}@v*", "--sort=-version:refname").split()


def next_version(tags: Iterable[str]) -> str:
    """The tag of the next model to be promoted."""
    numbers = [int(tag.rpartition("@v")[2].split(".")[0]) for tag in tags]
    return f"{ARTIFACT}@v{max(numbers, default=0) + 1}.0.0"


def promote(folder: str, commit: str, why: str) -> str:
    """Tags ``commit`` of the repository in ``folder`` as the next version; returns the tag."""
    tag = next_version(versions())
    run("git", "-C", folder, "tag", "--annotate", "-m", why, tag, commit)
    return tag
