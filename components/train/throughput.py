"""What a training gets through by the wall clock: the LLM's tokens a second, hours of audio an
hour, the share of padding.

These differ between equal runs, so they are shown, and go to ``runs/``, never into an output.
Decoding of dev is not counted. A killed training adds to what it kept.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

FILE = "throughput.json"


class Throughput:
    """Sums over the steps of one stage, kept in ``folder``."""

    def __init__(self, folder: Path) -> None:
        self._path = folder / FILE
        kept = json.loads(self._path.read_text()) if self._path.is_file() else {}
        self._sums = {
            name: kept.get(name, 0)
            for name in ("steps", "seconds", "audio_seconds", "tokens", "padding")
        }

    def add(self, seconds: float, audio_seconds: float, tokens: int, padding: int) -> None:
        """One step: how long it took, and what it went through."""
        for name, value in (
            ("steps", 1),
            ("seconds", seconds),
            ("audio_seconds", audio_seconds),
            ("tokens", tokens),
            ("padding", padding),
        ):
            self._sums[name] += value

    def rates(self) -> dict[str, float]:
        """Tokens a second, hours of audio an hour, and the share of the LLM's batches that is
        padding.
        """
        seconds, tokens, padding = (
            max(self._sums["seconds"], 1e-9),
            self._sums["tokens"],
            self._sums["padding"],
        )
        return {
            "tokens_per_second": round(tokens / seconds, 1),
            "audio_hours_per_hour": round(self._sums["audio_seconds"] / seconds, 1),
            "padding_share": round(padding / max(1, tokens + padding), 4),
        }

    def note(self) -> str:
        """The same in one line."""
        rates = self.rates()
        return (
            f"{rates['tokens_per_second']:,.0f} tokens/s, {rates['audio_hours_per_hour']:,.0f} h of audio/h, "
            f"{rates['padding_share']:.0%} padding"
        )

    def save(self) -> None:
        """Writes the sums and rates down."""
        self._path.parent.mkdir(parents=True, exist_ok=True)
        self._path.write_text(json.dumps({**self._sums, **self.rates()}))


def read_throughput(scratch: Path) -> dict[str, Any]:
    """What the stages of a training kept below ``scratch``, by stage."""
    return {
        path.parent.name: json.loads(path.read_text()) for path in sorted(scratch.glob(f"*/{FILE}"))
    }
