"""The pages: their links, the names that they mention, and figures that are also in the results."""

from __future__ import annotations

import json
import re
import subprocess
from dataclasses import fields
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
import yaml

from components.corpus.manifest import Reject
from components.decode.hypotheses import SCHEMA
from components.runtime.settings import PREFIX, RuntimeSettings
from components.score.build import GROUP_COLUMNS, SPEAKER_COLUMNS, UTTERANCES
from components.shards.index import IndexEntry
from components.text.utterance import Utterance
from components.train.curve import OPTIONAL_COLUMNS, write_curve
from components.transcribe.parts import PART_SCHEMA
from tests.conftest import REPOSITORY

from .markdown import PAGES, anchors, links, prose

README = REPOSITORY / "README.md"
PARAMETERS = yaml.safe_load((REPOSITORY / "params.yaml").read_text())
SYSTEMS = ("free", "constrained", "ctc")
OUTSIDE = ("https://", "http://", "mailto:")
WORDS = 1200  # most words of the README


def name_of(page: Path) -> str:
    return page.relative_to(REPOSITORY).as_posix()


def test_the_readme_is_short() -> None:
    assert len(README.read_text().split()) <= WORDS


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_every_link_resolves(page: Path) -> None:
    for link in links(page):
        if link.startswith(OUTSIDE):
            continue
        name, _, anchor = link.partition("#")
        target = (page.parent / name).resolve() if name else page
        assert target.exists(), f"{link}: no such file"
        assert target.is_relative_to(REPOSITORY), link
        assert not anchor or anchor in anchors(target), f"{link}: no such heading"


def test_the_figures_of_the_readme_are_those_of_the_results() -> None:
    scores = json.loads((REPOSITORY / "metrics/score.json").read_text())
    text = README.read_text()
    for name in ("spoken-dev", "spoken-test"):
        row = next(line for line in text.splitlines() if line.startswith(f"| {name} "))
        cells = [cell.strip() for cell in row.strip("|").split("|")][1:]
        rates = [f"{100 * scores[name][system]['wer']:.2f}" for system in SYSTEMS]
        assert cells == [*rates, str(scores[name]["free"]["words"])]
    row = next(line for line in text.splitlines() if "clips with text" in line)
    cells = [cell.strip() for cell in row.strip("|").split("|")][1:-1]
    assert cells == [
        f"{100 * scores['synthetic-test'][system]['text_rate']:.1f}" for system in SYSTEMS
    ]


def code_spans(page: Path) -> list[str]:
    return re.findall(r"`([^`\n]+)`", prose(page))


def resolve(name: str) -> Any:
    """The value of a dotted parameter name in ``params.yaml``; KeyError if there is none."""
    value: Any = PARAMETERS
    for part in name.split("."):
        if value is None:  # a section that is null has no keys to look for
            return None
        if isinstance(value, list):
            value = value[0 if part == "N" else int(part)]
        else:
            value = value[part]
    return value


@pytest.mark.parametrize(
    "page", [page for page in PAGES if page.parent.name != "howto"], ids=name_of
)
def test_every_parameter_that_a_page_names_exists(page: Path) -> None:
    sections = "|".join(key for key, value in PARAMETERS.items() if isinstance(value, dict))
    pattern = re.compile(rf"(?:^|(?<=-S ))((?:{sections})(?:\.[A-Za-z_0-9]+)+)(?=$|[:= ])")
    for span in code_spans(page):
        for name in pattern.findall(span):
            if not name.endswith(".json"):
                resolve(name)


@pytest.mark.parametrize(
    "page", [page for page in PAGES if page.name != "CHANGELOG.md"], ids=name_of
)
def test_every_setting_that_a_page_names_exists(page: Path) -> None:
    settings = {f"{PREFIX}{field.name.upper()}" for field in fields(RuntimeSettings)}
    for name in re.findall(r"LIBRETTO_[A-Z0-9_]*[A-Z0-9]", page.read_text()):
        assert name in {*settings, "LIBRETTO_SETTINGS"} or name.startswith("LIBRETTO_ROOT"), name


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_every_file_that_a_page_names_exists(page: Path) -> None:
    """Paths into the source tree; outputs and examples are not in it."""
    tops = "components|flows|bench|tests|catalogue|examples|libretto"
    for span in code_spans(page):
        for name in re.findall(rf"^((?:{tops})/[A-Za-z0-9_./-]+)$", span):
            assert (REPOSITORY / name).exists(), name


