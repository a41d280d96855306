"""Errors that say what is wrong, in which file, utterance or parameter, and the way out.

The exit code tells a scheduler whether trying again can help: 2 never (a wrong parameter or input),
75 perhaps (EX_TEMPFAIL of sysexits.h: network, lost worker, accelerator taken).
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class LibrettoError(Exception):
    """Base of all errors that a user can act on."""

    exit_code = 1
    kind = "error"

    def __init__(self, message: str, *, subject: str = "", hint: str = "") -> None:
        super().__init__(message)
        self.subject = subject
        self.hint = hint

    def __str__(self) -> str:
        text = super().__str__()
        return f"{text} {self.hint}".strip()


class InputError(LibrettoError):
    """A wrong parameter, name or input file: trying again gives the same."""

    exit_code = 2
    kind = "input"


class TransientError(LibrettoError):
    """What may pass by itself: a network, a lost worker, an accelerator that is taken."""

    exit_code = 75
    kind = "transient"


_KINDS: tuple[type[LibrettoError], ...] = (LibrettoError, InputError, TransientError)
BY_KIND = {kind.kind: kind for kind in _KINDS}  # as an ``error.json`` names them
BY_CODE = {kind.exit_code: kind for kind in _KINDS}


def nearest(word: str, known_words: Iterable[str]) -> str:
    """A sentence that names the nearest known word, or all of them where none is near."""
    names = sorted(known_words)
    near = difflib.get_close_matches(word, names, n=1, cutoff=0.5)
    if near:
        return f"Did you mean '{near[0]}'?"
    return f"Known: {', '.join(names)}." if names else "None is known."
