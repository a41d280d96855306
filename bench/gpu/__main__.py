"""``python -m bench.gpu [--tiny] [--device DEVICE] [--out FOLDER]``: the card, then features,
training step and decoding.

Prints a table and writes ``gpu.json``. Under 10 minutes and 40 GB on one card; ``--tiny`` runs the
same at a size for a processor. Work that does not fit the card's memory is a row that says so. Run
it from the root of the repository: shapes are those of the catalogue.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, get_args

import torch

from bench.gpu import card, networks, work
from components.config.entries import Arithmetic
from components.config.params import read_params
from components.runtime.settings import device as default_device
from components.runtime.tables import format_table

ARITHMETICS = get_args(Arithmetic)  # of the encoders
ENCODERS = ("hubert-xlarge", "wavlm-large", "whisper-large-v2")
LLMS = ("tinyllama", "phi-2", "vicuna-7b")
PROJECTOR, WIDTH = "linear", 1280  # of SLAM-ASR; frames as wide as those of its best encoder
# A small batch shows the cost of a step by itself, a large one the limit of the card; 64 utterances
# and Vicuna-7B take 29 GB.
FULL = {
    "features": (work.WorkSize(10, 12, 0, 3),),
    "training": (work.WorkSize(10, 8, 0, 3), work.WorkSize(10, 64, 0, 3)),
    "decoding": (work.WorkSize(10, 8, 4, 3), work.WorkSize(10, 64, 4, 3)),
}
TINY = {
    "features": (work.WorkSize(1, 2, 0, 1),),
    "training": (work.WorkSize(1, 2, 0, 1),),
    "decoding": (work.WorkSize(1, 2, 2, 1),),
}
Row = dict[str, Any]  # figures of one measurement
Measure = Callable[[str, str, bool, work.WorkSize], Row]


def measure(device: str, tiny: bool) -> dict[str, Any]:
    """All measurements of a device as plain data."""
    start = time.perf_counter()
    rates = {name: card.measure_matrix_rate(device, name, 3) for name in ARITHMETICS}
    bandwidth = card.measure_bandwidth(device, 3)
    rows = []
    for name, kind, run in _list_measures():
        for size in (TINY if tiny else FULL)[kind]:
            row = _run(run, name, kind, device, tiny, size)
            if "operations/s" in row:
                row["share of the matrix rate"] = row["operations/s"] / rates[row["dtype"]]
            if "weights read, B/s" in row:
                row["share of the bandwidth"] = row["weights read, B/s"] / bandwidth
            rows.append({"network": name, "utterances": size.num_utterances, **row})
    return {
        "card": card.card_name(device),
        "torch": torch.__version__,
        "tiny": tiny,
        "matrix rate": rates,
        "copy bandwidth": bandwidth,
        "rows": rows,
        "seconds": time.perf_counter() - start,
    }


def _list_measures() -> list[tuple[str, str, Measure]]:
    """Network, kind of work, and the function that measures it."""
    measures: list[tuple[str, str, Measure]] = [
        (name, "features", partial(_features, arithmetic))
        for name in ENCODERS
        for arithmetic in ARITHMETICS
    ]
    for name in LLMS:
        measures += [(name, "training", _training), (name, "decoding", _decoding)]
    return measures


def _run(run: Measure, name: str, kind: str, device: str, tiny: bool, size: work.WorkSize) -> Row:
    """The row of one measurement, or of the failure to fit it into the card's memory."""
    try:
        return run(name, device, tiny, size)
    except torch.OutOfMemoryError:
        return {"work": kind, "failed": "does not fit the card's memory"}


def _features(
    arithmetic: str, name: str, device: str, tiny: bool, size: work.WorkSize
) -> dict[str, Any]:
    with networks.build_encoder(name, device, tiny, arithmetic=arithmetic) as encoder:
        return work.measure_features(encoder, size, device, arithmetic)


def _training(name: str, device: str, tiny: bool, size: work.WorkSize) -> dict[str, Any]:
    model = networks.build_speech_llm(name, PROJECTOR, WIDTH, device, tiny)
    with TemporaryDirectory() as scratch:
        return work.measure_training(model, read_params().train, size, device, Path(scratch))


def _decoding(name: str, device: str, tiny: bool, size: work.WorkSize) -> dict[str, Any]:
    return work.measure_decoding(
        networks.build_speech_llm(name, PROJECTOR, WIDTH, device, tiny), size, device
    )


def format_measures(results: dict[str, Any]) -> str:
    """All measurements as text."""
    rates = ", ".join(
        f"{name} {rate / 1e12:.3g} Tflop/s" for name, rate in results["matrix rate"].items()
    )
    first = (
        f"{results['card']}, torch {results['torch']}: {rates}, copy "
        f"{results['copy bandwidth'] / 1e9:.3g} GB/s; {results['seconds']:.0f} s"
    )
    return first + "\n" + format_table([_format_row(row) for row in results["rows"]])


def _format_row(row: dict[str, Any]) -> dict[str, str]:
    if "failed" in row:
        return {
            "network": row["network"],
            "work": row["work"],
            "utterances": str(row["utterances"]),
            "dtype": row["failed"],
        }
    peak = row["peak bytes"]
    return {
        "network": row["network"],
        "work": row["work"],
        "utterances": str(row["utterances"]),
        "dtype": row["dtype"],
        "ms": f"{1000 * row['seconds']:.1f}",
        "audio h/h": f"{row['audio h/h']:.0f}",
        "tokens/s": f"{row['tokens/s']:.0f}" if "tokens/s" in row else "",
        "peak GB": "" if peak is None else f"{peak / 1e9:.1f}",
        "Tflop": f"{row['operations'] / 1e12:.3g}",
        "of the rate %": f"{100 * row['share of the matrix rate']:.1f}",
        "of the bandwidth %": f"{100 * row['share of the bandwidth']:.1f}"
        if "share of the bandwidth" in row
        else "",
    }


def main(arguments: Sequence[str] | None = None) -> None:
    """Measures from the command line."""
    parser = argparse.ArgumentParser(
        prog="python -m bench.gpu", description="Measures the work of a GPU with random weights."
    )
    parser.add_argument(
        "--tiny",
        action="store_true",
        help="networks of a size for a processor, whose figures mean nothing",
    )
    parser.add_argument(
        "--device",
        default="",
        help="of torch (default: LIBRETTO_DEVICE, else the GPU if there is one)",
    )
    parser.add_argument(
        "--out",
        type=Path,
        default=Path("runs/bench"),
        help="folder for gpu.json (default: runs/bench)",
    )
    options = parser.parse_args(arguments)
    results = measure(options.device or default_device(), options.tiny)
    options.out.mkdir(parents=True, exist_ok=True)
    (options.out / "gpu.json").write_text(json.dumps(results, indent=1) + "\n")
    print(format_measures(results))


if __name__ == "__main__":
    main()
