"""Sizes of networks, kept in the work cache from one plan to the next.

In: what a ``config.json`` or a catalogue entry says of a network. Out: the figures of
``components.plan.sizes``, which ``components.plan.counts`` counts once; those of the networks of
the committed ``params.yaml`` come with this package (``counts.json``). Cost: milliseconds; 4 s for
a network that was never planned, since torch and transformers are imported for it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar

from pydantic import TypeAdapter

from components.config.projector import Projector
from components.config.schema import non_default_fields
from components.plan.sizes import BridgeSize, EncoderCounts, LlmCounts
from components.runtime.hashing import data_digest
from components.runtime.json_files import read_json
from components.runtime.unit_cache import cached_unit

FILE = "counts.json"  # of a unit of the work cache
COMMITTED = Path(__file__).with_name("counts.json")  # figures by digest of their key
Counts = TypeVar("Counts")


class SizeReader:
    """Sizes of networks: those that come with this package, those of an earlier plan, or counted
    now.
    """

    def __init__(self, committed: Mapping[str, Any] | None = None) -> None:
        """Reads ``committed``, figures by the digest of their key; by default those of this
        package.
        """
        if committed is None:
            committed = (
                read_json(COMMITTED, hint="Install the package again.")
                if COMMITTED.is_file()
                else {}
            )
        self._committed = committed
        self.figures: dict[str, Any] = {}  # all that was read, by the digest of its key

    def encoder(self, where: str, shape: dict[str, Any], padding: str) -> EncoderCounts:
        """The encoder that ``shape``, the keys of a ``config.json``, describes; ``padding`` is that
        of its catalogue entry.

        Raises InputError, which names ``where``, for a family that is not known, and for a shape
        that makes no network.
        """

        def count() -> EncoderCounts:
            from components.plan.counts import count_encoder

            return count_encoder(where, shape, padding)

        return self._read(EncoderCounts, {"encoder": shape, "padding": padding}, count)

    def llm(self, shape: dict[str, Any]) -> LlmCounts:
        """The causal LLM that ``shape``, the keys of a ``config.json``, describes; raises
        InputError for a shape that makes no network.
        """

        def count() -> LlmCounts:
            from components.plan.counts import count_llm

            return count_llm(shape)

        return self._read(LlmCounts, {"llm": shape}, count)

    def bridge(self, entry: Projector, encoder_width: int, llm_width: int) -> BridgeSize:
        """The bridge of a catalogue entry between these widths."""

        def count() -> BridgeSize:
            from components.plan.counts import count_bridge

            return count_bridge(entry, encoder_width, llm_width)

        key = {"bridge": non_default_fields(entry), "widths": [encoder_width, llm_width]}
        return self._read(BridgeSize, key, count)

    def _read(self, kind: type[Counts], key: dict[str, Any], count: Callable[[], Counts]) -> Counts:
        """What ``count`` gives for this key, or gave before."""
        adapter, digest = TypeAdapter(kind), data_digest(key)

        def write(folder: Path) -> None:
            (folder / FILE).write_bytes(adapter.dump_json(count()))

        figures = self._committed.get(digest)
        if figures is None:
            unit = cached_unit("plan", key, write, code="components.plan.counts")
            figures = read_json(unit / FILE)
        self.figures[digest] = figures
        return adapter.validate_python(figures)
