"""Parameters and catalogue are strict and typed, and a wrong key or name says which known one is
near.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import yaml

from components.config import catalogue
from components.config.entries import EncoderEntry, LlmEntry
from components.config.errors import InputError
from components.config.params import (
    NAMES,
    Params,
    parse_params,
    read_overridden_params,
    read_params,
)
from components.config.projector import parse_projector
from components.config.schema import non_default_fields, parse_as
from components.config.yaml_files import parse_yaml, read_yaml
from components.corpus.source import KINDS as CORPUS_KINDS
from components.corpus.source import build_source
from components.plan.__main__ import main as run_plan
from components.plan.recipe import read_recipe
from components.runtime.stage import check_names
from tests.conftest import REPOSITORY
from tests.errors import refused

RAW = yaml.safe_load((REPOSITORY / "params.yaml").read_text())
REMOVED = object()


@pytest.fixture(autouse=True)
def root(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(REPOSITORY)


def changed(changes: dict[tuple, Any], data: Any = RAW) -> dict[str, Any]:
    """Data with other values at some keys (``REMOVED`` removes one); by default the parameters of
    the repository.
    """
    data = copy.deepcopy(data)
    for (*parents, key), value in changes.items():
        section = data
        for part in parents:
            section = section[part]
        if value is REMOVED:
            del section[key]
        else:
            section[key] = value
    return data


def refusal(changes: dict[tuple, Any], tmp_path: Path) -> InputError:
    path = tmp_path / "params.yaml"
    path.write_text(yaml.safe_dump(changed(changes)))
    with pytest.raises(InputError) as stopped:
        read_params(path)
    error = stopped.value
    assert error.exit_code == 2
    assert str(path) in str(error)
    assert error.subject in str(error)
    assert error.hint
    return error


def leaves(data: Any, parents: tuple = ()) -> Iterator[tuple[tuple, Any]]:
    """(keys, value) of all values that are no mappings and no lists."""
    if isinstance(data, dict | list) and data:
        for key, value in data.items() if isinstance(data, dict) else enumerate(data):
            yield from leaves(value, (*parents, key))
    else:
        yield parents, data


def numbers(data: Any) -> list[tuple]:
    """Keys of all numeric values."""
    return [keys for keys, value in leaves(data) if type(value) in (int, float)]


def dotted(keys: tuple) -> str:
    return ".".join(map(str, keys))


def test_the_parameters_of_the_repository_are_complete() -> None:
    params = read_params()
    check_names(params)
    plain = asdict(params)
    assert plain.pop("raw") == RAW
    assert plain == RAW


def test_every_value_is_typed() -> None:
    keys_of_values = [keys for keys, _ in leaves(RAW)]
    assert len(keys_of_values) > 50
    for keys in keys_of_values:
        with pytest.raises(InputError) as stopped:
            parse_as(Params, changed({keys: {"no": "value"}}), "params.yaml")
        # of a section that is null, the key in it
        assert stopped.value.subject in (dotted(keys), f"{dotted(keys)}.no")


# In decibels: -1 makes speech quieter, or noise louder than the speech.
NEGATIVE = {
    ("features", "augment", "level_db", 0),
    ("features", "augment", "noise", "snr_db", 0),
}


def test_every_number_has_a_range(tmp_path: Path) -> None:
    assert len(numbers(RAW)) > 75
    for keys in numbers(RAW):
        assert refusal({keys: "many"}, tmp_path).subject == dotted(keys)
        if keys not in NEGATIVE:
            # Where -1 is wrong only beside the other value of a pair, the pair is named.
            subject = refusal({keys: -1}, tmp_path).subject
            assert subject in (dotted(keys), dotted(keys[:-1])), keys
            assert subject == dotted(keys) or isinstance(keys[-1], int)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_every_number_is_finite(value: float, tmp_path: Path) -> None:
    for keys in numbers(RAW):
        assert refusal({keys: value}, tmp_path).subject == dotted(keys)


# Outside of any range.
NO_NUMBERS = ("many", float("nan"), float("inf"), 10**40)
PARSERS = {
    "encoder": partial(parse_as, EncoderEntry),
    "llm": partial(parse_as, LlmEntry),
    "projector": parse_projector,
}
# Settings of networks, which a stage checks with the network's own class, and the card.
UNTYPED = {"config", "shape", "card"}


@pytest.mark.parametrize("kind", PARSERS)
def test_every_number_of_the_catalogue_has_a_range(kind: str) -> None:
    tested = set()
    for name in catalogue.names(kind):
        entry = catalogue.raw_entry(kind, name)
        for keys in numbers(entry):
            if UNTYPED & set(keys):
                continue
            tested.add(keys)
            for value in (*NO_NUMBERS, *(() if {"level_db", "snr_db"} & set(keys) else (-1,))):
                with pytest.raises(InputError) as stopped:
                    PARSERS[kind](changed({keys: value}, entry), name)
                assert stopped.value.subject in (dotted(keys), dotted(keys[:-1]))
                assert stopped.value.hint
    assert len(tested) > 9


def test_every_number_of_a_corpus_source_has_a_range() -> None:
    tested = set()
    for corpus in catalogue.names("corpus"):
        for role, sources in catalogue.corpus(corpus).sources.items():
            for name, settings in sources.items():
                for keys in numbers(settings):
                    kind = settings["kind"]
                    if (kind, keys) in tested or keys[0] == "where":  # values of a table's column
                        continue
                    tested.add((kind, keys))
                    # Levels and ratios in decibels may be negative.
                    is_decibel = any(str(key).endswith("_db") for key in keys)
                    for value in (*NO_NUMBERS, *(() if is_decibel else (-1,))):
                        with pytest.raises(InputError, match=rf"\b{keys[-1]}|{keys[0]}"):
                            build_source(name, role, changed({keys: value}, settings))
    without_numbers = {"mls", "table", "webdataset"}
    assert {kind for kind, _ in tested} == CORPUS_KINDS.keys() - without_numbers


@pytest.mark.parametrize("key", ["train.max_seconds", "decode.sets.free.beams"])
def test_a_plan_stops_at_a_wrong_parameter(key: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run_plan(["-S", f"{key}=-5"]) == 2
    output = capsys.readouterr()
    assert f"'{key}'" in output.out + output.err


@pytest.mark.parametrize(
    ("changes", "unknown", "near"),
    [
        ({("train", "matching", "wieght"): 1}, "train.matching.wieght", "weight"),
        ({("sore",): {}}, "sore", "score"),
        (
            {("shards", "utterances"): REMOVED, ("shards", "utterancs"): 250},
            "shards.utterancs",
            "utterances",
        ),
        ({("features",): REMOVED, ("featrues",): RAW["features"]}, "featrues", "features"),
        (
            {("train", "curriculum", 0, "steps"): REMOVED, ("train", "curriculum", 0, "setps"): 5},
            "train.curriculum.0.setps",
            "steps",
        ),
        (
            {("decode", "sets", "free", "beams"): REMOVED, ("decode", "sets", "free", "beems"): 4},
            "decode.sets.free.beems",
            "beams",
        ),
    ],
)
def test_an_unknown_key_stops_and_names_the_nearest(
    changes: dict, unknown: str, near: str, tmp_path: Path
) -> None:
    """Added beside the right one, or written in its place."""
    error = refusal(changes, tmp_path)
    assert error.subject == unknown
    assert f"'{near}'" in error.hint


def test_an_old_name_stops_and_names_the_new_one(tmp_path: Path) -> None:
    error = refusal({("decode", "sets", "free", "max_unheard"): 0}, tmp_path)
    assert error.subject == "decode.sets.free.max_unheard"
    assert "'max_unsupported_units'" in error.hint
    with pytest.raises(InputError) as stopped:
        read_overridden_params({"decode.sets.free.max_unheard": 3}, "the command line")
    assert "'max_unsupported_units'" in stopped.value.hint


def test_an_old_name_of_another_section_is_an_unknown_key(tmp_path: Path) -> None:
    error = refusal({("train", "takes"): 1}, tmp_path)
    assert error.subject == "train.takes"
    assert "take_range" not in str(error)
    with pytest.raises(InputError) as stopped:
        read_overridden_params({"train.max_unheard": 3}, "the command line")
    assert stopped.value.subject == "train.max_unheard"
    assert stopped.value.hint
    assert "max_unsupported_units" not in str(stopped.value)


def test_a_missing_key_is_named(tmp_path: Path) -> None:
    missing = {("train", "selection", "every"): REMOVED}
    assert refusal(missing, tmp_path).subject == "train.selection.every"
    assert refusal({("decode",): REMOVED}, tmp_path).subject == "decode"
    both = refusal({("train", "clip"): REMOVED, ("train", "lora", "alpha"): REMOVED}, tmp_path)
    assert "'train.clip', 'train.lora.alpha'" in str(both)


@pytest.mark.parametrize(
    ("keys", "value"),
    [
        (("shards", "utterances"), "many"),
        (("shards", "utterances"), 2.5),
        (("shards", "seconds"), None),
        (("train", "clip"), [1]),
        (("train", "spec_augment", "enabled"), "perhaps"),
        (("train", "curriculum"), {"steps": 5}),
        (("train", "curriculum", 1, "tune"), "lora"),
        (("train", "text_case"), "upper"),
        (("features", "mode"), "cachd"),
        (("features", "layer"), "first"),
        (("features", "layer"), -1),
        (("decode", "sets", "free", "beams"), "4 or so"),
        (("decode", "sets"), []),
        (("llm",), 2),
        (("score",), "casefold"),
    ],
)
def test_a_wrong_type_stops_with_key_and_value(keys: tuple, value: Any, tmp_path: Path) -> None:
    error = refusal({keys: value}, tmp_path)
    assert error.subject == dotted(keys)
    assert repr(value) in str(error)


LIVE = {("features", "mode"): "live", ("train", "curriculum", 0, "tune"): ["encoder"]}


@pytest.mark.parametrize(
    ("changes", "subject"),
    [
        ({("train", "selection", "every"): 0}, ""),
        ({("train", "micro_batches"): 0}, ""),
        ({("train", "curriculum"): []}, ""),
        ({("train", "curriculum", 1, "nonspeech_share"): 1.01}, ""),
        ({("train", "curriculum", 1, "nonspeech_share"): -0.1}, ""),
        ({("train", "batch_tokens"): -1}, ""),
        ({("train", "spike"): 0.9}, ""),
        ({("train", "selection", "patience"): -1}, ""),
        ({("train", "concatenate", "share"): 0.5}, "train.concatenate.seconds"),
        ({("train", "text_mask"): 1.0}, ""),
        ({("train", "curriculum", 0, "tune"): []}, ""),
        (
            {("train", "curriculum", 0, "reads"): "text"},  # the projector learns nothing of it
            "train.curriculum.0.tune",
        ),
        (
            {
                ("train", "curriculum", 1, "reads"): "text",
                ("train", "curriculum", 1, "tune"): ["lora"],
            },
            "train.curriculum.1.nonspeech_share",
        ),
        ({("train", "curriculum", 0, "tune"): ["lora", "llm"]}, ""),
        (
            {**LIVE, ("train", "curriculum", 0, "tune"): ["encoder", "encoder-lora"]},
            "train.curriculum.0.tune",
        ),
        ({**LIVE, ("features", "mode"): "cached"}, "features.mode"),
        ({("train", "ctc_weight"): 0.3}, ""),
        ({("ctc", "consistency"): -0.2}, ""),
        ({("ctc", "consistency"): 0.2}, ""),  # of copies that no mask changes
        ({**LIVE, ("train", "ctc_weight"): 0.3, ("features", "layer"): 2}, "features.layer"),
        ({("shards", "utterances"): 0}, ""),
        ({("features", "batch_seconds"): 0}, ""),
        ({("features", "augment", "views"): 0}, ""),
        ({("features", "augment", "views"): 2}, ""),  # of the same waveform
        ({("features", "augment", "speed"): []}, ""),
        ({("features", "augment", "speed"): [1.0, 0.0]}, "features.augment.speed.1"),
        ({("features", "augment", "level_db"): [3, -3]}, ""),
        ({("features", "augment", "noise", "snr_db"): [5]}, ""),
        ({("features", "augment", "noise", "probability"): 1.5}, ""),
        ({("features", "augment", "rooms", "probability"): -0.5}, ""),
        ({("features", "augment", "band", "probability"): 2}, ""),
        ({("features", "augment", "band", "hertz"): [7000, 3000]}, ""),
        ({("features", "augment", "band", "hertz"): [3000, 8000]}, "features.augment.band.hertz.1"),
        ({("train", "batch_seconds"): 0}, ""),
        ({("decode", "batch_seconds"): 0}, ""),
        ({("score", "resamples"): -1}, ""),
        ({("score", "resamples"): 50}, ""),  # too few to say anything of the outer 2.5 %
        ({("decode", "sets", "free", "ctc_texts"): 8}, ""),  # the LLM alone would choose among them
        ({("decode", "sets", "free"): REMOVED}, "decode.sets"),
        ({("decode", "sets", "ctc"): RAW["decode"]["sets"]["free"]}, "decode.sets"),
    ],
)
def test_a_value_out_of_range_stops(changes: dict, subject: str, tmp_path: Path) -> None:
    """By default the changed key is the one that is named."""
    assert refusal(changes, tmp_path).subject == (subject or dotted(next(iter(changes))))


def test_a_tuned_encoder_with_live_features_is_accepted(tmp_path: Path) -> None:
    changes = {**LIVE, ("train", "ctc_weight"): 0.3}
    assert parse_params(changed(changes), "here").train.tuned_encoder_part == "encoder"


@pytest.mark.parametrize("text", ["", "- a list\n", "corpus: [spoken\n", "5"])
@pytest.mark.parametrize(
    ("file", "read"),
    [
        ("params.yaml", read_params),
        ("params.yaml", lambda: read_overridden_params({"train.seed": 1}, "the test")),
        ("catalogue/llm.yaml", lambda: catalogue.llm("phi-2")),
        ("flows/recipes/mine.yaml", lambda: read_recipe("mine")),
    ],
    ids=["params", "overridden params", "catalogue", "recipe"],
)
def test_a_file_that_holds_no_sections_stops(
    file: str,
    read: Callable[[], object],
    text: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    Path(file).parent.mkdir(parents=True, exist_ok=True)
    Path(file).write_text(text)
    with refused(file):
        read()


def test_outside_the_repository_a_hint_is_given(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InputError, match=r"params\.yaml") as stopped:
        read_params()
    assert stopped.value.hint
    with pytest.raises(InputError, match=r"corpus\.yaml") as stopped:
        catalogue.names("corpus")
    assert stopped.value.hint


@pytest.mark.parametrize("kind", NAMES)
def test_an_unknown_name_names_the_nearest(kind: str, tmp_path: Path) -> None:
    known = RAW[kind]
    (tmp_path / "params.yaml").write_text(yaml.safe_dump(changed({(kind,): known[:-1]})))
    with pytest.raises(InputError) as stopped:
        check_names(read_params(tmp_path / "params.yaml"))
    assert stopped.value.subject == kind
    assert f"'{known}'" in stopped.value.hint


@pytest.mark.parametrize("kind", NAMES)
def test_a_name_unlike_any_other_lists_the_known_ones(kind: str) -> None:
    with pytest.raises(InputError) as stopped:
        catalogue.READERS[kind]("?")
    assert all(name in stopped.value.hint for name in catalogue.names(kind))


@pytest.mark.parametrize("kind", NAMES)
def test_every_entry_of_the_catalogue_loads(kind: str) -> None:
    # Archives are picked by a source's data root, GPUs on a plan's command line, not by a name in
    # params.yaml.
    assert (
        set(catalogue.READERS)
        == set(NAMES)
        == {path.stem for path in catalogue.FOLDER.glob("*.yaml")} - {"archive", "gpu"}
    )
    for name in catalogue.names(kind):
        catalogue.READERS[kind](name)
        assert "." not in name, "dots do not work in names"


def test_every_corpus_lists_all_roles() -> None:
    """A role that a matrix stage asks for must stand in the entry, or DVC finds no such
    parameter.
    """
    for name in catalogue.names("corpus"):
        assert catalogue.raw_entry("corpus", name).keys() - {"card"} == set(catalogue.ROLES), name


def test_every_source_is_typed_without_touching_data(
    work: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for variable in (
        "LIBRETTO_ROOT_LIBRISPEECH",
        "LIBRETTO_ROOT_DIGITS",
        "LIBRETTO_ROOT_NONSPEECH",
    ):
        monkeypatch.delenv(variable, raising=False)
    for corpus in catalogue.names("corpus"):
        for role, listed in catalogue.corpus(corpus).sources.items():
            for name, settings in listed.items():
                build_source(name, role, settings)
                with pytest.raises(InputError) as stopped:
                    build_source(name, role, {**settings, "colour": "red"})
                assert stopped.value.subject == "colour"
    assert not work.exists()


@pytest.fixture
def own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A catalogue of one's own."""
    (tmp_path / "catalogue").mkdir()
    monkeypatch.chdir(tmp_path)
    return tmp_path / "catalogue"


