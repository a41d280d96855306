"""What rounding changes: ``python -m bench.precision [--device DEVICE] [--set NAME] [--out FILE]``.

Decodes dev and test of a finished run with its trained bridge, the LLM in float32 and in bfloat16,
each utterance alone and in the batches of ``decode.batch_seconds``. For each source it prints how
many texts differ from those of the same precision alone and from float32 alone, and the word error
rates. ``--out`` writes the rows and all texts as JSON. The limits of the set that need acoustic
evidence are switched off. Run it where the run is; it imports neither DVC, Prefect nor jiwer. Cost:
four passes of the stage ``decode`` under one set; those of single utterances are the longest.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from components.config.params import ConstraintSet, read_params
from components.decode.decoder import WORKSPACE
from components.decode.shard import DATA
from components.features.frames import FrameSource
from components.model.speech_llm import SpeechLLM
from components.runtime.progress import progress
from components.runtime.settings import device as default_device
from components.runtime.tables import format_table
from components.search.beam import search
from components.shards.order import batch_by_length
from components.text.wer import compute_wer

ROLES = ("dev", "test")
DTYPES = ("float32", "bfloat16")
SINGLE = 0.0  # seconds of audio in a batch: each utterance is one
SourceTexts = Mapping[str, tuple[str, str]]  # reference and hypothesis by id
Texts = dict[str, dict[str, tuple[str, str]]]  # the same by source
SHARES = ("other than alone", "other than float32", "wer")


def decode(role: str, dtype: str, rules: ConstraintSet, batch_seconds: float, device: str) -> Texts:
    """Texts of the utterances of a role by an LLM in ``dtype``, in batches of so many seconds, or
    SINGLE.
    """
    model = SpeechLLM.load(WORKSPACE.bridge, WORKSPACE.encoder, WORKSPACE.llm, device, dtype)
    source = FrameSource(role, WORKSPACE.encoder, device, DATA, model.encoder)
    utterances = source.utterances
    durations_s = [utterance.duration_s for utterance in utterances]
    batches: Sequence[Sequence[Any]] = [[utterance] for utterance in utterances]
    if batch_seconds:
        batches = batch_by_length(utterances, durations_s, batch_seconds)
    texts: Texts = {}
    with progress("precision", f"{role}, {dtype}", len(utterances), "utterances") as bar:
        for batch in batches:
            seconds = [utterance.duration_s for utterance in batch]
            hypotheses = search(model, source.frames(batch), seconds, rules)
            for utterance, hypothesis in zip(batch, hypotheses, strict=True):
                pair = (utterance.entry.text, hypothesis.text)
                texts.setdefault(utterance.source, {})[utterance.entry.id] = pair
            bar.advance(len(batch))
    return texts


def build_rows(passes: Mapping[tuple[str, float], Texts]) -> list[dict[str, Any]]:
    """A row for each source, precision and batch size; ``passes`` are the texts by precision and
    seconds of a batch.
    """
    rows = []
    for (dtype, batch_seconds), sources in passes.items():
        for source, texts in sources.items():
            references, hypotheses = zip(*texts.values(), strict=True)
            rows.append(
                {
                    "set": source,
                    "LLM": dtype,
                    "batch": f"{batch_seconds:g} s" if batch_seconds else "alone",
                    "utterances": len(texts),
                    "other than alone": _share_of_changes(texts, passes[dtype, SINGLE][source]),
                    "other than float32": _share_of_changes(
                        texts, passes["float32", SINGLE][source]
                    ),
                    "wer": compute_wer(references, hypotheses, "casefold"),
                }
            )
    return sorted(rows, key=lambda row: str(row["set"]))


def _share_of_changes(texts: SourceTexts, first: SourceTexts) -> float:
    """The share of utterances that have another text."""
    return sum(texts[name] != first[name] for name in first) / len(first)


def _format_row(row: dict[str, Any]) -> dict[str, str]:
    percent = {name: f"{100 * row[name]:.2f}" for name in SHARES}
    return {
        "set": row["set"],
        "LLM": row["LLM"],
        "batch": row["batch"],
        "utterances": str(row["utterances"]),
        "other than alone %": percent["other than alone"],
        "other than float32 alone %": percent["other than float32"],
        "WER %": percent["wer"],
    }


def main(arguments: Sequence[str] | None = None) -> None:
    """Measures from the command line."""
    parser = argparse.ArgumentParser(
        prog="python -m bench.precision", description="What precision and batch change in texts."
    )
    parser.add_argument(
        "--device",
        default="",
        help="of torch (default: LIBRETTO_DEVICE, else the GPU if there is one)",
    )
    parser.add_argument(
        "--set", default="free", help="the constraint set of params.yaml (default: free)"
    )
    parser.add_argument("--out", type=Path, help="file for rows and texts, as JSON")
    options = parser.parse_args(arguments)
    settings, device = read_params().decode, options.device or default_device()
    rules = settings.sets[options.set].without_acoustic_limits()
    rows, texts = [], {}
    for role in ROLES:
        passes = {
            (dtype, batch_seconds): decode(role, dtype, rules, batch_seconds, device)
            for dtype in DTYPES
            for batch_seconds in (SINGLE, settings.batch_seconds)
        }
        rows += build_rows(passes)
        texts[role] = {f"{dtype}, {size:g} s": sources for (dtype, size), sources in passes.items()}
    if options.out:
        options.out.parent.mkdir(parents=True, exist_ok=True)
        results = {"device": device, "rows": rows, "texts": texts}
        options.out.write_text(json.dumps(results, indent=1, ensure_ascii=False) + "\n")
    print(format_table([_format_row(row) for row in rows]))


if __name__ == "__main__":
    main()
