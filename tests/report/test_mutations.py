"""Every reader of a file that this project or its user wrote, given damaged ones: it returns what
the file says, or raises the project's own error, which names the file and a way out. Mutations are
drawn by a seed: bits flipped, bytes replaced, files cut; values of JSON and YAML of other types and
names; columns of tables gone, renamed, of other types, without values.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml

from components.config import catalogue
from components.config.errors import InputError
from components.config.params import read_params
from components.corpus import manifest
from components.corpus.scan import check_scan, format_scan, read_scan
from components.decode.hypotheses import read_alternatives, read_hypotheses, write_hypotheses
from components.model.folders.description import AcousticLimits, read_limits, tunes_encoder
from components.model.model_folder import read_model_config
from components.plan.recipe import expand, read_recipe
from components.report.experiment import read_experiment
from components.report.provenance import run_times
from components.report.tables import heat_maps, word_error_rows
from components.report.training_curves import draw_training
from components.runtime.artifact import read_record
from components.runtime.parquet import write_table
from components.runtime.unit_cache import cached_unit, unit_digests
from components.score.figures import read_scores
from components.score.table import stage_seconds
from components.search.constraints import GREEDY
from components.shards.index import read_index
from components.shards.reader import list_utterances
from components.text.hypothesis import Hypothesis
from components.text.utterance import Utterance
from components.train.curve import write_curve
from components.train.emergence import summarise
from components.transcribe import parts
from components.transcribe.setup import read_description
from tests.conftest import REPOSITORY
from tests.report import finished

NUM_MUTATIONS = {".yaml": 4}  # of the bytes of each file, three at a time; parsing YAML is slow
SCORES, CURVE = Path("metrics/score.json"), Path("metrics/curve.csv")
TRAIN, TABLE = Path("metrics/train.json"), Path("data/score/utterances.parquet")
DECODED, SHARDS = Path("data/decode/test/clean.parquet"), Path("data/shards/test")
BRIDGE = Path("models/bridge/config.json")


@dataclass(frozen=True)
class Reader:
    """A file, and what reads it."""

    path: Path
    read: Callable[[], Any]


def read_tables() -> Any:
    experiment = read_experiment(Path())
    word_error_rows(experiment.scores)
    heat_maps(experiment.scores, {})
    return experiment


READERS = {
    "index": Reader(SHARDS / "clean/index.parquet", lambda: list_utterances(SHARDS)),
    "index alone": Reader(
        SHARDS / "clean/index.parquet", lambda: read_index(SHARDS / "clean/index.parquet")
    ),
    "record": Reader(SHARDS / "inputs.json", lambda: read_record(SHARDS)),
    "manifest": Reader(Path("source/manifest.parquet"), lambda: read_manifest()),
    "rejects": Reader(
        Path("source/rejects.parquet"), lambda: manifest.read_rejects(Path("source"))
    ),
    "hypotheses": Reader(DECODED, lambda: read_hypotheses(DECODED)),
    "alternatives": Reader(DECODED, lambda: read_alternatives(DECODED)),
    "scored utterances": Reader(TABLE, read_tables),
    "scores": Reader(SCORES, lambda: read_scores(SCORES)),
    "report's scores": Reader(SCORES, read_tables),
    "groups": Reader(TABLE.with_name("groups.csv"), read_tables),
    "curve": Reader(CURVE, lambda: draw_training(CURVE, TRAIN)),
    "curve's summary": Reader(CURVE, lambda: summarise(CURVE)),
    "summary": Reader(TRAIN, lambda: draw_training(CURVE, TRAIN)),
    "run": Reader(Path("runs/shards/one.json"), lambda: run_times(Path("runs"))),
    "run's seconds": Reader(Path("runs/shards/one.json"), stage_seconds),
    "scan": Reader(Path("data/sources/small/test/set.json"), lambda: read_a_scan()),
    "listing of a batch": Reader(
        Path("batch/listing.parquet"), lambda: parts.read_listing(Path("batch"))
    ),
    "part of a batch": Reader(
        Path("batch/part-000000.parquet"), lambda: parts.read_failures(Path("batch"), 0)
    ),
    "bridge": Reader(BRIDGE, lambda: read_model_config(BRIDGE.parent)),
    "bridge's encoder": Reader(BRIDGE, lambda: tunes_encoder(BRIDGE.parent)),
    "limits": Reader(Path("models/ctc/limits.json"), lambda: read_limits(Path("models/ctc"))),
    "exported model": Reader(
        Path("export/libretto.json"), lambda: read_description(Path("export"))
    ),
    "unit": Reader(Path("unit/unit.json"), lambda: unit_digests(Path("unit"))),
    "parameters": Reader(Path("params.yaml"), read_params),
    **{
        f"catalogue of {kind}": Reader(
            Path(f"catalogue/{kind}.yaml"),
            lambda kind=kind: [catalogue.READERS[kind](name) for name in catalogue.names(kind)],
        )
        for kind in ("corpus", "encoder", "projector", "llm")
    },
    "recipe": Reader(Path("flows/recipes/mine.yaml"), lambda: expand(read_recipe("mine"))),
}


def read_manifest() -> float:
    return sum(row.duration_s for row in manifest.read_manifest(Path("source")))


def read_a_scan() -> None:
    read_scan(Path("data/sources/small/test/set.json"))
    try:
        check_scan("small", "test", "set", {"digest": "0"})
    except InputError as error:
        assert error.subject in ("set", "data/sources/small/test/set.json")


@pytest.fixture(scope="module")
def original(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with all these files, as they are written."""
    folder = tmp_path_factory.mktemp("files")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setenv("LIBRETTO_WORK", str(folder / "work"))
        write_files()
    return folder