@pytest.mark.parametrize(
    ("template", "fits"),
    [("{speech}", True), ("say: ", False), ("{speech} or {speech}", False), ("{spech}", False)],
)
def test_a_prompt_holds_the_speech_once(template: str, fits: bool, own: Path) -> None:
    entry = {
        "source": {"kind": "folder", "folder": "x"},
        "prompt": {"template": template},
        "lora": {"targets": []},
        "numerics": {"dtype": "float32"},
    }
    (own / "llm.yaml").write_text(yaml.safe_dump({"some": entry}))
    if fits:
        assert catalogue.llm("some").prompt.template == template
    else:
        with pytest.raises(InputError, match="some") as stopped:
            catalogue.llm("some")
        assert stopped.value.subject == "prompt.template"
        assert stopped.value.hint


@pytest.mark.parametrize(
    ("entry", "subject"),
    [
        ({"trian": {}}, "trian"),
        ({"test": {"clean": {"root": "x"}}}, "clean"),
        ({"test": {"clean": ["x"]}}, "clean"),
    ],
)
def test_a_corpus_entry_that_is_wrong_stops(entry: dict, subject: str, own: Path) -> None:
    (own / "corpus.yaml").write_text(yaml.safe_dump({"mine": entry}))
    with pytest.raises(InputError, match="'mine'") as stopped:
        catalogue.corpus("mine")
    assert stopped.value.subject == subject
    assert stopped.value.hint


