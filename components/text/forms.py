"""Text forms: how both sides, reference and hypothesis, are normalised before words are compared.

``as-is`` compares the words as they are; ``casefold`` is the classic LibriSpeech comparison (Kaldi,
icefall): case folded, nothing else changed. Both split at white space only and never merge or drop
a word. ``whisper`` is the English normaliser of Radford et al. 2022 (arXiv 2212.04356, appendix C):
it rewrites numbers, contractions and British spelling and drops fillers, punctuation and text in
brackets, so the number of reference words changes.

In: text. Out: words with single spaces between them. Cost: nothing for the first two; ``whisper``
normalises about 37,000 words a second and core, so a text is normalised once in a process, and
``prepare`` distributes many texts over the cores.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from functools import lru_cache
from typing import Any

from components.runtime.pool import fan_out

CHUNK = 500  # texts that a worker normalises at a time: about a third of a second
MAX_SERIAL = 4 * CHUNK  # up to so many texts are normalised here: a worker takes a second to start
_normalised: dict[str, str] = {}  # text, case folded → its Whisper form


@lru_cache(maxsize=1)
def _normaliser() -> Any:
    from whisper_normalizer.english import EnglishTextNormalizer

    return EnglishTextNormalizer()


def _key(text: str) -> str:
    """The part of a text that the normaliser sees: it begins by lower-casing it, and treats white
    space of any kind alike.
    """
    return " ".join(text.lower().split())


def _whisper(text: str) -> str:
    key = _key(text)
    if key not in _normalised:
        _normalised[key] = " ".join(_normaliser()(key).split())
    return _normalised[key]


def _normalise_chunk(texts: Sequence[str]) -> list[str]:
    return [_whisper(text) for text in texts]


FORMS: dict[str, Callable[[str], str]] = {
    "as-is": lambda text: " ".join(text.split()),
    "casefold": lambda text: " ".join(text.casefold().split()),
    "whisper": _whisper,
}


def normalise(text: str, form: str) -> str:
    """``text`` in the form of that name; raises KeyError for an unknown one."""
    return FORMS[form](text)


def prepare(texts: Iterable[str], form: str) -> None:
    """Normalises many texts in parallel, so that ``normalise`` finds them done; changes no
    result.
    """
    if form != "whisper":
        return
    keys = list(dict.fromkeys(key for text in texts if (key := _key(text)) not in _normalised))
    chunks = [tuple(keys[start : start + CHUNK]) for start in range(0, len(keys), CHUNK)]
    results = (
        fan_out(_normalise_chunk, chunks, is_local=True)
        if len(keys) > MAX_SERIAL
        else ((chunk, _normalise_chunk(chunk)) for chunk in chunks)
    )
    for chunk, forms in results:
        _normalised.update(zip(chunk, forms, strict=True))
