"""Expects an error by its subject, its hint, and the names and figures in it, not its wording."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from components.config.errors import InputError, LibrettoError


@contextmanager
def refused(
    subject: str | None = None, *parts: str, error: type[LibrettoError] = InputError
) -> Iterator[None]:
    """Expects ``error`` with a hint, with this ``subject`` if given, and with all ``parts`` (names
    of files, parameters or utterances, figures) in its message or hint.
    """
    with pytest.raises(error) as caught:
        yield
    assert caught.value.hint
    if subject is not None:
        assert caught.value.subject == subject
    for part in parts:
        assert part in str(caught.value), part
