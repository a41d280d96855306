"""Text forms: what is done to both sides, reference and hypothesis, before words are compared.

``as-is`` compares the words as they stand; ``casefold`` is the classic LibriSpeech comparison (Kaldi, icefall): case
folded, nothing else changed. A form splits at white space only and never merges or drops words.
"""

from __future__ import annotations

from collections.abc import Callable

FORMS: dict[str, Callable[[str], str]] = {
    "as-is": lambda text: " ".join(text.split()),
    "casefold": lambda text: " ".join(text.casefold().split()),
}


def in_form(text: str, form: str) -> str:
    """``text`` in the form of that name (a KeyError names an unknown one)."""
    return FORMS[form](text)
