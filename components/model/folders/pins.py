"""``python -m components.<encoder|llm> pin NAME``: the lines that pin a catalogue entry to the
hub's current commit. Cost: one request.
"""

from __future__ import annotations

import argparse
import sys

from components.config import catalogue
from components.config.errors import InputError, LibrettoError
from components.config.model_sources import FETCHED
from components.model.folders.hub_entry import HubEntry, read_info, translate_errors


def pin(kind: str, arguments: list[str]) -> None:
    """Prints the lines that pin a catalogue entry to the hub's current commit."""
    parser = argparse.ArgumentParser(
        prog=f"python -m components.{kind} pin", description=pin.__doc__
    )
    parser.add_argument("name", help=f"of catalogue/{kind}.yaml, with a source of kind hub")
    name = parser.parse_args(arguments).name
    try:
        sys.stdout.write(format_pin(kind, name) + "\n")
    except LibrettoError as error:
        sys.stderr.write(f"{kind} pin: {error}\n")
        sys.exit(error.exit_code)


def format_pin(kind: str, name: str) -> str:
    """The lines for the catalogue: the commit of main, and the files of a checkpoint where the
    entry names none. Raises InputError for an entry that is not on the hub.
    """
    entry = HubEntry(kind, name, catalogue.READERS[kind](name).source)
    if entry.source.kind != "hub":
        raise InputError(
            f"{entry.where}: its source is of kind '{entry.source.kind}': nothing to pin.",
            subject=name,
            hint="Name an entry whose source is of kind hub.",
        )
    with translate_errors(entry, "main"):
        commit, files = read_info(entry, "main")
    return (
        f"# catalogue/{kind}.yaml, {name}, source:\n    revision: {commit}\n    files: "
        f"[{', '.join(entry.source.files or select_files(files))}]"
    )


def select_files(files: list[str]) -> list[str]:
    """Of a repository's files those that a checkpoint needs: weights, as safetensors if there are
    any, and descriptions.
    """
    usable = [file for file in files if FETCHED.fullmatch(file) and not file.endswith(".md")]
    has_safetensors = any(file.endswith(".safetensors") for file in usable)
    return sorted(
        file for file in usable if not (has_safetensors and file.startswith("pytorch_model"))
    )
