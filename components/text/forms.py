"""Text forms: how both sides, reference and hypothesis, are normalised before words are compared.

``as-is`` compares the words as they are; ``casefold`` is the classic LibriSpeech comparison (Kaldi,
icefall): case folded; a letter with its mark is one, however it is coded (Unicode's form NFC), and
there is one apostrophe. Both split at white space only and never merge or drop a word. ``whisper``
is the normaliser of Radford et al. 2022 (arXiv 2212.04356, appendix C). For English it rewrites
numbers, contractions and British spelling and drops fillers, punctuation and text in brackets, so
the number of reference words changes. For any other language it drops punctuation, symbols and text
in brackets and keeps diacritics; languages that are written without spaces are compared character
by character.

In: text and its language. Out: words with single spaces between them. Cost: nothing for the first
two; ``whisper`` normalises about 37,000 English words a second and core, so a text is normalised
once in a process, and ``prepare`` distributes many texts over the cores.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Callable, Iterable, Sequence
from functools import lru_cache
from typing import Any

from components.runtime.pool import fan_out

CHUNK = 500  # texts that a worker normalises at a time: about a third of a second
MAX_SERIAL = 4 * CHUNK  # up to so many texts are normalised here: a worker takes a second to start
ENGLISH = "en"
# Written without spaces: Chinese, Cantonese, Japanese, Thai, Lao, Burmese (arXiv 2212.04356,
# appendix C).
UNSPACED = ("zh", "yue", "ja", "th", "lo", "my")
# Tags of three letters (ISO 639-2 and -3) of the languages that have rules of their own.
ALIASES = {"eng": "en", "zho": "zh", "chi": "zh", "cmn": "zh", "jpn": "ja", "tha": "th"}
ALIASES |= {"lao": "lo", "mya": "my", "bur": "my"}
# Typographic and modifier letter apostrophes, a typist's acute and grave → the apostrophe.
APOSTROPHES = str.maketrans(dict.fromkeys("\u2018\u2019\u02bc\u201b\uff07\u00b4\u0060", "'"))
Text = tuple[str, str]  # primary language, text
_normalised: dict[Text, str] = {}  # the text case folded → its Whisper form


@lru_cache(maxsize=3)
def _normaliser(language: str) -> Any:
    from whisper_normalizer.basic import BasicTextNormalizer
    from whisper_normalizer.english import EnglishTextNormalizer

    if language == ENGLISH:
        return EnglishTextNormalizer()
    # Marks are kept: vowels of Indic scripts are some.
    return BasicTextNormalizer(split_letters=language in UNSPACED, preserve_marks=True)


def _casefold(text: str) -> str:
    composed = unicodedata.normalize("NFC", text).translate(APOSTROPHES).casefold()
    return " ".join(unicodedata.normalize("NFC", composed).split())


def _key(text: str, language: str) -> Text:
    """Which normaliser a text has, and the part of the text that it sees: it begins by lower-casing
    it, and treats white space of any kind alike.
    """
    primary = primary_language(language)
    kind = primary if primary == ENGLISH or primary in UNSPACED else "other"
    return kind, " ".join(text.lower().split())


def primary_language(language: str) -> str:
    """The first part of a language tag such as ``pt-BR``, of two letters where it has some; no
    language counts as English.
    """
    primary = language.replace("_", "-").partition("-")[0].lower() or ENGLISH
    return ALIASES.get(primary, primary)


def _whisper(text: str, language: str) -> str:
    key = _key(text, language)
    if key not in _normalised:
        _normalised[key] = " ".join(_normaliser(key[0])(key[1]).split())
    return _normalised[key]


def _normalise_chunk(texts: Sequence[Text]) -> list[str]:
    return [_whisper(text, language) for language, text in texts]


FORMS: dict[str, Callable[[str, str], str]] = {  # of a text and its language
    "as-is": lambda text, _: " ".join(text.split()),
    "casefold": lambda text, _: _casefold(text),
    "whisper": _whisper,
}


def normalise(text: str, form: str, language: str = ENGLISH) -> str:
    """``text`` in the form of that name; raises KeyError for an unknown one."""
    return FORMS[form](text, language)


def prepare(texts: Iterable[str], form: str, languages: Iterable[str]) -> None:
    """Normalises many texts in parallel, each of its language, so that ``normalise`` finds them
    done; changes no result.
    """
    if form != "whisper":
        return
    pairs = zip(texts, languages, strict=True)
    keys = list(dict.fromkeys(key for pair in pairs if (key := _key(*pair)) not in _normalised))
    chunks = [tuple(keys[start : start + CHUNK]) for start in range(0, len(keys), CHUNK)]
    results = (
        fan_out(_normalise_chunk, chunks, is_local=True)
        if len(keys) > MAX_SERIAL
        else ((chunk, _normalise_chunk(chunk)) for chunk in chunks)
    )
    for chunk, forms in results:
        _normalised.update(zip(chunk, forms, strict=True))
