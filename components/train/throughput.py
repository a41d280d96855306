"""Throughput of a training by the wall clock: tokens of the LLM a second, hours of audio an hour,
the share of padding.

These differ between equal runs, so they go to the progress display and to ``runs/``, never into an
output. Decoding of dev is not counted. A resumed training adds to the sums of the killed one.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from components.runtime.durability import replaced_file

FILE = "throughput.json"
SUMS = ("steps", "seconds", "audio_seconds", "tokens", "padding")


class Throughput:
    """Sums over the steps of one stage, stored in ``folder``."""

    def __init__(self, folder: Path) -> None:
        self._path = folder / FILE
        stored = _read(self._path)
        self._sums = {name: stored.get(name, 0) for name in SUMS}

    def add(self, duration_s: float, audio_s: float, num_tokens: int, num_padding: int) -> None:
        """Adds one step: its duration, and the audio, tokens and padding of its batch."""
        values = (1, duration_s, audio_s, num_tokens, num_padding)
        for name, value in zip(SUMS, values, strict=True):
            self._sums[name] += value

    def rates(self) -> dict[str, float]:
        """Tokens a second, hours of audio an hour, and the share of padding in the batches of the
        LLM.
        """
        seconds = max(self._sums["seconds"], 1e-9)
        tokens, padding = self._sums["tokens"], self._sums["padding"]
        return {
            "tokens_per_second": round(tokens / seconds, 1),
            "audio_hours_per_hour": round(self._sums["audio_seconds"] / seconds, 1),
            "padding_share": round(padding / max(1, tokens + padding), 4),
        }

    def note(self) -> str:
        """The rates in one line."""
        rates = self.rates()
        return (
            f"{rates['tokens_per_second']:,.0f} tokens/s, "
            f"{rates['audio_hours_per_hour']:,.0f} h of audio/h, "
            f"{rates['padding_share']:.0%} padding"
        )

    def save(self) -> None:
        """Writes sums and rates to the folder of the stage."""
        self._path.parent.mkdir(parents=True, exist_ok=True)
        with replaced_file(self._path) as path:
            path.write_text(json.dumps({**self._sums, **self.rates()}))


def read_throughput(scratch: Path) -> dict[str, Any]:
    """Sums and rates of the stages of a training in ``scratch``, by stage."""
    return {path.parent.name: _read(path) for path in sorted(scratch.glob(f"*/{FILE}"))}


def _read(path: Path) -> dict[str, Any]:
    """What ``save`` wrote; nothing where it is missing or damaged: no result depends on it."""
    try:
        return dict(json.loads(path.read_text()))
    except (OSError, ValueError, TypeError):
        return {}
