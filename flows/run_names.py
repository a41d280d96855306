"""Names of flow runs that say what runs and since when, in place of Prefect's random words.

In: the name of a flow. Out: what Prefect calls for the name of each run. Cost: nothing.
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime


def dated_name(flow: str) -> Callable[[], str]:
    """A function that gives ``<flow> <date and time of its start, UTC>``."""

    def name_run() -> str:
        return f"{flow} {datetime.now(UTC):%Y-%m-%d %H:%M:%S}"

    return name_run
