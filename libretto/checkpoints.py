"""``libretto fetch-models``: what this machine lacks of the files that encoder and LLM consist of.

In: ``models/encoder`` and ``models/llm``, as ``dvc pull`` brings them. Out: the files in the work
cache and in ``models/linked``, each compared with its recorded digest. Nothing is trained, and no
output of DVC changes. Cost: what is fetched; nothing where all files are there.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence


def build_parser(prog: str = "libretto fetch-models") -> argparse.ArgumentParser:
    """The parser of ``libretto fetch-models``."""
    return argparse.ArgumentParser(
        prog=prog,
        description="Fetches what models/encoder and models/llm name and this machine lacks, from "
        "a hub or LIBRETTO_MODELS. Nothing is trained.",
    )


def main(arguments: Sequence[str] | None = None, prog: str = "libretto fetch-models") -> int:
    """Fetches the files and prints where they are; returns the exit code.

    Raises InputError where a folder is missing and where its source has other files now;
    TransientError if the network fails.
    """
    build_parser(prog).parse_args(arguments)
    from components.decode.decoder import WORKSPACE
    from components.model.folders.linked_checkpoint import open_checkpoint
    from components.runtime.logs import configure_logging

    configure_logging()
    for folder in (WORKSPACE.encoder, WORKSPACE.llm):
        print(f"{folder}: all files are in {open_checkpoint(folder)}")
    return 0