def test_the_architecture_names_every_package() -> None:
    packages = {path.parent.name for path in (REPOSITORY / "components").glob("*/__init__.py")}
    drawn = set(
        re.findall(r'class="name">([a-z]+)<', (REPOSITORY / "docs/architecture.svg").read_text())
    )
    assert drawn == packages | {"libretto", "flows", "bench"}


def columns_of(heading: str) -> dict[str, str]:
    """Column → type of the first table below a heading of the page of file formats."""
    text = (REPOSITORY / "docs/reference/formats.md").read_text()
    section = text.split(f"\n{heading}\n", 1)[1]
    table = re.search(r"(?:^\|.*\n)+", section, re.MULTILINE)
    assert table
    columns = {}
    for line in table[0].splitlines()[2:]:
        names, kind = (cell.strip() for cell in line.strip("|").split("|")[:2])
        columns |= {name: kind for name in re.findall(r"`([a-z0-9_]+)`", names)}
    return columns


KINDS = {"str": "string", "int": "int64"}


def plain(schema: pa.Schema) -> dict[str, str]:
    kinds = {}
    for column in schema:
        if not pa.types.is_list(column.type):
            kinds[column.name] = {"double": "float64"}.get(str(column.type), str(column.type))
        elif pa.types.is_struct(column.type.value_type):
            kinds[column.name] = "list of struct"
        else:
            kinds[column.name] = f"list of {column.type.value_type}"
    return kinds


@pytest.mark.parametrize(
    ("heading", "columns"),
    [
        ("`manifest.parquet`: one row for each utterance, sorted by id.", Utterance),
        ("`index.parquet`: one row for each utterance in the order of the shards.", IndexEntry),
        ("`data/decode/<role>/<set>.parquet`: one row for each system and utterance.", SCHEMA),
        (
            "`data/score/utterances.parquet`: one row for each set, system and utterance.",
            UTTERANCES,
        ),
        ("| `part-000000.parquet`, … | one row for each recording of a shard |\n", PART_SCHEMA),
    ],
)
def test_the_columns_of_the_formats_page_are_those_of_the_files(heading: str, columns: Any) -> None:
    if isinstance(columns, pa.Schema):
        assert columns_of(heading) == plain(columns)
    else:
        assert columns_of(heading) == {
            field.name: KINDS[str(field.type)] for field in fields(columns)
        }


def test_the_columns_of_the_curve_are_those_of_its_file(tmp_path: Path) -> None:
    write_curve(tmp_path / "curve.csv", [dict.fromkeys(OPTIONAL_COLUMNS, 1)])
    columns = (tmp_path / "curve.csv").read_text().splitlines()[0].split(",")
    assert list(columns_of("`metrics/curve.csv` has one row for each optimiser step:")) == columns


@pytest.mark.parametrize("columns", [SPEAKER_COLUMNS, GROUP_COLUMNS])
def test_the_columns_of_the_tables_of_scores_are_named(columns: tuple[str, ...]) -> None:
    text = (REPOSITORY / "docs/reference/formats.md").read_text()
    assert set(columns) <= set(re.findall(r"`(\w+)`", text.split("`speakers.csv` and")[1]))


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_every_commit_that_a_page_names_is_in_the_history(page: Path) -> None:
    if git("rev-parse", "--is-shallow-repository").stdout.strip() != "false":
        pytest.skip("this copy has no complete history")
    names = re.findall(r"\b(?=\d*[a-f])(?=[a-f]*\d)[0-9a-f]{7}\b", page.read_text())
    assert not [name for name in names if not is_in_history(name)]


def is_in_history(commit: str) -> bool:
    return git("merge-base", "--is-ancestor", commit, "HEAD").returncode == 0


def git(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(["git", *arguments], cwd=REPOSITORY, capture_output=True, text=True)


def test_the_columns_of_the_rejects_are_named() -> None:
    text = (REPOSITORY / "docs/reference/formats.md").read_text()
    names = ", ".join(f"`{field.name}`" for field in fields(Reject)[:-1])
    assert f"columns {names} and `{fields(Reject)[-1].name}`" in text
