"""From recordings to text: ``Transcriber`` in Python, ``python -m components.transcribe`` on the
command line. No stage of its own.

``Transcriber.load("DIR")("file.flac").text``; without a folder the model of the workspace is taken.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from components.transcribe.transcriber import Transcriber

__all__ = ["Transcriber"]


def __getattr__(name: str) -> Any:
    if (
        name == "Transcriber"
    ):  # torch is loaded where it is used, and not by a command that only refuses its parameters
        from components.transcribe.transcriber import Transcriber

        return Transcriber
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
