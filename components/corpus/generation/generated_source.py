"""What the kinds of generated audio share: a plan for each recording, from which the manifest and
the audio follow.

In: the plans, how one is described and how they are generated, by the class of the kind. Out: the
two calls of ``CorpusSource`` that a stage makes. Cost: that of ``blocks``.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Generic, TypeVar

from components.corpus.generation.blocks import list_block_utterances, locate_generated
from components.corpus.manifest import Reject
from components.text.utterance import Utterance

Plan = TypeVar("Plan")  # a dataclass with an ``id``


class GeneratedAudio(ABC, Generic[Plan]):
    """A source whose module generates its audio."""

    @abstractmethod
    def _plan_utterances(self) -> Sequence[Plan]:
        """All recordings, the same ones on every run."""

    @abstractmethod
    def _describe(self, plan: Plan) -> dict[str, Any]:
        """Split, speaker, language and text of a recording."""

    @abstractmethod
    def _generate(self, plans: Sequence[Plan]) -> list[Path]:
        """The folders of finished blocks, generated where the work cache does not have them."""

    def list_utterances(self) -> tuple[list[Utterance], list[Reject]]:
        """All recordings, sorted by id; no rejects."""
        plans = self._plan_utterances()
        plan_by_id = {plan.id: plan for plan in plans}  # type: ignore[attr-defined]
        return list_block_utterances(
            self._generate(plans), lambda name: self._describe(plan_by_id[name])
        ), []

    def locate(self, path: str) -> Path:
        """The file of a path of the manifest, generated again if it is gone."""
        return locate_generated(
            path, lambda: self._generate(self._plan_utterances()), code=type(self).__module__
        )
