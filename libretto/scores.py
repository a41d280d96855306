"""``libretto score``: the scores of the last run, or the error rates of two files of texts.

In: ``metrics/score.json`` of the workspace, or two files with one line for each utterance (id, tab,
text). Out: a table, or one line for each figure.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from components.score.error_rates import ErrorRates

TEXT_FORMS = ("casefold", "as-is", "whisper")


def build_parser(prog: str = "libretto score") -> argparse.ArgumentParser:
    """The parser of ``libretto score``."""
    parser = argparse.ArgumentParser(
        prog=prog,
        description="Prints the scores of the last run of this workspace, or those of two files.",
    )
    parser.add_argument(
        "files",
        nargs="*",
        type=Path,
        metavar="FILE",
        help="references, then hypotheses: a line is id, tab, text (default: the last run)",
    )
    parser.add_argument(
        "--text-form",
        choices=TEXT_FORMS,
        default=TEXT_FORMS[0],
        help="applied to both files (default: casefold)",
    )
    parser.add_argument(
        "--language",
        default="en",
        metavar="TAG",
        help="of the texts, for the text form whisper (default: en)",
    )
    return parser


def main(arguments: Sequence[str] | None = None, prog: str = "libretto score") -> int:
    """Prints the scores; returns the exit code. Raises InputError if there is nothing to score."""
    parser = build_parser(prog)
    options = parser.parse_args(arguments)
    if not options.files:
        print_last_run()
        return 0
    if len(options.files) != 2:
        parser.error("give two files, references and hypotheses, or none")
    from components.score.error_rates import score
    from components.score.systems import read_texts

    check_files(options.files)
    references, hypotheses = map(read_texts, options.files)
    rates = score(references, hypotheses, text_form=options.text_form, language=options.language)
    print("\n".join(rate_lines(rates)))
    return 0


def check_files(paths: Sequence[Path]) -> None:
    """Raises InputError if a file is missing."""
    from components.config.errors import InputError

    for path in paths:
        if not path.is_file():
            raise InputError(f"{path} is no file.", subject=str(path), hint="Check its path.")


def print_last_run() -> None:
    """Prints the tables of the workspace's last run."""
    from libretto.workspace import check_workspace

    check_workspace("score")
    from components.score.table import print_tables

    print_tables()


def rate_lines(rates: ErrorRates) -> Iterator[str]:
    """The figures as text, a line each; rates are in percent."""
    interval = rates.interval
    limits = (
        f" (95 % interval {100 * interval.low:.2f}–{100 * interval.high:.2f})" if interval else ""
    )
    yield f"WER {100 * rates.wer:.2f} %{limits}, text form {rates.text_form}"
    yield (
        f"{rates.substitutions} substitutions, {rates.deletions} deletions, "
        f"{rates.insertions} insertions in {rates.words} words"
    )
    yield f"CER {100 * rates.cer:.2f} %, {rates.character_errors} of {rates.characters} characters"