def write_files() -> None:
    finished.write_run({"test": {"clean": finished.CLEAN}, "dev": {"tuned": finished.CLEAN}})
    write_table(TABLE, pq.read_table(TABLE))
    alternatives = [Hypothesis("a", score=-1.0)]
    hypotheses = [Hypothesis("a b", [1, 2], -0.5, alternatives, "free", f"u{n}") for n in range(9)]
    write_hypotheses(DECODED, hypotheses)
    steps = [
        {"step": n, "stage": "one", "loss": 1 / (n + 1), "accuracy": n / 9, "dev_wer": 0.5}
        | {"epoch": n / 3, "audio_s": float(n)}
        for n in range(9)
    ]
    write_curve(CURVE, steps)
    shutil.copytree(REPOSITORY / "catalogue", "catalogue", dirs_exist_ok=True)
    shutil.copyfile(REPOSITORY / "params.yaml", "params.yaml")
    for folder in ("source", "batch", "runs/shards", "models/ctc", "models/bridge", "export"):
        Path(folder).mkdir(parents=True, exist_ok=True)
    rows = [
        Utterance(
            f"u{number}", "test", "ann", "en", f"u{number}.flac", 16_000, 900, "a b", "0" * 64
        )
        for number in range(20)
    ]
    manifest.write_rows(Path("source/manifest.parquet"), Utterance, rows)
    reject = manifest.Reject("u9", "u9.flac", "no sound file")
    manifest.write_rows(Path("source/rejects.parquet"), manifest.Reject, [reject] * 9)
    recordings = [parts.BatchRecording(f"{number}.wav", 100, number // 4) for number in range(9)]
    parts.write_listing(Path("batch"), recordings)
    failures = [parts.Failure(recording.file, "no sound file") for recording in recordings]
    parts.write_part(Path("batch"), 0, failures)
    run = {"stage": "shards@test", "started": "2026-01-01T00:00:00Z", "seconds": 2.5, "host": "a"}
    Path("runs/shards/one.json").write_text(json.dumps(run))
    scan = {"kind": "table", "digest": "0" * 64, "files": [["a.wav", 100], ["b.wav", 200]]}
    path = Path("data/sources/small/test/set.json")
    path.parent.mkdir(parents=True)
    path.write_text(format_scan(scan))
    projector = {"kind": "linear", "stack": 3, "hidden": 32}
    BRIDGE.write_text(
        json.dumps(
            {
                "encoder": "0" * 64,
                "encoder_width": 8,
                "llm": "1" * 64,
                "llm_dtype": "float32",
                "projector": projector,
                "prompt": {"template": "USER: {speech}"},
                "text_case": "lower",
                "encoder_run": {"layer": "last", "dtype": "float32", "padding": "none"},
                "vocabulary_size": 100,
            }
        )
    )
    limits = AcousticLimits(**dict.fromkeys(AcousticLimits.__annotations__, 3))
    Path("models/ctc/limits.json").write_text(json.dumps(vars(limits)))
    write_export()
    unit = cached_unit("stage", {}, write_unit, code="components.runtime.unit_cache")
    shutil.copytree(unit, "unit")
    recipe = Path("flows/recipes/mine.yaml")
    recipe.parent.mkdir(parents=True)
    shutil.copyfile(REPOSITORY / "flows/recipes/slam-asr-table-5.yaml", recipe)


def write_unit(folder: Path) -> None:
    (folder / "a").write_text("a")


def write_export() -> None:
    base = {"name": "tiny", "digest": "0" * 64, "source": {"kind": "folder", "folder": "tiny"}}
    numerics = {"dtype": "float32", "features": "float16", "batching": "padded"}
    description = {
        "format": 2,
        "encoder": base,
        "llm": base,
        "features": {"layer": "last", "mode": "live", "numerics": numerics},
        "decode": {"batch_seconds": 80.0, "sets": {"free": vars(GREEDY)}},
        "files": {"bridge/config.json": "0" * 64},
    }
    Path("export/libretto.json").write_text(json.dumps(description))


@pytest.fixture
def files(original: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of the folder, as the current one."""
    folder = shutil.copytree(original, tmp_path / "files", ignore=shutil.ignore_patterns("work"))
    monkeypatch.chdir(folder)
    monkeypatch.setenv("LIBRETTO_WORK", str(tmp_path / "work"))
    return folder


def check(reader: Reader, data: bytes, what: str, right: str = "") -> bool:
    """Reads the file with other bytes; returns whether it was refused. What people edit may be
    named by its entry or parameter alone. What is not refused has to be ``right``, where given.
    """
    reader.path.unlink()
    reader.path.write_bytes(data)
    try:
        result = reader.read()
    except InputError as error:
        assert error.hint, f"{what}: no way out: {error}"
        named = error.subject if reader.path.suffix == ".yaml" else f"{error.subject} {error}"
        assert named, f"{what}: names nothing: {error}"
        if reader.path.suffix != ".yaml":
            assert reader.path.name in named, f"{what}: {error}"
        return True
    except Exception as error:
        raise AssertionError(f"{what}: {type(error).__name__}: {error}") from error
    assert not right or repr(result) == right, f"{what}: read without a word"
    return False


def mutate_bytes(
    data: bytes, count: int, random: np.random.Generator
) -> Iterator[tuple[str, bytes]]:
    yield "empty", b""
    yield "no text", b"\xff\xfe" + data
    yield "nested", b"[" * 100_000
    for _ in range(count):
        size = int(random.integers(len(data)))
        yield f"cut to {size} bytes", data[:size]
        place, bit = int(random.integers(len(data))), int(random.integers(8))
        flipped = bytearray(data)
        flipped[place] ^= 1 << bit
        yield f"byte {place}, bit {bit}", bytes(flipped)
        count = int(random.integers(1, 9))
        yield (
            f"{count} bytes at {place}",
            data[:place] + random.bytes(count) + data[place + count :],
        )


def mutate_values(value: Any) -> Iterator[tuple[str, Any]]:
    """Copies of nested data, each with one value of another type, or one name missing."""
    for other in (None, True, -1, 0.5, "word", [], {}, [1], {"a": 1}, [["a"]]):
        if type(other) is not type(value) or other != value:
            yield repr(other), other
    if isinstance(value, dict):
        for key in list(value)[:12]:
            rest = {name: item for name, item in value.items() if name != key}
            yield f"no {key}", rest
            yield f"{key} renamed", {**rest, f"{key}x": value[key]}
            for what, item in mutate_values(value[key]):
                yield f"{key}: {what}", {**value, key: item}
    elif isinstance(value, list) and value:
        for what, item in mutate_values(value[0]):
            yield f"0: {what}", [item, *value[1:]]


def mutate_table(path: Path) -> Iterator[tuple[str, pa.Table]]:
    table = pq.read_table(path)
    for index, name in enumerate(table.column_names):
        yield f"no {name}", table.drop_columns([name])
        yield f"{name} renamed", table.rename_columns({name: f"{name}x"})
        for kind in (pa.int8(), pa.float32(), pa.binary(), pa.list_(pa.string())):
            column = pa.nulls(len(table), kind)
            yield f"{name}: {kind}", table.set_column(index, name, column)
        empty = pa.nulls(len(table), table.schema.field(name).type)
        yield f"{name} without values", table.set_column(index, name, empty)


@pytest.mark.parametrize("name", READERS)
def test_flipped_and_cut_files_have_an_error_of_this_project(name: str, files: Path) -> None:
    """A table has a checksum a page: what is read of a damaged one is what was written."""
    reader = READERS[name]
    data = reader.path.read_bytes()
    right = repr(reader.read()) if reader.path.suffix == ".parquet" else ""
    random = np.random.default_rng([7, *name.encode()])
    count = NUM_MUTATIONS.get(reader.path.suffix, 20)
    refused = [
        check(reader, other, what, right) for what, other in mutate_bytes(data, count, random)
    ]
    assert any(refused)
    assert not check(reader, data, "as it was")


@pytest.mark.parametrize(
    "name", [name for name, reader in READERS.items() if reader.path.suffix in (".json", ".yaml")]
)
def test_data_of_another_shape_has_an_error_of_this_project(name: str, files: Path) -> None:
    reader = READERS[name]
    is_json = reader.path.suffix == ".json"
    data = (json.loads if is_json else yaml.safe_load)(reader.path.read_text())
    mutations = list(mutate_values(data))
    random = np.random.default_rng([8, *name.encode()])
    chosen = random.permutation(len(mutations))[: 100 if is_json else 10]
    for what, other in (mutations[index] for index in chosen):
        text = json.dumps(other) if is_json else yaml.safe_dump(other, sort_keys=False)
        check(reader, text.encode(), what)


@pytest.mark.parametrize(
    "name", [name for name, reader in READERS.items() if reader.path.suffix == ".parquet"]
)
def test_a_table_of_another_shape_has_an_error_of_this_project(name: str, files: Path) -> None:
    reader = READERS[name]
    for what, table in mutate_table(reader.path):
        stream = pa.BufferOutputStream()
        pq.write_table(table, stream)
        check(reader, stream.getvalue().to_pybytes(), what)
