"""The reference pages name every parameter, setting and field of the catalogue, each described."""

from __future__ import annotations

import runpy
from pathlib import Path
from types import SimpleNamespace

import pytest

from components.config import catalogue
from components.config.entries import EncoderEntry, LlmEntry
from components.config.params import Params
from components.config.projector import PROJECTOR_KINDS
from components.corpus.fetch.archive import ArchiveCollection
from components.corpus.source import KINDS as CORPUS_SOURCES
from components.plan.load import Gpu
from components.runtime.settings import RuntimeSettings
from tests.conftest import REPOSITORY

PAGES = ("parameters", "settings", "catalogue")


@pytest.fixture(scope="module")
def reference() -> SimpleNamespace:
    return SimpleNamespace(**runpy.run_path(str(REPOSITORY / "docs/reference.py")))


@pytest.fixture
def pages(
    reference: SimpleNamespace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> dict[str, str]:
    monkeypatch.chdir(REPOSITORY)
    assert reference.main([str(tmp_path)]) == 0
    return {name: (tmp_path / f"{name}.md").read_text() for name in PAGES}


def test_the_pages_are_the_same_each_time(
    pages: dict[str, str], reference: SimpleNamespace, tmp_path: Path
) -> None:
    assert reference.main([str(tmp_path / "again")]) == 0
    assert {name: (tmp_path / "again" / f"{name}.md").read_text() for name in PAGES} == pages


CATALOGUE = (EncoderEntry, LlmEntry, *PROJECTOR_KINDS.values(), ArchiveCollection, Gpu)


@pytest.mark.parametrize("cls", [Params, RuntimeSettings, *CATALOGUE, *CORPUS_SOURCES])
def test_every_field_is_described(cls: type | str, reference: SimpleNamespace) -> None:
    cls = reference.settings_class(cls) if isinstance(cls, str) else cls
    for row in reference.rows_of(cls):
        assert row.description or row.key == "kind", row.key


def test_every_parameter_has_a_row_with_its_value(pages: dict[str, str]) -> None:
    rows = [line for line in pages["parameters"].splitlines() if line.startswith("| `")]
    assert len(rows) > 80
    for key, value in {
        "train.max_seconds": "`20`",
        "train.curriculum.0.steps": "`500`, `650`",
        "decode.sets.<name>.no_repeat_ngram": "`0`, `10`",
    }.items():
        row = next(row for row in rows if row.startswith(f"| `{key}`"))
        assert f"| {value} |" in row


def test_every_setting_and_kind_is_listed(pages: dict[str, str]) -> None:
    for name in vars(RuntimeSettings()):
        assert f"`LIBRETTO_{name.upper()}`" in pages["settings"]
    for kind in (*CORPUS_SOURCES, *PROJECTOR_KINDS):
        assert f"### kind `{kind}`" in pages["catalogue"]
    for path in (REPOSITORY / catalogue.FOLDER).glob("*.yaml"):
        assert f"## `{path.name}`" in pages["catalogue"]


def test_without_a_folder_the_usage_is_printed(
    reference: SimpleNamespace, capsys: pytest.CaptureFixture[str]
) -> None:
    assert reference.main([]) == 2
    assert "OUT_FOLDER" in capsys.readouterr().err
