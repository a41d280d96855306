"""``python -m components.transcribe FILE|FOLDER|- … [--model DIR] [--format txt|json|srt|vtt|tsv]
[--out DIR]``: recordings to text.

Text goes to standard output (or to a file each below ``--out``), progress and what failed to
standard error, a line a file. The exit code is 0 where all went well, 1 where some files gave no
text, 2 for a wrong parameter or model, 75 where a base checkpoint could not be fetched. ``python -m
components.transcribe export DIR [--with-bases]`` writes the workspace's model into a folder of its
own; ``python -m components.transcribe batch IN OUT`` fills a table from a folder or bucket
(components/transcribe/batch.py).
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, TextIO

from components.audio.segments import MAX_SECONDS
from components.config.errors import InputError, LibrettoError
from components.runtime.progress import progress
from components.runtime.s3 import write_atomically
from components.transcribe.formats import FORMATS, HEADS, ONE_A_FILE
from components.transcribe.sources import Source, arrived, outputs, sources
from components.transcribe.transcript import FAILED, Failure, Transcript

if TYPE_CHECKING:
    from components.transcribe.transcriber import Recording, Transcriber


def main(arguments: Sequence[str] | None = None) -> int:
    """Transcribes, or exports, as the command line says; returns the exit code."""
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    try:
        if arguments[:1] == ["export"]:
            return _export(arguments[1:])
        if arguments[:1] == ["batch"]:
            from components.transcribe import batch

            return batch.main(arguments[1:])
        return _transcribe(_options(arguments), sys.stdout)
    except LibrettoError as error:
        print(f"transcribe: {error}", file=sys.stderr)
        return error.exit_code
    except BrokenPipeError:  # whoever read the text has enough of it
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return FAILED


def _options(arguments: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m components.transcribe",
        description="Recordings to text.",
        epilog="'python -m components.transcribe export DIR' writes the workspace's model.",
    )
    parser.add_argument(
        "inputs",
        nargs="+",
        metavar="FILE|FOLDER|-",
        help="anything that libsndfile reads; - is standard input",
    )
    parser.add_argument(
        "--model",
        type=Path,
        metavar="DIR",
        help="an exported folder (default: the model of this workspace)",
    )
    parser.add_argument("--format", choices=FORMATS, default="txt")
    parser.add_argument(
        "--set",
        default="",
        metavar="NAME",
        help="a constraint set of the model, or ctc (default: constrained)",
    )
    parser.add_argument(
        "--out",
        type=Path,
        metavar="DIR",
        help="a file for each recording in this folder, not standard output",
    )
    parser.add_argument(
        "--segment-seconds",
        type=float,
        default=MAX_SECONDS,
        metavar="S",
        help=f"longest segment (default {MAX_SECONDS:g})",
    )
    parser.add_argument(
        "--batch-seconds",
        type=float,
        default=0,
        metavar="S",
        help="of audio in a batch (default: as the model says)",
    )
    return parser.parse_args(arguments)


def _transcribe(options: argparse.Namespace, stream: TextIO) -> int:
    found = sources(options.inputs)
    if options.format in ONE_A_FILE and len(found) > 1 and options.out is None:
        raise InputError(
            f"{len(found)} recordings as {options.format} can't stand one behind the other.",
            subject="format",
            hint="Give --out DIR, or another format.",
        )
    places = outputs(found, options.out, options.format) if options.out else {}
    for name, value in (
        ("OMP_WAIT_POLICY", "PASSIVE"),
        ("HF_HUB_DISABLE_PROGRESS_BARS", "1"),
        ("TOKENIZERS_PARALLELISM", "false"),
    ):
        os.environ.setdefault(name, value)
    from transformers.utils import logging

    from components.transcribe.transcriber import Transcriber

    logging.disable_progress_bar()  # ours shows rate and time left
    model = Transcriber.load(
        options.model, "", options.set, options.segment_seconds, options.batch_seconds
    )
    write = _writer(options, found, places, stream)
    failed = 0
    with arrived(found) as here:
        for result in _results(model, here):
            if isinstance(result, Failure):
                failed += 1
                print(f"{result.name}: {result.reason}", file=sys.stderr, flush=True)
            else:
                write(result)
    return FAILED if failed else 0


def _results(model: Transcriber, found: Sequence[Source]) -> Iterator[Transcript | Failure]:
    lengths = {each.name: each.seconds() for each in found}
    with progress(
        "transcribe", f"{len(found)} recordings", sum(lengths.values()), "s of audio"
    ) as shown:
        for result in model.stream(map(_recording, found), shown.advance):
            shown.advance(
                lengths[result.name] if isinstance(result, Failure) else result.silent, result.name
            )
            yield result


def _recording(source: Source) -> Recording:
    from components.transcribe.transcriber import Recording, recording_of

    assert source.path is not None, "standard input has arrived"
    return Recording(source.name, recording_of(source.path).blocks)


def _writer(
    options: argparse.Namespace, found: Sequence[Source], places: dict[str, Path], stream: TextIO
) -> Callable[[Transcript], None]:
    """What takes a transcript to where it belongs."""
    form, head = FORMATS[options.format], HEADS.get(options.format, "")

    def to_file(transcript: Transcript) -> None:
        write_atomically(places[transcript.name], (head + form(transcript)).encode())

    def to_stream(transcript: Transcript) -> None:
        name = f"{transcript.name}\t" if options.format == "txt" and len(found) > 1 else ""
        stream.write(name + form(transcript))
        stream.flush()

    if places:
        return to_file
    stream.write(head)
    return to_stream


def _export(arguments: Sequence[str]) -> int:
    from components.transcribe.export import export

    parser = argparse.ArgumentParser(
        prog="python -m components.transcribe export",
        description="Writes the model into a folder of its own.",
    )
    parser.add_argument(
        "folder", type=Path, metavar="DIR", help="a new folder, or one that was exported before"
    )
    parser.add_argument(
        "--with-bases",
        action="store_true",
        help="encoder and LLM too, where they were not trained here",
    )
    options = parser.parse_args(arguments)
    for line in export(options.folder, options.with_bases):
        print(line, file=sys.stderr)
    return 0


if __name__ == "__main__":
    sys.exit(main())
