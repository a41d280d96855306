"""``libretto completion SHELL``: a completion script for a shell, on standard output.

The script knows the commands and, of each command that can be imported here, its options; it is
static, so that completion itself starts no Python. Cost: the import of every command, seconds.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence

import shtab

from libretto.commands import COMMANDS, Subcommand

SHELLS = ("bash", "zsh", "fish")
PATHS = {"FILE|FOLDER|-": shtab.FILE, "DIR": shtab.DIRECTORY}  # by metavar


def build_parser(prog: str = "libretto completion") -> argparse.ArgumentParser:
    """The parser of ``libretto completion``."""
    parser = argparse.ArgumentParser(
        prog=prog,
        description="Prints a completion script. For bash: source <(libretto completion bash)",
    )
    parser.add_argument("shell", choices=SHELLS)
    return parser


def main(arguments: Sequence[str] | None = None, prog: str = "libretto completion") -> int:
    """Prints the script; returns the exit code."""
    options = build_parser(prog).parse_args(arguments)
    print(shtab.complete(complete_parser(), options.shell))
    return 0


def complete_parser() -> argparse.ArgumentParser:
    """One parser with all commands and the options of those that define ``build_parser``."""
    parser = argparse.ArgumentParser(prog="libretto")
    parser.add_argument("--version", action="store_true", help="print version and commit")
    subparsers = parser.add_subparsers(dest="command")
    for command in COMMANDS.values():
        parents = command_parsers(command)
        subparser = subparsers.add_parser(
            command.name, help=command.summary, parents=parents, add_help=not parents
        )
        for action in subparser._actions:
            kind = PATHS.get(str(action.metavar))
            if kind is not None:
                action.complete = kind  # type: ignore[attr-defined]
    return parser


def command_parsers(command: Subcommand) -> list[argparse.ArgumentParser]:
    """The parser of a command as a list, empty if the command cannot be imported here."""
    try:
        return [command.build_parser()]
    except ImportError:  # the packages ``flows`` and ``bench`` are in a checkout only
        return []
