"""How many tokens of the LLM an utterance takes, told before anything is computed: for a batch's
budget in tokens.

In: utterances and where their frames come from. Out: prompt, speech as the projector joins it,
transcript and its end. Costs one run of the tokenizer over the transcripts.
"""

from __future__ import annotations

from components.features.frames import FrameSource
from components.model.speech_llm import SpeechLLM
from components.shards.reader import IndexedUtterance
from components.train.data import parts_of


class Lengths:
    """``(item, spoken, epoch) → tokens``; each transcript is counted once."""

    def __init__(self, model: SpeechLLM, speech: FrameSource, silence: FrameSource) -> None:
        self._builder, self._projector, self._sources = (
            model.builder,
            model.projector,
            (silence, speech),
        )
        self._texts: dict[str, int] = {}

    def __call__(self, item: IndexedUtterance, spoken: bool, epoch: int) -> int:
        frames = sum(self._sources[spoken].count(part, epoch) for part in parts_of(item))
        text = self._text(item.entry.text if spoken else "")
        return (
            len(self._builder.before)
            + len(self._builder.after)
            + text
            + self._projector.tokens_of(frames)
        )

    def _text(self, text: str) -> int:
        """Tokens of a transcript and its end."""
        if text not in self._texts:
            self._texts[text] = len(self._builder.target(text)) + 1
        return self._texts[text]
