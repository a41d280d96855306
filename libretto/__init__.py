"""Speech recognition with a large language model: the public Python interface.

``from libretto import Transcriber, load, score``. Each name is imported when it is first used, so
that ``import libretto`` takes milliseconds and loads no numerical library.

::

    transcriber = libretto.load("exported")
    text = transcriber("talk.flac").text
    libretto.score(["the reference"], [text]).wer
"""

from __future__ import annotations

from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from components.score.error_rates import score
    from components.transcribe.transcriber import Transcriber

__all__ = ["Transcriber", "__version__", "load", "score"]
MODULES = {
    "Transcriber": "components.transcribe.transcriber",
    "score": "components.score.error_rates",
}


def load(
    folder: str | Path | None = None, *, constraints: str = "", device: str = ""
) -> Transcriber:
    """Loads a model: that of an exported folder, or, with ".", of the workspace that is the current
    folder. Where none is named it is the one that ``libretto transcribe`` takes: ``models/human``,
    or else that of the workspace.

    ``constraints`` names a constraint set of the model, or ``ctc`` for the encoder's own text
    (default: ``constrained``). ``device`` is a device name of torch (default: the runtime setting).
    Raises InputError if the model is incomplete or the set is unknown, TransientError if a base
    checkpoint could not be fetched.
    """
    from components.transcribe.published import exported_folder, published_model
    from components.transcribe.transcriber import Transcriber

    named = exported_folder(Path(folder)) if folder else published_model()
    return Transcriber.load(named, device, constraints)


def __getattr__(name: str) -> Any:
    if name in MODULES:
        return getattr(import_module(MODULES[name]), name)
    if name == "__version__":
        from components.transcribe.version import package_version

        return package_version()
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
