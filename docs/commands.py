"""Writes ``docs/reference/commands.md`` from the parsers of the commands: ``python
docs/commands.py``.

In: the modules of the commands. Out: Markdown, the same for the same parsers. Cost: the import of
every command, about 10 s.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import runpy
import sys
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any
from unittest.mock import patch

ROOT = Path(__file__).resolve().parents[1]
PAGE = ROOT / "docs/reference/commands.md"
HEAD = """# Commands

<!-- written by 'make reference'; edit the parsers, not this page -->

`libretto COMMAND` and `python -m MODULE` start the same code. `libretto` is installed with the
package; the modules `flows` and `bench` exist in a checkout only. Exit codes: 0, 1 for a partial
failure, 2 for a wrong parameter or input, 75 for what may pass (network, lost worker, GPU in use).
"""
STAGES = (
    *("corpus", "splits", "shards", "encoder", "llm", "features", "ctc", "units"),
    *("train", "decode", "score", "report"),
)
MODULES: tuple[tuple[str, str, tuple[str, ...]], ...] = (
    ("python -m components.transcribe batch", "components.transcribe", ("batch",)),
    ("python -m components.report compare", "components.report", ("compare",)),
    ("python -m components.encoder pin", "components.encoder", ("pin",)),
    ("python -m components.llm pin", "components.llm", ("pin",)),
    *((f"python -m components.{stage}", f"components.{stage}", ()) for stage in STAGES),
    *(
        (f"python -m flows.{name}", f"flows.{name}", ())
        for name in ("pipeline", "compare", "retrain", "transcribe_batch", "serve")
    ),
    *(
        (f"python -m bench.{name}", f"bench.{name}", ())
        for name in ("gpu", "precision", "scoring", "joints", "flow")
    ),
)


class ParseStop(BaseException):
    """Leaves a command at the moment at which it parses its command line."""

    def __init__(self, parser: argparse.ArgumentParser, options: argparse.Namespace | None) -> None:
        super().__init__()
        self.parser, self.options = parser, options


@contextlib.contextmanager
def parsing_only(parse: bool) -> Iterator[None]:
    """Within this block, ``parse_args`` raises ParseStop; it parses first if ``parse`` is set."""
    original = argparse.ArgumentParser.parse_args

    def parse_args(parser: Any, arguments: Any = None, namespace: Any = None) -> Any:
        raise ParseStop(parser, original(parser, arguments, namespace) if parse else None)

    with patch.object(argparse.ArgumentParser, "parse_args", parse_args):
        yield


def find_parser(module: str, arguments: Sequence[str], *, parse: bool = False) -> Any:
    """The parser that ``python -m module arguments`` uses, None if it uses none.

    With ``parse`` the arguments are parsed too: SystemExit is raised where they are wrong.
    """
    with (
        parsing_only(parse),
        patch.object(sys, "argv", [module, *arguments]),
        warnings.catch_warnings(),
    ):
        warnings.simplefilter("ignore", RuntimeWarning)  # a module that was imported before
        try:
            runpy.run_module(module, run_name="__main__", alter_sys=True)
        except ParseStop as stop:
            return stop.parser
    return None


def command_parsers() -> list[tuple[str, str, argparse.ArgumentParser]]:
    """Command line, summary and parser of each command, in the order of the page."""
    from libretto.commands import COMMANDS

    entries = [
        (command.prog, command.summary, command.build_parser()) for command in COMMANDS.values()
    ]
    for line, module, arguments in MODULES:
        parser = find_parser(module, arguments)
        stage = module.rpartition(".")[2]
        summary = parser.description or (f"Runs the stage {stage}" if stage in STAGES else "")
        entries.append((line, summary, parser))
    return entries


def page() -> str:
    """The Markdown of the page."""
    parts = [HEAD]
    for line, summary, parser in command_parsers():
        positionals = [action for action in parser._actions if not action.option_strings]
        usage = " ".join([line, *map(_positional, positionals)])
        sentence = _plain(summary)
        sentence = sentence[:1].upper() + sentence[1:]
        parts.append(f"## {line}\n\n`{usage}`\n\n{sentence.rstrip('.')}.\n")
        rows = [_row(action) for action in parser._actions if action.dest != "help"]
        if rows:
            parts.append("| argument | meaning |\n| --- | --- |\n" + "\n".join(rows) + "\n")
    return "\n".join(filter(None, parts))


def _positional(action: argparse.Action) -> str:
    name = str(action.metavar or action.dest.upper())
    several = f"{name} …" if action.nargs in ("*", "+") else name
    return f"[{several}]" if action.nargs in ("*", "?") else several


def _row(action: argparse.Action) -> str:
    value = "" if action.nargs == 0 else str(action.metavar or "")
    if action.choices and not action.metavar:
        value = "{" + ",".join(map(str, action.choices)) + "}"
    elif not value and action.nargs != 0 and action.option_strings:
        value = action.dest.upper()
    names = ", ".join(action.option_strings) or _positional(action)
    label = f"{names} {value}".strip() if action.option_strings else names
    text = _plain((action.help or "") % {"default": action.default})
    label, text = label.replace("|", "\\|"), text.replace("|", "\\|")
    return f"| `{label}` | {text} |"


def _plain(text: str) -> str:
    return " ".join(text.split())


def main() -> None:
    """Writes the page."""
    sys.path.insert(0, str(ROOT))
    with contextlib.redirect_stdout(io.StringIO()):
        text = page()
    PAGE.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
