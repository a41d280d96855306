"""Changes by rounding are counted over all utterances of dev and test."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from bench import precision
from components.shards.reader import list_utterances
from tests.decode.test_decode import save_bridge


@pytest.mark.usefixtures("world")
def test_every_utterance_is_decoded_in_both_precisions_singly_and_in_batches(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    save_bridge()
    precision.main(["--device", "cpu", "--out", str(tmp_path / "results.json")])
    results = json.loads((tmp_path / "results.json").read_text())
    sources = {
        item.source: 0
        for role in precision.ROLES
        for item in list_utterances(Path("data/shards") / role)
    }
    assert {(row["set"], row["LLM"], row["batch"]) for row in results["rows"]} == {
        (source, dtype, batch)
        for source in sources
        for dtype in precision.DTYPES
        for batch in ("alone", "3 s")
    }
    exact = [row for row in results["rows"] if row["LLM"] == "float32"]
    assert all(row["other than alone"] == row["other than float32"] == 0 for row in exact), (
        "a batch changes nothing in float32"
    )
    assert sum(row["utterances"] for row in exact if row["batch"] == "alone") == sum(
        len(list_utterances(Path("data/shards") / role)) for role in precision.ROLES
    )
    assert "other than float32 alone %" in capsys.readouterr().out


@pytest.mark.usefixtures("world")
def test_frames_are_computed_in_each_arithmetic_of_the_encoder(tmp_path: Path) -> None:
    save_bridge()
    precision.main(["--encoder", "--device", "cpu", "--out", str(tmp_path / "results.json")])
    rows = json.loads((tmp_path / "results.json").read_text())["rows"]
    assert {row["encoder"] for row in rows} == {"float32", "tf32", "bfloat16"}
    same = [row for row in rows if row["encoder"] != "bfloat16"]  # a processor has no TF32
    assert all(row["other than float32"] == 0 for row in same)
    frames = {
        name: precision.ComputedFrames("dev", name, "cpu") for name in ("float32", "bfloat16")
    }
    first = frames["float32"].utterances[:1]
    exact, rounded = (source.frames(first)[0] for source in frames.values())
    assert 1e-4 < float((rounded - exact).norm() / exact.norm()) < 0.1


def test_shares_and_rates_are_counted_by_hand() -> None:
    exact = {"a": ("one two", "one two"), "b": ("three", "three"), "c": ("", "")}
    rounded = {**exact, "b": ("three", "tree")}
    passes = {
        ("float32", 0.0): {"x": exact},
        ("bfloat16", 0.0): {"x": rounded},
        ("bfloat16", 80.0): {"x": exact},
    }
    assert [
        (row["other than alone"], row["other than float32"], row["wer"])
        for row in precision.build_rows(passes)
    ] == [(0.0, 0.0, 0.0), (0.0, 1 / 3, 1 / 3), (1 / 3, 0.0, 0.0)]