def test_an_unknown_kind_of_source_names_the_nearest() -> None:
    with pytest.raises(InputError, match="'librispech'") as stopped:
        build_source("clean", "test", {"kind": "librispech"})
    assert stopped.value.subject == "clean"
    assert "'librispeech'" in stopped.value.hint


def test_a_wrong_key_of_a_model_entry_stops(own: Path) -> None:
    (own / "projector.yaml").write_text(
        yaml.safe_dump({"wide": {"kind": "linear", "stack": 5, "hiden": 2048}})
    )
    with pytest.raises(InputError, match=r"projector\.yaml: wide") as stopped:
        catalogue.projector("wide")
    assert stopped.value.subject == "hiden"
    assert "'hidden'" in stopped.value.hint
    numerics = {"dtype": "float8", "features": "float16", "batching": "padded"}
    (own / "encoder.yaml").write_text(
        yaml.safe_dump(
            {"small": {"source": {"kind": "folder", "folder": "x"}, "numerics": numerics}}
        )
    )
    with pytest.raises(InputError, match=r"encoder\.yaml: small.*'float8'") as stopped:
        catalogue.encoder("small")
    assert stopped.value.subject == "numerics.dtype"


@pytest.mark.parametrize(
    ("source", "subject"),
    [
        ({"kind": "hub"}, "source.repo"),
        ({"kind": "hub", "repo": "one"}, "source.repo"),
        ({"kind": "hub", "repo": "a/b", "revision": "main"}, "source.revision"),
        ({"kind": "hub", "repo": "a/b", "files": ["model.py"]}, "source.files"),
        (
            {"kind": "hub", "repo": "a/b", "files": ["a.safetensors", "pytorch_model.bin"]},
            "source.files",
        ),
        ({"kind": "folder"}, "source.folder"),
        ({"kind": "ctc", "config": {"hidden_size": 8}}, "source.training"),
        ({"kind": "joined", "parts": {"one": {"kind": "folder"}}}, "source.parts.one.folder"),
        ({"kind": "fodler"}, "source.kind"),
    ],
)
def test_a_source_of_a_checkpoint_that_is_wrong_stops(source: dict, subject: str) -> None:
    numerics = {"dtype": "float32", "features": "float16", "batching": "padded"}
    with pytest.raises(InputError) as stopped:
        parse_as(EncoderEntry, {"source": source, "numerics": numerics}, "encoder.yaml: small")
    assert stopped.value.subject == subject
    assert stopped.value.hint


