"""Log messages of this project: plain lines on standard output, for commands.

In: the loggers below ``components``, which library callers configure as they like; no other package
of the project has some (flows use those of Prefect). Out: their messages from level INFO on, one
line each. A stage and every process that it starts call ``configure_logging``; nothing else in the
project installs a handler.
"""

from __future__ import annotations

import logging
import sys
from typing import TextIO

ROOT_LOGGER = "components"


class _StdoutHandler(logging.StreamHandler[TextIO]):
    """Writes to what ``sys.stdout`` is at the time of a message, so that it can be redirected."""

    def __init__(self) -> None:
        logging.Handler.__init__(self)

    @property
    def stream(self) -> TextIO:  # type: ignore[override]
        """The current standard output."""
        return sys.stdout


def configure_logging() -> None:
    """Sends messages of this project's loggers to standard output; a second call does nothing."""
    logger = logging.getLogger(ROOT_LOGGER)
    if not any(isinstance(handler, _StdoutHandler) for handler in logger.handlers):
        handler = _StdoutHandler()
        handler.setFormatter(logging.Formatter("%(message)s"))
        logger.addHandler(handler)
        logger.setLevel(logging.INFO)
