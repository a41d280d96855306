"""Text forms: what is done to both sides, reference and hypothesis, before words are compared.

``as-is`` compares the words as they stand; ``casefold`` is the classic LibriSpeech comparison
(Kaldi, icefall): case folded, nothing else changed. Both split at white space only and never merge
or drop a word. ``whisper`` is the English normaliser of Radford et al. 2022 (arXiv 2212.04356,
appendix C): it rewrites numbers, contractions and British spelling and drops fillers, punctuation
and what stands in brackets, so the number of reference words is another one.

In: text. Out: words with single spaces between them. Cost: nothing for the first two; ``whisper``
takes about 37,000 words a second and core, so a text is normalised once in a process, and
``prepare`` spreads many texts over the cores.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from functools import lru_cache
from typing import Any

from components.runtime.pool import fan_out

CHUNK = 500  # texts that a worker takes at a time: about a third of a second
FEW = 4 * CHUNK  # fewer are done here: a worker process takes a second to start
_held: dict[str, str] = {}  # text, case aside → its Whisper form


@lru_cache(maxsize=1)
def _normaliser() -> Any:
    from whisper_normalizer.english import EnglishTextNormalizer

    return EnglishTextNormalizer()


def _key(text: str) -> str:
    """What the normaliser sees of a text: it begins by lower-casing it, and white space of any kind
    is one to it.
    """
    return " ".join(text.lower().split())


def _whisper(text: str) -> str:
    key = _key(text)
    if key not in _held:
        _held[key] = " ".join(_normaliser()(key).split())
    return _held[key]


def _chunk(texts: Sequence[str]) -> list[str]:
    return [_whisper(text) for text in texts]


FORMS: dict[str, Callable[[str], str]] = {
    "as-is": lambda text: " ".join(text.split()),
    "casefold": lambda text: " ".join(text.casefold().split()),
    "whisper": _whisper,
}


def normalise(text: str, form: str) -> str:
    """``text`` in the form of that name (a KeyError names an unknown one)."""
    return FORMS[form](text)


def prepare(texts: Iterable[str], form: str) -> None:
    """Has many texts at hand for ``normalise``, in less time than one after the other; changes no
    result.
    """
    if form != "whisper":
        return
    new = list(dict.fromkeys(key for text in texts if (key := _key(text)) not in _held))
    chunks = [tuple(new[start : start + CHUNK]) for start in range(0, len(new), CHUNK)]
    done = (
        fan_out(_chunk, chunks, is_local=True)
        if len(new) > FEW
        else ((chunk, _chunk(chunk)) for chunk in chunks)
    )
    for chunk, found in done:
        _held.update(zip(chunk, found, strict=True))
