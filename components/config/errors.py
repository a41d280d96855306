"""Errors that a user can act on: what is wrong, in which file, utterance or parameter, and a hint.

The exit code tells a scheduler whether a new try can help: 2 never (a wrong parameter or input),
75 perhaps (EX_TEMPFAIL of sysexits.h: network, lost worker, accelerator in use).
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable

# The way out where a file of this project is damaged.
REPAIR = (
    "'libretto clean --verify' (or python -m components.clean --verify) removes what is damaged; "
    "'dvc repro' then makes it again."
)


class LibrettoError(Exception):
    """Base of all errors that a user can act on.

    ``subject`` names the file, utterance, parameter or setting; ``hint`` says how to correct it.
    """

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
    """A wrong parameter, name or input file: a new try gives the same."""

    exit_code = 2
    kind = "input"


class TransientError(LibrettoError):
    """A failure that may pass by itself: of a network, a worker, an accelerator in use."""

    exit_code = 75
    kind = "transient"


_ERRORS: tuple[type[LibrettoError], ...] = (LibrettoError, InputError, TransientError)
BY_KIND = {error.kind: error for error in _ERRORS}  # as an ``error.json`` names them
BY_CODE = {error.exit_code: error for error in _ERRORS}


def damaged_file(where: object, reason: str, hint: str = REPAIR) -> InputError:
    """The error for a file of this project, ``where``, whose content is not what it writes."""
    reason = f": {reason.rstrip('.')}" if reason else ""
    return InputError(
        f"{where} is damaged, or written by another version{reason}.",
        subject=str(where),
        hint=hint,
    )


def nearest(word: str, names: Iterable[str]) -> str:
    """A hint that names the name nearest to ``word``, or all names where none is near."""
    names = sorted(names)
    near = difflib.get_close_matches(word, names, n=1, cutoff=0.5)
    if near:
        return f"Did you mean '{near[0]}'?"
    return f"Known: {', '.join(names)}." if names else "None is known."
