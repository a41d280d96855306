"""What rounding changes: ``python -m bench.precision [--device DEVICE] [--set NAME] [--out FILE]``.

Decodes dev and test of a finished run with its trained bridge, the LLM in float32 and in bfloat16,
each utterance alone and in the batches of ``decode.batch_seconds``, and prints for each source how
many texts differ from those of the same precision alone and from float32 alone, and the word error
rates. ``--out`` keeps the rows and all texts as JSON. Limits of the set that ask what was heard are
left off. Run it where the run lies; it imports neither DVC, Prefect nor jiwer. Cost: four passes of
the stage ``decode`` under one set; those of single utterances are the longest.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from components.config.params import ConstraintSet, read_params
from components.decode.decoder import WORKSPACE
from components.decode.shard import DATA
from components.features.frames import FrameSource
from components.model.speech_llm import SpeechLLM
from components.runtime.progress import progress
from components.runtime.settings import device as chosen_device
from components.runtime.tables import format_table
from components.search.beam import search
from components.shards.order import batch_by_length
from components.text.wer import compute_wer

ROLES = ("dev", "test")
DTYPES = ("float32", "bfloat16")
SINGLE = 0.0  # seconds of audio in a batch: each utterance is one
Texts = dict[str, dict[str, tuple[str, str]]]  # by source and id: reference and hypothesis


def decode(role: str, dtype: str, rules: ConstraintSet, batch_seconds: float, device: str) -> Texts:
    """What the LLM in ``dtype`` says of each utterance of a role, in batches of so many seconds or
    alone.
    """
    model = SpeechLLM.load(WORKSPACE.bridge, WORKSPACE.encoder, WORKSPACE.llm, device, dtype)
    source = FrameSource(role, WORKSPACE.encoder, device, DATA, model.encoder)
    batches = batch_by_length(
        source.utterances, [item.duration_s for item in source.utterances], batch_seconds
    )
    found: Texts = {}
    with progress("precision", f"{role}, {dtype}", len(source.utterances), "utterances") as shown:
        for batch in batches if batch_seconds else [[item] for item in source.utterances]:
            texts = search(model, source.frames(batch), [item.duration_s for item in batch], rules)
            for item, said in zip(batch, texts, strict=True):
                found.setdefault(item.source, {})[item.entry.id] = (item.entry.text, said.text)
            shown.advance(len(batch))
    return found


def build_rows(made: dict[tuple[str, float], Texts]) -> list[dict[str, Any]]:
    """A row for each source, precision and way; ``made`` holds what was said by precision and
    seconds of a batch.
    """
    found = [
        {
            "set": source,
            "LLM": dtype,
            "batch": f"{way:g} s" if way else "alone",
            "utterances": len(said),
            "other than alone": _share_of_changes(said, made[dtype, SINGLE][source]),
            "other than float32": _share_of_changes(said, made["float32", SINGLE][source]),
            "wer": compute_wer(
                [pair[0] for pair in said.values()], [pair[1] for pair in said.values()], "casefold"
            ),
        }
        for (dtype, way), sources in made.items()
        for source, said in sources.items()
    ]
    return sorted(found, key=lambda row: row["set"])


def _share_of_changes(said: dict[str, tuple[str, str]], first: dict[str, tuple[str, str]]) -> float:
    """The share of utterances of which something else is said."""
    return sum(said[each] != first[each] for each in first) / len(first)


def _format_row(row: dict[str, Any]) -> dict[str, str]:
    share = {
        name: f"{100 * row[name]:.2f}" for name in ("other than alone", "other than float32", "wer")
    }
    return {
        "set": row["set"],
        "LLM": row["LLM"],
        "batch": row["batch"],
        "utterances": str(row["utterances"]),
        "other than alone %": share["other than alone"],
        "other than float32 alone %": share["other than float32"],
        "WER %": share["wer"],
    }


def main(arguments: Sequence[str] | None = None) -> None:
    """Measures from the command line."""
    parser = argparse.ArgumentParser(
        prog="python -m bench.precision", description="What precision and batch change in texts."
    )
    parser.add_argument(
        "--device",
        default="",
        help="of torch (default: LIBRETTO_DEVICE, else the GPU where there is one)",
    )
    parser.add_argument(
        "--set", default="free", help="the constraint set of params.yaml (default: free)"
    )
    parser.add_argument("--out", type=Path, help="file for rows and texts, as JSON")
    options = parser.parse_args(arguments)
    settings, device = read_params().decode, options.device or chosen_device()
    rules, found, texts = settings.sets[options.set].without_acoustic_limits(), [], {}
    for role in ROLES:
        made = {
            (dtype, way): decode(role, dtype, rules, way, device)
            for dtype in DTYPES
            for way in (SINGLE, settings.batch_seconds)
        }
        found += build_rows(made)
        texts[role] = {f"{dtype}, {way:g} s": said for (dtype, way), said in made.items()}
    if options.out:
        options.out.parent.mkdir(parents=True, exist_ok=True)
        options.out.write_text(
            json.dumps(
                {"device": device, "rows": found, "texts": texts}, indent=1, ensure_ascii=False
            )
            + "\n"
        )
    print(format_table([_format_row(row) for row in found]))


if __name__ == "__main__":
    main()
