"""The commands of ``libretto`` and what each of them starts.

In: the command line. Out: an exit code, as the command that is started defines it: 0, 1 for a
partial failure, 2 for a wrong parameter or input, 75 for what may pass (network, lost worker). A
command is imported only when it is started, so that help needs no numerical library.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import import_module

from components.transcribe.version import version_line
from libretto.workspace import check_checkout, check_workspace

INTERRUPTED = 130  # exit code after Ctrl-C, as shells have it


@dataclass(frozen=True)
class Subcommand:
    """One command: the module whose ``main(arguments, prog=…)`` runs it and whose ``build_parser``
    describes its arguments, and what it needs.
    """

    name: str
    summary: str
    module: str
    prefix: tuple[str, ...] = ()  # arguments that the function takes before those of the user
    needs_workspace: bool = False
    needs_checkout: bool = False  # the packages ``flows`` and ``bench``, which no wheel holds

    @property
    def prog(self) -> str:
        """The command line up to the name of the command."""
        return f"libretto {self.name}"

    def build_parser(self) -> argparse.ArgumentParser:
        """The parser of its arguments; raises ImportError if its module is not installed."""
        module = import_module(self.module)
        parser: argparse.ArgumentParser = module.build_parser(*self.prefix, prog=self.prog)
        return parser


COMMANDS = {
    command.name: command
    for command in (
        Subcommand(
            "run",
            "run the pipeline: plan, dvc repro, table of results",
            "libretto.pipeline",
            needs_workspace=True,
        ),
        Subcommand(
            "plan",
            "estimate what a run downloads, writes, trains and takes",
            "components.plan.__main__",
            needs_workspace=True,
        ),
        Subcommand(
            "use",
            "put the parameters of a recipe into params.yaml",
            "libretto.recipes",
            needs_workspace=True,
            needs_checkout=True,
        ),
        Subcommand("transcribe", "turn recordings into text", "components.transcribe.__main__"),
        Subcommand(
            "export",
            "write the trained model into a folder that loads elsewhere",
            "components.transcribe.__main__",
            prefix=("export",),
            needs_workspace=True,
        ),
        Subcommand("score", "print the scores of the last run, or of two files", "libretto.scores"),
        Subcommand(
            "compare",
            "run experiments and print their results side by side",
            "flows.compare_options",
            needs_workspace=True,
            needs_checkout=True,
        ),
        Subcommand(
            "restore",
            "put the workspace back after an experiment that stopped",
            "flows.restoration",
            needs_workspace=True,
            needs_checkout=True,
        ),
        Subcommand(
            "fetch",
            "download what is missing of a corpus",
            "components.corpus.__main__",
            prefix=("fetch",),
            needs_workspace=True,
        ),
        Subcommand(
            "fetch-models",
            "fetch the files of encoder and LLM that this machine lacks",
            "libretto.checkpoints",
            needs_workspace=True,
        ),
        *(
            Subcommand(
                kind,
                "compare the weights of a package with those of the hub",
                "libretto.verification",
                prefix=(kind,),
                needs_workspace=True,
            )
            for kind in ("encoder", "llm")
        ),
        Subcommand(
            "scan",
            "record which files a corpus consists of",
            "components.corpus.__main__",
            prefix=("scan",),
            needs_workspace=True,
        ),
        Subcommand("clean", "trim the work cache, or remove what is damaged", "components.clean"),
        Subcommand("completion", "print a completion script for a shell", "libretto.completion"),
    )
}


def run_command(arguments: Sequence[str]) -> int:
    """Runs the command that the first argument names; returns its exit code."""
    if not arguments or arguments[0] not in COMMANDS:
        return _refuse(arguments)
    command = COMMANDS[arguments[0]]
    is_help = any(argument in ("-h", "--help") for argument in arguments[1:])
    from components.config.errors import LibrettoError
    from components.runtime.file_systems import translate_os_errors

    try:
        if command.needs_checkout:
            check_checkout(command.name)
        if is_help and len(arguments) == 2:  # without the import of what the command runs
            command.build_parser().print_help()
            return 0
        if command.needs_workspace and not is_help:
            check_workspace(command.name)
        function = import_module(command.module).main
        with translate_os_errors():
            return int(function([*command.prefix, *arguments[1:]], prog=command.prog) or 0)
    except LibrettoError as error:
        print(f"{command.name}: {error}", file=sys.stderr)
        return error.exit_code
    except KeyboardInterrupt:
        print(f"{command.name}: interrupted", file=sys.stderr)
        return INTERRUPTED
    except BrokenPipeError:  # the reader of the output has closed it
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1


def build_parser() -> argparse.ArgumentParser:
    """The parser of ``libretto`` itself: its options, and the names of the commands."""
    width = max(map(len, COMMANDS))
    lines = [f"  {name:{width}}  {command.summary}" for name, command in COMMANDS.items()]
    parser = argparse.ArgumentParser(
        prog="libretto",
        usage="libretto [-h] [--version] COMMAND …",
        description="Speech recognition with a large language model, as a versioned pipeline.",
        epilog="\n".join(
            ["commands:", *lines, "", "'libretto COMMAND --help' describes a command."]
        ),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="store_true", help="print version and commit")
    return parser


def _refuse(arguments: Sequence[str]) -> int:
    """Handles a command line without a known command: help, version, or an error."""
    parser = build_parser()
    if arguments and not arguments[0].startswith("-"):
        from components.config.errors import nearest

        parser.error(f"unknown command '{arguments[0]}'. {nearest(arguments[0], COMMANDS)}")
    options = parser.parse_args(arguments)
    if options.version:
        print(version_line())
        return 0
    parser.print_help(sys.stderr)
    return 2
