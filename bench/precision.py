"""What rounding changes: ``python -m bench.precision [--encoder] [--device DEVICE] [--set NAME]
[--out FILE]``.

Decodes dev and test of a finished run with its trained bridge, the LLM in float32 and in bfloat16,
each utterance alone and in the batches of ``decode.batch_seconds``. With ``--encoder`` the LLM is
in float32, and the frames are computed anew in each arithmetic of ``numerics.gpu_arithmetic``. For
each source it prints how many texts differ from those of the same precision alone and from float32
alone, and the word error rates. ``--out`` writes the rows and all texts as JSON. The limits of the
set that need acoustic evidence are switched off. Run it where the run is; it imports neither DVC,
Prefect nor jiwer. Cost: four passes of the stage ``decode`` under one set (six with ``--encoder``);
those of single utterances are the longest.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, get_args

import torch

from components.config import catalogue
from components.config.decoding import ConstraintSet
from components.config.entries import Arithmetic
from components.config.params import read_params
from components.decode.decoder import WORKSPACE
from components.decode.shard import DATA
from components.features.encoding import encode, to_stored_dtype
from components.features.frames import FrameSource
from components.model.encoders.arithmetic import use_arithmetic
from components.model.encoders.encoder import SpeechEncoder
from components.model.folders.linked_checkpoint import open_checkpoint
from components.model.speech_llm import SpeechLLM
from components.runtime.progress import progress
from components.runtime.settings import device as default_device
from components.runtime.tables import format_table
from components.search.beam import search
from components.shards.order import batch_by_length
from components.shards.reader import IndexedUtterance, list_utterances, read_audio
from components.text.wer import compute_wer

ROLES = ("dev", "test")
DTYPES = ("float32", "bfloat16")
ARITHMETICS = get_args(Arithmetic)  # of the encoder
SINGLE = 0.0  # seconds of audio in a batch: each utterance is one
SourceTexts = Mapping[str, tuple[str, str]]  # reference and hypothesis by id
Texts = dict[str, dict[str, tuple[str, str]]]  # the same by source
SHARES = ("other than alone", "other than float32", "wer")


class ComputedFrames:
    """Frames of the recordings of a role, computed anew in an arithmetic."""

    def __init__(self, role: str, arithmetic: str, device: str) -> None:
        params = read_params()
        self._numerics = params.features.numerics(catalogue.encoder(params.encoder))
        self._arithmetic, self._device = arithmetic, torch.device(device)
        self._encoder = SpeechEncoder(
            open_checkpoint(WORKSPACE.encoder),
            device,
            self._numerics.dtype,
            params.features.layer,
            self._numerics.padding,
            arithmetic,
        )
        self.utterances = list_utterances(DATA / "shards" / role)

    def frame_duration_s(self, utterance: IndexedUtterance) -> float:
        """Seconds that the frames of an utterance last."""
        return self._encoder.count_frames(utterance.num_samples) / self._encoder.frame_rate

    def frames(self, batch: Sequence[IndexedUtterance]) -> list[torch.Tensor]:
        """Frames of each utterance, (frames, width), as they would be stored."""
        with use_arithmetic(self._arithmetic, self._device):
            computed = encode(
                self._encoder, [read_audio(item) for item in batch], self._numerics.batching
            )
        return [to_stored_dtype(frames, self._numerics).float() for frames in computed]


def decode_by_llm(
    role: str, precision: str, rules: ConstraintSet, batch_seconds: float, device: str
) -> Texts:
    """Texts of the utterances of a role by an LLM in ``precision``, in batches of so many seconds,
    or SINGLE.
    """
    model = SpeechLLM.load(WORKSPACE.bridge, WORKSPACE.encoder, WORKSPACE.llm, device, precision)
    encoder = open_checkpoint(WORKSPACE.encoder)
    source = FrameSource(role, encoder, device, DATA, model.encoder)
    return _decode(model, source, f"{role}, {precision}", rules, batch_seconds)


def decode_by_encoder(
    role: str, precision: str, rules: ConstraintSet, batch_seconds: float, device: str
) -> Texts:
    """The same of frames that are computed in ``precision``, by an LLM in float32."""
    model = SpeechLLM.load(WORKSPACE.bridge, WORKSPACE.encoder, WORKSPACE.llm, device, "float32")
    source = ComputedFrames(role, precision, device)
    return _decode(model, source, f"{role}, {precision}", rules, batch_seconds)


def _decode(
    model: SpeechLLM,
    source: FrameSource | ComputedFrames,
    task: str,
    rules: ConstraintSet,
    batch_seconds: float,
) -> Texts:
    utterances = source.utterances
    durations_s = [source.frame_duration_s(utterance) for utterance in utterances]
    batches: Sequence[Sequence[Any]] = [[utterance] for utterance in utterances]
    if batch_seconds:
        batches = batch_by_length(utterances, durations_s, batch_seconds)
    texts: Texts = {}
    with progress("precision", task, len(utterances), "utterances") as bar:
        for batch in batches:
            seconds = [utterance.duration_s for utterance in batch]
            hypotheses = search(model, source.frames(batch), seconds, rules)
            for utterance, hypothesis in zip(batch, hypotheses, strict=True):
                pair = (utterance.entry.text, hypothesis.text)
                texts.setdefault(utterance.source, {})[utterance.entry.id] = pair
            bar.advance(len(batch))
    return texts


def build_rows(
    passes: Mapping[tuple[str, float], Texts], part: str = "LLM"
) -> list[dict[str, Any]]:
    """A row for each source, precision and batch size; ``passes`` are the texts by precision of
    ``part`` and seconds of a batch.
    """
    rows = []
    for (dtype, batch_seconds), sources in passes.items():
        for source, texts in sources.items():
            references, hypotheses = zip(*texts.values(), strict=True)
            rows.append(
                {
                    "set": source,
                    part: dtype,
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


def _format_row(row: dict[str, Any], part: str) -> dict[str, str]:
    percent = {name: f"{100 * row[name]:.2f}" for name in SHARES}
    return {
        "set": row["set"],
        part: row[part],
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
    parser.add_argument(
        "--encoder", action="store_true", help="vary the arithmetic of the encoder, not of the LLM"
    )
    parser.add_argument("--out", type=Path, help="file for rows and texts, as JSON")
    options = parser.parse_args(arguments)
    settings, device = read_params().decode, options.device or default_device()
    rules = settings.sets[options.set].without_acoustic_limits()
    part, decode = "LLM", decode_by_llm
    names: Sequence[str] = DTYPES
    if options.encoder:
        part, names, decode = "encoder", ARITHMETICS, decode_by_encoder
    rows, texts = [], {}
    for role in ROLES:
        passes = {
            (name, batch_seconds): decode(role, name, rules, batch_seconds, device)
            for name in names
            for batch_seconds in (SINGLE, settings.batch_seconds)
        }
        rows += build_rows(passes, part)
        texts[role] = {f"{dtype}, {size:g} s": sources for (dtype, size), sources in passes.items()}
    if options.out:
        options.out.parent.mkdir(parents=True, exist_ok=True)
        results = {"device": device, "rows": rows, "texts": texts}
        options.out.write_text(json.dumps(results, indent=1, ensure_ascii=False) + "\n")
    print(format_table([_format_row(row, part) for row in rows]))


if __name__ == "__main__":
    main()
