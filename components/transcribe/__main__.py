"""``python -m components.transcribe FILE|FOLDER|- … [--model DIR] [--format txt|json|srt|vtt|tsv]
[--out DIR]``: recordings to text.

Text goes to standard output, or to one file for each recording below ``--out``; progress and
failures go to standard error, one line for each failed file, and for each recording of a folder
that is left out. The exit code is 0 if all gave text, 1 if some gave none or were left out, 2 for a
wrong parameter or model, 75 if a base checkpoint could not be fetched.
``python -m components.transcribe export DIR [--with-bases]`` writes the workspace's model into a
folder of its own; ``python -m components.transcribe batch IN OUT`` fills a table from a folder or
bucket (components/transcribe/batch.py).
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, TextIO

from components.audio.segments import MAX_SECONDS
from components.config.errors import InputError, LibrettoError
from components.runtime.file_systems import translate_os_errors
from components.runtime.progress import progress
from components.runtime.s3 import write_atomically
from components.transcribe.formats import FORMATS, HEADS, ONE_PER_FILE, escape_for
from components.transcribe.inputs import AudioInput, list_inputs, output_paths, with_stdin_in_file
from components.transcribe.notices import describe_missing_text, describe_voices
from components.transcribe.published import PUBLISHED, exported_folder, published_model
from components.transcribe.transcript import FAILED, Failure, Transcript

if TYPE_CHECKING:  # a wrong parameter is refused before torch is loaded
    from components.transcribe.recording import Recording
    from components.transcribe.transcriber import Transcriber

SET_HELP = "a constraint set of the model, or ctc (default: constrained)"
MODEL_HELP = "an exported folder; . is the model of this workspace (default: {default})"


def main(arguments: Sequence[str] | None = None, prog: str = "") -> int:
    """Transcribes or exports, as the command line says; returns the exit code."""
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    action = arguments[0] if arguments[:1] in (["export"], ["batch"]) else ""
    parser = build_parser(action, prog=prog)
    options = parser.parse_args(arguments[1:] if action else arguments)
    try:
        if action == "batch" and options.shard < 1:
            parser.error("--shard is at least 1")
        with translate_os_errors():
            if action == "export":
                return _export(options)
            if action == "batch":
                return _batch(options)
            return _transcribe(options, sys.stdout)
    except LibrettoError as error:
        print(f"transcribe: {error}", file=sys.stderr)
        return error.exit_code
    except BrokenPipeError:  # the reader of standard output has closed it
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return FAILED


def build_parser(action: str = "", *, prog: str = "") -> argparse.ArgumentParser:
    """The parser of this command: without an action, or of the action ``export`` or ``batch``."""
    parser = argparse.ArgumentParser(
        prog=prog or f"python -m components.transcribe {action}".strip(),
        description=DESCRIPTIONS[action],
    )
    ADD_ARGUMENTS[action](parser)
    return parser


def _add_transcribe_arguments(parser: argparse.ArgumentParser) -> None:
    parser.epilog = (
        "'export DIR' in place of files writes the workspace's model, 'batch IN OUT' fills a table."
    )
    parser.add_argument(
        "inputs",
        nargs="+",
        metavar="FILE|FOLDER|-",
        help="any file that libsndfile reads; - is standard input",
    )
    default = f"{PUBLISHED}, if it is there, else ."
    parser.add_argument(
        "--model", type=Path, metavar="DIR", help=MODEL_HELP.format(default=default)
    )
    parser.add_argument("--format", choices=FORMATS, default="txt")
    parser.add_argument("--set", default="", metavar="NAME", help=SET_HELP)
    parser.add_argument(
        "--out",
        type=Path,
        metavar="DIR",
        help="one file for each recording in this folder, not standard output",
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


def _transcribe(options: argparse.Namespace, stream: TextIO) -> int:
    listing = list_inputs(options.inputs)
    inputs = listing.inputs
    _print_left_out(listing.left_out)
    if not inputs:
        return FAILED
    if options.format in ONE_PER_FILE and len(inputs) > 1 and options.out is None:
        raise InputError(
            f"{len(inputs)} recordings as {options.format} need a file each.",
            subject="format",
            hint="Give --out DIR, or another format.",
        )
    paths = output_paths(inputs, options.out, options.format) if options.out else {}
    for name, value in (
        ("OMP_WAIT_POLICY", "PASSIVE"),
        ("HF_HUB_DISABLE_PROGRESS_BARS", "1"),
        ("TOKENIZERS_PARALLELISM", "false"),
    ):
        os.environ.setdefault(name, value)
    model = exported_folder(options.model) if options.model else published_model()
    _print_notice(f"loading the model of {model or 'this workspace'}")
    from transformers.utils import logging

    from components.transcribe.transcriber import Transcriber

    logging.disable_progress_bar()  # ours shows rate and time left
    transcriber = Transcriber.load(
        model, "", options.set, options.segment_seconds, options.batch_seconds
    )
    if notice := describe_voices(transcriber.generated_speech):
        _print_notice(notice)
    write = _writer(options, len(inputs), paths, stream)
    num_failed = 0
    with with_stdin_in_file(inputs) as files:
        for result in _results(transcriber, files):
            if isinstance(result, Failure):
                num_failed += 1
                print(f"{result.name}: {result.reason}", file=sys.stderr, flush=True)
                continue
            if notice := write(result):
                num_failed += 1
                print(f"{result.name}: {notice}", file=sys.stderr, flush=True)
            if notice := describe_missing_text(result):
                _print_notice(f"{result.name}: {notice}")
    return FAILED if num_failed or listing.left_out else 0


def _print_left_out(left_out: Mapping[str, str]) -> None:
    for name, reason in left_out.items():
        print(f"{name}: left out: {reason}", file=sys.stderr, flush=True)


def _print_notice(sentence: str) -> None:
    """A line on standard error: standard output has texts alone."""
    print(f"transcribe: {sentence}", file=sys.stderr, flush=True)


def _results(
    transcriber: Transcriber, inputs: Sequence[AudioInput]
) -> Iterator[Transcript | Failure]:
    lengths = _lengths(inputs)
    task = f"{len(inputs)} recordings"
    with progress("transcribe", task, sum(lengths.values()), "s of audio") as bar:
        for result in transcriber.stream(map(_recording, inputs), bar.advance):
            skipped_s = lengths[result.name] if isinstance(result, Failure) else result.silent
            bar.advance(skipped_s, result.name)
            yield result


def _lengths(inputs: Sequence[AudioInput]) -> dict[str, float]:
    """Seconds of each input by its name, for the progress."""
    return {audio_input.name: audio_input.seconds() for audio_input in inputs}


def _recording(audio_input: AudioInput) -> Recording:
    from components.transcribe.recording import Recording, open_recording

    assert audio_input.path is not None, "standard input is in a file"
    return Recording(audio_input.name, open_recording(audio_input.path).blocks)


def _writer(
    options: argparse.Namespace, num_inputs: int, paths: dict[str, Path], stream: TextIO
) -> Callable[[Transcript], str]:
    """What writes a transcript to its file in ``paths``, or to ``stream`` if there are none, and
    returns why it could not, or an empty string.
    """
    to_text, head = FORMATS[options.format], HEADS.get(options.format, "")

    def to_file(transcript: Transcript) -> str:
        path = paths[transcript.name]
        try:
            write_atomically(path, (head + to_text(transcript)).encode())
        except OSError as error:
            return f"{path} can't be written: {error.strerror}"
        return ""

    def to_stream(transcript: Transcript) -> str:
        name = f"{transcript.name}\t" if options.format == "txt" and num_inputs > 1 else ""
        text = name + to_text(transcript)
        escaped = escape_for(stream, text)
        stream.write(escaped)
        stream.flush()
        if escaped == text:
            return ""
        return (
            f"{stream.encoding} lacks letters of it, which are escaped; set PYTHONIOENCODING=utf-8"
        )

    if paths:
        return to_file
    stream.write(head)
    return to_stream


def _add_export_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "folder", type=Path, metavar="DIR", help="a new folder, or one of an earlier export"
    )
    parser.add_argument(
        "--with-bases",
        action="store_true",
        help="encoder and LLM too, if they were not trained by a stage",
    )


def _export(options: argparse.Namespace) -> int:
    from components.transcribe.export import export

    for line in export(options.folder, options.with_bases):
        print(line, file=sys.stderr)
    return 0


def _add_batch_arguments(parser: argparse.ArgumentParser) -> None:
    from components.transcribe.batch import SHARD_SIZE

    parser.add_argument("source", metavar="IN", help="a folder, or s3://bucket/prefix")
    parser.add_argument(
        "target",
        metavar="OUT",
        help="a folder, or s3://bucket/prefix; a batch that was started there continues",
    )
    parser.add_argument("--model", default="", metavar="DIR", help=MODEL_HELP.format(default="."))
    parser.add_argument("--set", default="", metavar="NAME", help=SET_HELP)
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


def _batch(options: argparse.Namespace) -> int:
    from components.transcribe.batch import run

    summary = run(
        options.source, options.target, options.model, options.set, options.shard, options.again
    )
    _print_left_out(summary.left_out)
    num_texts = summary.num_recordings - summary.num_failed
    print(
        f"{options.target}: {summary.num_recordings} recordings, {num_texts} with a transcript, "
        f"{summary.num_failed} without (the column 'failure' has the reason), "
        f"{len(summary.left_out)} left out"
    )
    return FAILED if summary.num_failed or summary.left_out else 0


DESCRIPTIONS = {
    "": "Recordings to text.",
    "export": "Writes the model into a folder of its own.",
    "batch": "A folder or bucket of recordings to parquet.",
}
ADD_ARGUMENTS = {
    "": _add_transcribe_arguments,
    "export": _add_export_arguments,
    "batch": _add_batch_arguments,
}


if __name__ == "__main__":
    sys.exit(main())
