"""The page as a file: what it says, that two runs give one page, that no text of the data is
markup, and what stops the stage.
"""

from __future__ import annotations

import json
import re
import shutil
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from components.config.errors import InputError
from components.report.experiment import read_experiment
from components.report.page import json_block
from components.runtime.stage import RUNS
from components.shards.index import INDEX
from tests.report import finished
from tests.report.finished import CLEAN, EVIL, QUIET, ROLES, SYSTEMS, many, run, without_system


@pytest.fixture(autouse=True)
def house(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    finished.write()
    return tmp_path


class Page(HTMLParser):
    """Elements with their attributes, rows of tables as text, and the text of scripts by id."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.rows: list[list[str]] = []
        self.scripts: dict[str, str] = {}
        self.text = ""
        self._script, self._cell = "", False
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        self._script = dict(attrs).get("id") or "code" if tag == "script" else ""
        self._cell = self._cell or tag in ("td", "th")
        if tag == "tr":
            self.rows.append([])
        if tag in ("td", "th"):
            self.rows[-1].append("")

    def handle_endtag(self, tag: str) -> None:
        self._script = ""
        self._cell = self._cell and tag not in ("td", "th")

    def handle_data(self, data: str) -> None:
        if self._script:
            self.scripts[self._script] = self.scripts.get(self._script, "") + data
        else:
            self.text += data
        if self._cell:
            self.rows[-1][-1] += data


def data_of(page: str) -> dict[str, Any]:
    return json.loads(Page(page).scripts["data"])


def test_two_runs_give_one_page_that_names_no_machine_and_no_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = run()
    (RUNS / "train").mkdir(parents=True)
    record = {
        "stage": "train",
        "started": "2026-01-02T10:00:00Z",
        "seconds": 12.5,
        "host": "box-7",
        "revision": "abcdef",
        "dirty": True,
    }
    (RUNS / "train/one.json").write_text(json.dumps(record))
    records = Path("data/report/inputs.json").read_bytes()
    assert run() == first
    assert Path("data/report/inputs.json").read_bytes() == records
    timed = (RUNS / "report/index.html").read_text()
    assert "box-7" in timed and "12.5" in timed and "abcdef and changes" in timed
    assert "box-7" not in first
    other = tmp_path / "elsewhere"
    other.mkdir()
    monkeypatch.chdir(other)
    finished.write()
    assert run() == first
    assert str(tmp_path) not in first


def test_the_page_fetches_nothing_and_runs_its_own_script_alone() -> None:
    page = Page(run())
    for tag, attributes in page.elements:
        assert tag not in {"link", "img", "iframe", "object", "embed", "base"}, tag
        assert not {
            name
            for name in attributes
            if name.startswith("on") or name in ("src", "style", "srcset")
        }, (tag, attributes)
        assert (attributes.get("href") or "#").startswith("#")
    policy = next(
        attributes["content"]
        for tag, attributes in page.elements
        if "Policy" in str(attributes.get("http-equiv"))
    )
    assert policy and policy.startswith("default-src 'none';")
    assert "unsafe" not in policy and "http" not in policy
    assert "media-src blob: data:" in policy


def test_elements_have_one_id_each_and_labels_hold() -> None:
    page = Page(run())
    ids = Counter(attributes["id"] for _, attributes in page.elements if attributes.get("id"))
    assert set(ids.values()) == {1}
    for _, attributes in page.elements:
        for name in (attributes.get("aria-labelledby") or "").split():
            assert name in ids
        link = attributes.get("href") or ""
        assert link.split("?")[0].removeprefix("#") in {"", *ids}
    assert ("html", {"lang": "en"}) in page.elements


def test_texts_of_the_data_stay_texts() -> None:
    """A transcript, a speaker and a set that are written like markup."""
    finished.write({**ROLES, "test": {**ROLES["test"], "<s>x": CLEAN[:1]}})
    text = run()
    page = Page(text)
    assert not [tag for tag, _ in page.elements if tag in ("img", "i", "s")]
    held = {row[1]: row for row in data_of(text)["utterances"]}["c-4"]
    assert held[2] == "<i>eve</i>" and held[5] == EVIL and held[8][0][0] == EVIL
    assert "<s>x" in page.text


def test_a_block_of_json_holds_no_markup_and_reads_back() -> None:
    for text in (EVIL, "<!--<script>", "]]>", "\u2028 \u0000 ü"):
        block = str(json_block({"text": text}))
        assert not set(block) & set("<>&")
        assert json.loads(block) == {"text": text}
    with pytest.raises(ValueError):
        json_block(float("nan"))


@pytest.mark.parametrize("intervals", [True, False])
def test_every_rate_stands_in_the_table(intervals: bool) -> None:
    finished.write(intervals=intervals)
    page, scores = Page(run()), json.loads(Path("metrics/score.json").read_text())
    for name in ("dev", "clean", "noisy"):
        for system, own in scores[name].items():
            rows = [
                row
                for row in page.rows
                if system in row[:2]
                and f"{100 * own['wer']:.2f}" in row
                and str(own["words"]) in row
            ]
            assert rows, (name, system)
            assert not intervals or any(
                f"{100 * own['wer_low']:.2f} to {100 * own['wer_high']:.2f}" in row for row in rows
            )
    assert ("95 %" in page.text) == intervals
    assert ["quiet", "free", "33.33", "3", "12.50"] in page.rows
    assert ["clean", "free", "6", "0", "0", "0", "1"] in page.rows  # kinds of insertions


def test_the_perplexity_of_the_llm_alone_stands_by_set() -> None:
    scores = json.loads(Path("metrics/score.json").read_text())
    scores["clean"]["llm"] = {"perplexity": 31.5, "words": 20}
    Path("metrics/score.json").write_text(json.dumps(scores))
    page = Page(run())
    assert ["Set", "Perplexity", "Words"] in page.rows and ["clean", "31.50", "20"] in page.rows


def test_insertions_are_a_table_whose_cells_lead_to_the_utterances() -> None:
    page = Page(run())
    links = {
        attributes["aria-label"]: attributes
        for tag, attributes in page.elements
        if tag == "a" and "aria-label" in attributes
    }
    own = json.loads(Path("metrics/score.json").read_text())["clean"]["free"]
    label = f"{100 * own['insertions'] / own['words']:.2f}, clean, free"
    assert links[label]["href"] == "#errors?set=clean&first=free&kind=insertion"
    assert links["33.33, quiet, ctc"]["href"] == "#errors?set=quiet&first=ctc&kind=text"
    assert "signal-to-noise ratio 5 dB" in page.text


def test_curves_show_the_jump_and_conditions_beside_what_they_were_made_of() -> None:
    page = Page(run())
    assert "jump at 60" in page.text
    titles = [
        title
        for title in (
            "Loss in training",
            "Word error rate on dev in training, greedy search",
            "Word error rate over signal-to-noise ratio (clean)",
            "Word error rate by duration (clean)",
        )
        if title in page.text
    ]
    assert len(titles) == 4
    rows = [row[:3] for row in page.rows if row[:1] in (["5"], ["clean"])]
    assert ["5", "noisy", "free"] in rows and ["clean", "clean", "free"] in rows
    assert "by duration (noisy)" not in page.text


def test_an_altered_set_of_some_utterances_stands_beside_the_same_ones_unaltered(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The set that it was made of is the one it names; an altered utterance's id ends with the
    condition.
    """
    noisy = [replace(each, id=f"{each.id}-snr-5") for each in CLEAN[:1]]
    altered = {
        "kind": "altered",
        "source": {"kind": "made", "split": "test", "utterances": 1},
        "name": "clean",
        "snr_db": 5,
    }
    monkeypatch.setitem(finished.CORPUS["test"], "noisy", altered)
    finished.write({**ROLES, "test": {"clean": CLEAN, "noisy": noisy}})
    rows = [row for row in Page(run()).rows if row[1:3] == ["clean", "free"] and row[0] == "clean"]
    assert rows == [
        ["clean", "clean", "free", "50.00"]
    ]  # 3 errors in the first utterance's 6 words


@pytest.mark.parametrize("curve", [[], [(2.0, 0.4)] * 50])
def test_a_training_without_steps_or_without_a_jump(curve: list[tuple[float, float]]) -> None:
    finished.write(curve=curve)
    page = Page(run())
    assert "jump at" not in page.text
    assert ("Loss in training" in page.text) == bool(curve)


def test_parameters_and_ancestry_of_every_artifact() -> None:
    page = Page(run())
    for path in (
        "data/score",
        "data/decode",
        "models/bridge",
        "models/encoder",
        "data/shards/test",
        "data/corpus/train",
    ):
        assert path in page.text
    for text in (
        "sets.free.beams",
        "curriculum.0.name",
        "text_form",
        "decode.test/clean.parquet",
        "ab" * 8,
        "numpy",
    ):
        assert text in page.text
    assert "ab" * 9 not in page.text


def test_the_worst_utterances_come_first_and_bring_their_audio() -> None:
    data = data_of(run(clips=2))
    damage = [sum(sum(said[3:6]) for said in row[8] if said) for row in data["utterances"]]
    assert damage == sorted(damage, reverse=True) and len(damage) == sum(
        len(heard) for sets in ROLES.values() for heard in sets.values()
    )
    assert [row[7] for row in data["utterances"]] == [0, 1] + [-1] * (len(damage) - 2)
    for report in ({"megabytes": 0.0}, {"clips": 0}):
        page = run(**{"clips": 60, **report})
        assert {row[7] for row in data_of(page)["utterances"]} == {-1}
        assert "clip-0" not in Page(page).scripts


def test_a_clip_over_the_budget_makes_room_for_the_next() -> None:
    sizes = {
        entry: size
        for entry, size in zip(
            *(
                pq.read_table("data/shards/test/clean/index.parquet")[name].to_pylist()
                for name in ("id", "size")
            )
        )
    }
    worst = data_of(run())["utterances"][0]
    assert worst[1] == "c-4" and worst[7] == 0
    data = data_of(run(megabytes=(sizes["c-4"] - 1) / 1_000_000, clips=60))
    clips = [row[7] for row in data["utterances"]]
    assert clips[0] == -1 and max(clips) >= 0


def test_what_is_right_everywhere_brings_no_audio() -> None:
    right = {row[1]: row[7] for row in data_of(run())["utterances"]}
    assert right["c-5"] == right["q-2"] == -1 and right["c-1"] >= 0


def gone(shards: Path) -> None:
    next(shards.glob("clean/*.tar")).unlink()


def other(shards: Path) -> None:
    finished.shards("test", {"clean": CLEAN[:3], "noisy": CLEAN[:2]})


def torn(shards: Path) -> None:
    tar = next(shards.glob("clean/*.tar"))
    tar.write_bytes(tar.read_bytes().replace(b"fLaC", b"fLaX"))


def no_record(shards: Path) -> None:
    (shards / "inputs.json").unlink()


@pytest.mark.parametrize(
    ("break_it", "says"),
    [
        (gone, r"clean-000000\.tar is gone; it holds utterance 'c-4'"),
        (other, r"data/shards/test/clean holds no utterance 'c-4', which was scored"),
        (torn, r"utterance 'c-4': no FLAC lies where the index says"),
        (no_record, r"data/shards/test is missing or not whole"),
        (lambda shards: (shards / "clean" / INDEX).unlink(), r"holds no utterance 'c-4'"),
    ],
)
def test_audio_that_is_not_there_stops_with_file_and_utterance(
    break_it: Callable[[Path], None], says: str
) -> None:
    break_it(Path("data/shards/test"))
    with pytest.raises(InputError, match=says):
        run()
    assert not Path("data/report/inputs.json").exists()


def test_a_set_without_utterances_is_named() -> None:
    """Whether the scores say nothing of it, or nothing but its name."""
    finished.write({**ROLES, "test": {"clean": CLEAN}})
    scores = json.loads(Path("metrics/score.json").read_text()) | {"nobody": {}}
    Path("metrics/score.json").write_text(json.dumps(scores))
    assert "Without any utterance, and so without a figure: nobody, noisy." in Page(run()).text


def test_no_utterances_at_all() -> None:
    finished.write({"dev": {"dev": []}})
    page = Page(run())
    assert (
        "There are no utterances to show." in page.text
        and json.loads(page.scripts["data"])["utterances"] == []
    )


def test_a_system_that_said_nothing_about_a_set() -> None:
    finished.write({**ROLES, "test": {"clean": CLEAN, "noisy": without_system(CLEAN[:2])}})
    data = data_of(run())
    silent = [row for row in data["utterances"] if data["sets"][row[0]] == "noisy"]
    assert len(silent) == 2 and all(
        row[8][SYSTEMS.index("ctc")] == 0 and row[8][0] for row in silent
    )


def test_a_run_without_hypotheses_has_no_other_texts() -> None:
    with_others = data_of(run())
    assert any(row[8][0][7] for row in with_others["utterances"]) and not any(
        row[8][2][7] for row in with_others["utterances"]
    )
    shutil.rmtree("data/decode/test")
    without = data_of(run())
    assert [row[:6] for row in without["utterances"]] == [
        row[:6] for row in with_others["utterances"]
    ]
    assert not any(
        row[8][0][7] for row in without["utterances"] if without["sets"][row[0]] == "clean"
    )


def test_a_huge_set_is_cut_to_its_worst() -> None:
    finished.write({"test": {"clean": many(300)}, "dev": {}, "nonspeech-test": {}})
    page = run(utterances=40)
    assert len(data_of(page)["utterances"]) == 40
    assert all(row[8][0][3] for row in data_of(page)["utterances"])
    assert "Of 300 utterances the 40 with most errors are here." in Page(page).text


def test_text_on_silence_counts_as_insertions() -> None:
    data = data_of(run())
    rows = {row[1]: row[8] for row in data["utterances"] if data["sets"][row[0]] == "quiet"}
    assert rows["q-1"][0][2:7] == ["II", 0, 0, 2, "text"]
    assert rows["q-2"][0][2:7] == ["", 0, 0, 0, ""]


@pytest.mark.parametrize(
    ("break_it", "says"),
    [
        (lambda: Path("metrics/score.json").unlink(), r"metrics/score\.json is missing.*dvc repro"),
        (lambda: Path("data/score/utterances.parquet").unlink(), r"utterances\.parquet is missing"),
        (lambda: rewrite("kind"), r"utterances\.parquet has no column 'kind'.*dvc repro -f score"),
        (
            lambda: Path("models/bridge/inputs.json").unlink(),
            r"models/bridge is missing or not whole",
        ),
        (lambda: twice(), r"'free' stands twice for utterance"),
        (lambda: in_form("clean", "whispr"), r"2 text forms: casefold, whispr"),
        (
            lambda: [in_form(name, "folded") for name in ("clean", "dev", "noisy")],
            r"No text form is called 'folded'",
        ),
    ],
)
def test_a_run_that_is_not_whole_stops_by_name(break_it: Callable[[], Any], says: str) -> None:
    break_it()
    with pytest.raises(InputError, match=says):
        run()


def rewrite(without: str) -> None:
    path = Path("data/score/utterances.parquet")
    pq.write_table(pq.read_table(path).drop_columns(without), path)


def twice() -> None:
    path = Path("data/score/utterances.parquet")
    table = pq.read_table(path)
    pq.write_table(table.from_batches([*table.to_batches(), *table.slice(0, 1).to_batches()]), path)


def in_form(name: str, form: str) -> None:
    scores = json.loads(Path("metrics/score.json").read_text())
    for own in scores[name].values():
        own["text_form"] = form
    Path("metrics/score.json").write_text(json.dumps(scores))


def test_systems_and_sets_come_in_the_order_of_the_hypotheses() -> None:
    """JSON has them by name."""
    read = read_experiment(Path("."))
    assert list(read.scores) == ["dev", "clean", "noisy", "quiet"]
    assert all(tuple(systems) == SYSTEMS for systems in read.scores.values())
    assert re.search(r"free.*constrained.*ctc", " ".join(data_of(run())["systems"]))
    assert len(QUIET) == sum(each.set == "quiet" for each in read.utterances)
