"""A folder or bucket of recordings to text, as a flow: ``python -m flows.transcribe_batch IN OUT
[--model DIR] [--set NAME] [--again]``.

The work is done by components/transcribe/batch.py: parts of parquet, each recording in exactly one.
The flow starts it, logs its output, shows its progress with the time left, and tries again after an
error that may pass; it continues where it stopped, for whatever reason.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from prefect import flow, task
from prefect.artifacts import create_table_artifact

from components.config.errors import BY_CODE, LibrettoError
from components.transcribe.batch import SHARD_SIZE
from components.transcribe.transcript import FAILED
from flows.old_names import refuse_old_names
from flows.pipeline import RETRIES, run_command
from flows.run_names import dated_name


@task(**RETRIES)
def transcribe(arguments: Sequence[str]) -> tuple[int, str]:
    """Exit code (0, or 1 if some recordings gave no text) and last line of the command; raises the
    error that it ended with.
    """
    command = [sys.executable, "-m", "components.transcribe", "batch", *arguments]
    code, last_line = run_command(command, "transcribe")
    if code not in (0, FAILED):
        message = last_line.removeprefix("transcribe: ")
        raise BY_CODE.get(code, LibrettoError)(message, subject="transcribe")
    return code, last_line


@refuse_old_names({"within": "source"})
@flow(
    name="transcribe-batch",
    flow_run_name=dated_name("transcribe-batch"),
    persist_result=False,
)
def transcribe_batch(
    source: str,
    out: str,
    model: str = "",
    constraints: str = "",
    shard: int = SHARD_SIZE,
    again: bool = False,
) -> int:
    """Transcribes the recordings of ``source`` that ``out`` does not have yet, both a folder or
    ``s3://bucket/prefix``; returns 0, or 1 if some gave no text. ``model`` is an exported folder
    (empty: the workspace's), ``constraints`` a set of it.
    """
    settings: dict[str, Any] = {"--model": model, "--set": constraints, "--shard": str(shard)}
    options = [part for name, value in settings.items() if value for part in (name, value)]
    code, last_line = transcribe([source, out, *options, *(["--again"] if again else [])])
    create_table_artifact(
        [{"out": out, "result": last_line}],
        key="transcribed",
        description="Recordings, and those without a transcript",
    )
    return code


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the flow from the command line; returns the exit code."""
    parser = argparse.ArgumentParser(
        prog="python -m flows.transcribe_batch",
        description="Recordings of a folder or bucket to parquet.",
    )
    parser.add_argument("source", metavar="IN", help="a folder, or s3://bucket/prefix")
    parser.add_argument("out", metavar="OUT", help="a folder, or s3://bucket/prefix")
    parser.add_argument(
        "--model",
        type=Path,
        metavar="DIR",
        help="an exported folder (default: ., the model of this workspace)",
    )
    parser.add_argument(
        "--set",
        default="",
        metavar="NAME",
        help="a constraint set of the model, or ctc (default: constrained)",
    )
    parser.add_argument(
        "--shard",
        type=int,
        default=SHARD_SIZE,
        metavar="N",
        help=f"recordings in a part (default {SHARD_SIZE})",
    )
    parser.add_argument(
        "--again", action="store_true", help="repeat the shards of recordings that changed"
    )
    options = parser.parse_args(arguments)
    try:
        return transcribe_batch(
            options.source,
            options.out,
            str(options.model or ""),
            options.set,
            options.shard,
            options.again,
        )
    except LibrettoError as error:
        print(f"transcribe_batch: {error}", file=sys.stderr)
        return error.exit_code


if __name__ == "__main__":
    sys.exit(main())
