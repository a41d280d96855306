"""What a test asserts of a refused input: the error, not its wording."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from components.config.errors import InputError


@contextmanager
def refused(subject: str, *names: str) -> Iterator[None]:
    """An InputError about ``subject`` that has a hint and mentions all ``names``."""
    with pytest.raises(InputError) as caught:
        yield
    assert caught.value.subject == subject
    assert caught.value.hint
    assert [name for name in names if name not in str(caught.value)] == []
