"""The model that comes with the repository, which ``libretto transcribe`` takes where no other is
named.

In: the current folder. Out: the folder of an exported model. Cost: nothing.
"""

from __future__ import annotations

from pathlib import Path

from components.config.params import PARAMS
from components.transcribe.setup import DESCRIPTION

PUBLISHED = Path("models/human")  # in a checkout


def published_model() -> Path | None:
    """The exported model that comes with the repository, if there is one: of this workspace, or,
    outside of any, of the checkout that this code is a part of.
    """
    is_workspace = PARAMS.is_file()
    root = Path() if is_workspace else Path(__file__).resolve().parents[2]
    return root / PUBLISHED if (root / PUBLISHED / DESCRIPTION).is_file() else None


def exported_folder(folder: Path | None) -> Path | None:
    """The folder, or None where it is the current one and has no export: that names the model of
    this workspace.
    """
    if folder is None or (folder / DESCRIPTION).is_file():
        return folder
    return None if folder.resolve() == Path.cwd() else folder