def test_what_equals_its_default_is_no_part_of_a_key() -> None:
    """A setting added later, with a default that keeps what was, must not send anyone's finished
    work back to the start.
    """

    @dataclass(frozen=True)
    class Inner:
        width: int
        names: list[str] = field(default_factory=list)

    @dataclass(frozen=True)
    class Outer:
        inner: Inner
        rate: float = 0.5
        parts: list[Inner] = field(default_factory=list)

    assert non_default_fields(Outer(Inner(3))) == {"inner": {"width": 3}}
    assert non_default_fields(Outer(Inner(3, ["a"]), 0.25, [Inner(1)])) == {
        "inner": {"width": 3, "names": ["a"]},
        "rate": 0.25,
        "parts": [{"width": 1}],
    }


@pytest.mark.parametrize("text", ["a: 1\nb: 2\na: 3\n", "one: {x: 1, y: 2, x: 1}\n"])
def test_a_key_that_is_given_twice_stops(text: str, tmp_path: Path) -> None:
    """YAML would take the last one, and DVC refuses both: with less of a reason, after minutes."""
    (tmp_path / "llm.yaml").write_text(text)
    with pytest.raises(InputError) as stopped:
        read_yaml(tmp_path / "llm.yaml")
    assert stopped.value.subject == str(tmp_path / "llm.yaml")


def test_a_merged_key_may_be_given_again() -> None:
    text = "a: &a {x: 1, y: 2}\nb: &b {<<: *a, x: 3}\nc: {<<: [*b, *a], y: 4}\n"
    assert parse_yaml(text)["c"] == {"x": 3, "y": 4}
