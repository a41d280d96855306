"""From recordings to text: ``Transcriber`` in Python, ``python -m components.transcribe`` on the
command line. No stage of its own.

``Transcriber.load("DIR")("file.flac").text``; without a folder it uses the model of the workspace.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from components.transcribe.transcriber import Transcriber

__all__ = ["Transcriber"]


def __getattr__(name: str) -> Any:
    if name == "Transcriber":  # loads torch, which a command with a wrong parameter need not do
        from components.transcribe.transcriber import Transcriber

        return Transcriber
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
