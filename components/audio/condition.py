"""The conditions of a recording: the four changes under which LLM-based recognisers are known to
fail (Kumar et al., arXiv 2411.03866).

Everything about a condition is in one row of ``CONDITION_KINDS``: the setting of a corpus source of
kind ``altered`` that asks for it, its label in ids, its title and unit in reports, its range, and
what it does to the length. ``components.audio.distortion`` applies it to a waveform; corpus, score
and report ask here. Imports neither numpy nor a sound library.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

ALTERED_KIND = "altered"  # the kind of corpus source whose settings name a condition
MIN_TEMPO, MAX_TEMPO = 0.5, 2.0  # beyond an octave of tempo, sounds are skipped or repeated
MARGIN_DB_RANGE = (-100.0, 0.0)  # dB of full scale


@dataclass(frozen=True)
class ConditionKind:
    """One kind of change and all that is known of it."""

    name: str  # of the setting, and of the condition in metrics/score.json
    label: str  # in ids
    title: str  # in reports
    unit: str  # of the value; empty: none
    minimum: float  # of the value
    maximum: float
    neutral: float | None  # value that leaves the audio as it is; None: there is none
    has_noise: bool
    # (value, duration of the recordings in seconds, number of recordings) → seconds that come out
    altered_duration_s: Callable[[float, float, int], float]

    @property
    def axis_label(self) -> str:
        """Title and unit, for the axis of a chart."""
        return f"{self.title}, {self.unit}" if self.unit else self.title


CONDITION_KINDS: dict[str, ConditionKind] = {
    kind.name: kind
    for kind in (
        # Power of the recording over that of the noise, both over its full length.
        ConditionKind(
            name="snr_db",
            label="snr",
            title="signal-to-noise ratio",
            unit="dB",
            minimum=-100,
            maximum=100,
            neutral=None,
            has_noise=True,
            altered_duration_s=lambda snr_db, duration_s, num_recordings: duration_s,
        ),
        # Factor of the speed, with the pitch kept.
        ConditionKind(
            name="tempo",
            label="tempo",
            title="tempo",
            unit="",
            minimum=MIN_TEMPO,
            maximum=MAX_TEMPO,
            neutral=1.0,
            has_noise=False,
            altered_duration_s=lambda tempo, duration_s, num_recordings: duration_s / tempo,
        ),
        # Share of the audio that stays, from its beginning on.
        ConditionKind(
            name="cut",
            label="cut",
            title="share of the audio kept",
            unit="",
            minimum=0.01,
            maximum=0.99,
            neutral=1.0,
            has_noise=False,
            altered_duration_s=lambda share, duration_s, num_recordings: duration_s * share,
        ),
        # Seconds of noise before the recording, and as many after it.
        ConditionKind(
            name="margin_seconds",
            label="around",
            title="noise before and after",
            unit="s",
            minimum=0.01,
            maximum=600,
            neutral=0.0,
            has_noise=True,
            altered_duration_s=lambda margin_s, duration_s, num_recordings: (
                duration_s + 2 * margin_s * num_recordings
            ),
        ),
    )
}


@dataclass(frozen=True)
class Condition:
    """One change with its value."""

    name: str  # of CONDITION_KINDS
    value: float
    seed: int = 1  # of the noise
    margin_db: float = -40.0  # root mean square of the noise in the margins, dB of full scale

    @property
    def kind(self) -> ConditionKind:
        """The row of ``CONDITION_KINDS``; raises KeyError for an unknown name."""
        return CONDITION_KINDS[self.name]

    def label(self) -> str:
        """The condition in ids: letters, digits, hyphens and underscores, ``tempo-0_8``."""
        value = f"{self.value:g}".replace("-", "minus-").replace(".", "_")
        return f"{self.kind.label}-{value}"

    def title(self) -> str:
        """The condition for a reader.

        >>> Condition("snr_db", 5.0).title()
        'signal-to-noise ratio 5 dB'
        """
        return f"{self.kind.title} {self.value:g} {self.kind.unit}".rstrip()

    def altered_duration_s(self, duration_s: float, num_recordings: int) -> float:
        """Seconds that come out where ``num_recordings`` of ``duration_s`` in all go in."""
        return self.kind.altered_duration_s(self.value, duration_s, num_recordings)


def condition_of(settings: Mapping[str, Any]) -> Condition | None:
    """The condition of a source, by its settings in ``catalogue/corpus.yaml``.

    None for a source of another kind than ``altered``, and for one that names no condition.
    """
    if settings.get("kind") != ALTERED_KIND:
        return None
    return next(
        (
            Condition(name, float(settings[name]))
            for name in CONDITION_KINDS
            if settings.get(name) is not None
        ),
        None,
    )
