"""Parameters and catalogue are strict and typed, and a wrong key or name says which known one is
near.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import pytest
import yaml

from components.config import catalogue
from components.config.errors import InputError
from components.config.params import NAMES, Params, read_params
from components.config.schema import non_default_fields, parse_as
from components.corpus.source import build_source
from components.runtime.stage import check_names
from tests.conftest import REPOSITORY

RAW = yaml.safe_load((REPOSITORY / "params.yaml").read_text())
GONE = object()


@pytest.fixture(autouse=True)
def root(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(REPOSITORY)


def changed(changes: dict[tuple, Any]) -> dict[str, Any]:
    """The parameters of the repository with other values at some places (``GONE`` takes a key
    away).
    """
    data = copy.deepcopy(RAW)
    for (*above, key), value in changes.items():
        section = data
        for part in above:
            section = section[part]
        if value is GONE:
            del section[key]
        else:
            section[key] = value
    return data


def refusal(changes: dict[tuple, Any], tmp_path: Path) -> str:
    path = tmp_path / "params.yaml"
    path.write_text(yaml.safe_dump(changed(changes)))
    with pytest.raises(InputError) as stopped:
        read_params(path)
    assert stopped.value.exit_code == 2
    assert str(path) in str(stopped.value)
    return str(stopped.value)


def leaves(data: Any, place: tuple = ()) -> Iterator[tuple]:
    if isinstance(data, dict | list) and data:
        for key, value in data.items() if isinstance(data, dict) else enumerate(data):
            yield from leaves(value, (*place, key))
    else:
        yield place


def test_the_parameters_of_the_repository_are_whole() -> None:
    params = read_params()
    check_names(params)
    plain = asdict(params)
    assert plain.pop("raw") == RAW
    assert plain == RAW


def test_every_value_is_typed() -> None:
    places = list(leaves(RAW))
    assert len(places) > 50
    for place in places:
        with pytest.raises(InputError) as stopped:
            parse_as(Params, changed({place: {"no": "value"}}), "params.yaml")
        assert stopped.value.subject.startswith(".".join(map(str, place))), place


@pytest.mark.parametrize(
    ("changes", "unknown", "near"),
    [
        ({("train", "matching", "wieght"): 1}, "train.matching.wieght", "weight"),
        ({("sore",): {}}, "sore", "score"),
        (
            {("shards", "utterances"): GONE, ("shards", "utterancs"): 250},
            "shards.utterancs",
            "utterances",
        ),
        ({("features",): GONE, ("featrues",): RAW["features"]}, "featrues", "features"),
        (
            {("train", "curriculum", 0, "steps"): GONE, ("train", "curriculum", 0, "setps"): 5},
            "train.curriculum.0.setps",
            "steps",
        ),
        (
            {("decode", "sets", "free", "beams"): GONE, ("decode", "sets", "free", "beems"): 4},
            "decode.sets.free.beems",
            "beams",
        ),
    ],
)
def test_an_unknown_key_stops_and_names_the_nearest(
    changes: dict, unknown: str, near: str, tmp_path: Path
) -> None:
    """Added beside the right one, or written in its place."""
    says = refusal(changes, tmp_path)
    assert f"unknown key '{unknown}'" in says
    assert f"Did you mean '{near}'?" in says


def test_a_missing_key_is_named(tmp_path: Path) -> None:
    assert "'train.selection.every'" in refusal({("train", "selection", "every"): GONE}, tmp_path)
    assert "'decode'" in refusal({("decode",): GONE}, tmp_path)
    both = refusal({("train", "clip"): GONE, ("train", "lora", "alpha"): GONE}, tmp_path)
    assert "'train.clip', 'train.lora.alpha' missing" in both


@pytest.mark.parametrize(
    ("place", "value"),
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
        (("decode", "sets", "free", "beams"), "4 or so"),
        (("decode", "sets"), []),
        (("llm",), 2),
        (("score",), "casefold"),
    ],
)
def test_a_wrong_type_stops_with_key_and_value(place: tuple, value: Any, tmp_path: Path) -> None:
    says = refusal({place: value}, tmp_path)
    assert f"'{'.'.join(map(str, place))}" in says
    assert repr(value) in says


@pytest.mark.parametrize(
    "changes",
    [
        {("train", "selection", "every"): 0},
        {("train", "micro_batches"): 0},
        {("train", "curriculum"): []},
        {("train", "curriculum", 1, "nonspeech_share"): 1.01},
        {("train", "curriculum", 1, "nonspeech_share"): -0.1},
        {("train", "batch_tokens"): -1},
        {("train", "spike"): 0.9},
        {("train", "selection", "patience"): -1},
        {("train", "concatenate", "share"): 0.5},
        {("train", "text_mask"): 1.0},
        {("train", "curriculum", 0, "tune"): []},
        {("shards", "utterances"): 0},
        {("features", "batch_seconds"): 0},
        {("features", "augment", "views"): 0},
        {("features", "augment", "views"): 2},  # of the same waveform
        {("features", "augment", "speed"): []},
        {("features", "augment", "speed"): [1.0, 0.0]},
        {("features", "augment", "level_db"): [3, -3]},
        {("features", "augment", "noise", "snr_db"): [5]},
        {("features", "augment", "noise", "probability"): 1.5},
        {("features", "augment", "rooms", "probability"): -0.5},
        {("features", "augment", "band", "probability"): 2},
        {("features", "augment", "band", "hertz"): [7000, 3000]},
        {("features", "augment", "band", "hertz"): [3000, 8000]},
        {("train", "batch_seconds"): 0},
        {("decode", "batch_seconds"): 0},
        {("score", "resamples"): -1},
        {("score", "resamples"): 50},  # too few to say anything of the outer 2.5 %
        {("decode", "sets", "free"): GONE},
        {("decode", "sets", "ctc"): RAW["decode"]["sets"]["free"]},
    ],
)
def test_a_value_out_of_range_stops(changes: dict, tmp_path: Path) -> None:
    assert "out of range" in refusal(changes, tmp_path)


@pytest.mark.parametrize("text", ["", "- a list\n", "corpus: [spoken\n", "5"])
def test_a_file_that_holds_no_sections_stops(text: str, tmp_path: Path) -> None:
    (tmp_path / "params.yaml").write_text(text)
    with pytest.raises(InputError, match=r"params\.yaml"):
        read_params(tmp_path / "params.yaml")


def test_outside_the_repository_the_way_out_is_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InputError, match=r"params\.yaml is missing.*root of the repository"):
        read_params()
    with pytest.raises(InputError, match=r"corpus\.yaml is missing.*root of the repository"):
        catalogue.names("corpus")


@pytest.mark.parametrize("kind", NAMES)
def test_an_unknown_name_names_the_nearest(kind: str, tmp_path: Path) -> None:
    known = RAW[kind]
    (tmp_path / "params.yaml").write_text(yaml.safe_dump(changed({(kind,): known[:-1]})))
    with pytest.raises(InputError) as stopped:
        check_names(read_params(tmp_path / "params.yaml"))
    assert f"No {kind} is called '{known[:-1]}'." in str(stopped.value)
    assert f"Did you mean '{known}'?" in str(stopped.value)


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
                with pytest.raises(InputError, match=r"unknown key 'colour'"):
                    build_source(name, role, {**settings, "colour": "red"})
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
        with pytest.raises(InputError, match=r"'some'.*\{speech\} exactly once"):
            catalogue.llm("some")


@pytest.mark.parametrize(
    ("entry", "says"),
    [
        ({"trian": {}}, "unknown role 'trian'.*Did you mean 'train'"),
        ({"test": {"clean": {"root": "x"}}}, "source 'clean': no 'kind'"),
        ({"test": {"clean": ["x"]}}, "source 'clean': no 'kind'"),
    ],
)
def test_a_corpus_entry_that_is_wrong_stops(entry: dict, says: str, own: Path) -> None:
    (own / "corpus.yaml").write_text(yaml.safe_dump({"mine": entry}))
    with pytest.raises(InputError, match=f"corpus 'mine'.*{says}"):
        catalogue.corpus("mine")


def test_an_unknown_kind_of_source_names_the_nearest() -> None:
    with pytest.raises(
        InputError, match=r"'clean': unknown kind 'librispech'.*Did you mean 'librispeech'"
    ):
        build_source("clean", "test", {"kind": "librispech"})


def test_a_wrong_key_of_a_model_entry_stops(own: Path) -> None:
    (own / "projector.yaml").write_text(
        yaml.safe_dump({"wide": {"kind": "linear", "stack": 5, "hiden": 2048}})
    )
    with pytest.raises(
        InputError, match=r"projector\.yaml: wide: unknown key 'hiden'.*Did you mean 'hidden'"
    ):
        catalogue.projector("wide")
    numerics = {"dtype": "float8", "features": "float16", "batching": "padded"}
    (own / "encoder.yaml").write_text(
        yaml.safe_dump(
            {"small": {"source": {"kind": "folder", "folder": "x"}, "numerics": numerics}}
        )
    )
    with pytest.raises(InputError, match=r"encoder\.yaml: small: 'numerics\.dtype'.*'float8'"):
        catalogue.encoder("small")


def test_what_stands_at_its_default_is_not_stated() -> None:
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
