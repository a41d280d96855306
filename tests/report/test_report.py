"""The page as a file: its content, equal pages of equal runs, escaped texts, and refused runs."""

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

from components.report.experiment import read_experiment
from components.report.page import json_block
from components.report.tables import heat_maps, verdict_lines
from components.runtime.stage import RUNS
from components.shards.index import INDEX, NO_CHECKSUM, read_index, write_index
from tests.errors import refused
from tests.report import finished
from tests.report.finished import (
    CLEAN,
    MARKUP,
    NONSPEECH,
    ROLES,
    SYSTEMS,
    build_utterances,
    drop_last_system,
    run_report,
)


@pytest.fixture(autouse=True)
def workspace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    finished.write_run()
    return tmp_path


class ReportPage(HTMLParser):
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
    return json.loads(ReportPage(page).scripts["data"])


def test_two_runs_give_one_page_that_names_no_machine_and_no_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = run_report()
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
    assert run_report() == first
    assert Path("data/report/inputs.json").read_bytes() == records
    timed = (RUNS / "report/index.html").read_text()
    assert "box-7" in timed and "12.5" in timed and "abcdef and changes" in timed
    assert "box-7" not in first
    other = tmp_path / "elsewhere"
    other.mkdir()
    monkeypatch.chdir(other)
    finished.write_run()
    assert run_report() == first
    assert str(tmp_path) not in first


def test_the_page_fetches_nothing_and_runs_its_own_script_alone() -> None:
    page = ReportPage(run_report())
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


def test_ids_are_unique_and_labels_refer_to_them() -> None:
    page = ReportPage(run_report())
    ids = Counter(attributes["id"] for _, attributes in page.elements if attributes.get("id"))
    assert set(ids.values()) == {1}
    for _, attributes in page.elements:
        for name in (attributes.get("aria-labelledby") or "").split():
            assert name in ids
        link = attributes.get("href") or ""
        assert link.split("?")[0].removeprefix("#") in {"", *ids}
    assert ("html", {"lang": "en"}) in page.elements


def test_texts_of_the_data_stay_texts() -> None:
    """A transcript, a speaker and a set that look like markup."""
    finished.write_run({**ROLES, "test": {**ROLES["test"], "<s>x": CLEAN[:1]}})
    text = run_report()
    page = ReportPage(text)
    assert not [tag for tag, _ in page.elements if tag in ("img", "i", "s")]
    row = {row[1]: row for row in data_of(text)["utterances"]}["c-4"]
    assert row[2] == "<i>eve</i>" and row[5] == MARKUP and row[8][0][0] == MARKUP
    assert "<s>x" in page.text


def test_a_block_of_json_has_no_markup_and_can_be_parsed() -> None:
    for text in (MARKUP, "<!--<script>", "]]>", "\u2028 \u0000 ü"):
        block = str(json_block({"text": text}))
        assert not set(block) & set("<>&")
        assert json.loads(block) == {"text": text}
    with pytest.raises(ValueError):
        json_block(float("nan"))


@pytest.mark.parametrize("intervals", [True, False])
def test_every_rate_is_in_the_table(intervals: bool) -> None:
    finished.write_run(intervals=intervals)
    page, scores = ReportPage(run_report()), json.loads(Path("metrics/score.json").read_text())
    for name in ("dev", "clean", "noisy"):
        for system, figures in scores[name].items():
            rows = [
                row
                for row in page.rows
                if system in row[:2]
                and f"{100 * figures['wer']:.2f}" in row
                and str(figures["words"]) in row
            ]
            assert rows, (name, system)
            assert not intervals or any(
                f"{100 * figures['wer_low']:.2f} to {100 * figures['wer_high']:.2f}" in row
                for row in rows
            )
    assert ("95 %" in page.text) == intervals
    assert ["nonspeech", "free", "33.33", "3", "12.50"] in page.rows
    assert ["clean", "free", "6", "0", "0", "0", "1"] in page.rows  # kinds of insertions


def test_the_perplexity_of_the_llm_alone_is_in_a_table() -> None:
    scores = json.loads(Path("metrics/score.json").read_text())
    scores["clean"]["llm"] = {"perplexity": 31.5, "words": 20}
    Path("metrics/score.json").write_text(json.dumps(scores))
    page = ReportPage(run_report())
    assert ["Set", "Perplexity", "Words"] in page.rows and ["clean", "31.50", "20"] in page.rows


def test_cells_of_the_insertions_link_to_their_utterances() -> None:
    page = ReportPage(run_report())
    links = {
        attributes["aria-label"]: attributes
        for tag, attributes in page.elements
        if tag == "a" and "aria-label" in attributes
    }
    figures = json.loads(Path("metrics/score.json").read_text())["clean"]["free"]
    label = f"{100 * figures['insertions'] / figures['words']:.2f}, clean, free"
    assert links[label]["href"] == "#errors?set=clean&first=free&kind=insertion"
    assert links["33.33, nonspeech, ctc"]["href"] == "#errors?set=nonspeech&first=ctc&kind=text"
    assert "signal-to-noise ratio 5 dB" in page.text


def test_curves_have_the_jump_and_the_conditions_with_the_original_set() -> None:
    page = ReportPage(run_report())
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


def test_an_altered_set_is_compared_with_the_same_utterances_of_its_original(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The original is the set that it names; the id of an altered utterance ends with the
    condition.
    """
    noisy = [replace(utterance, id=f"{utterance.id}-snr-5") for utterance in CLEAN[:1]]
    altered = {
        "kind": "altered",
        "source": {"kind": "made", "split": "test", "utterances": 1},
        "name": "clean",
        "snr_db": 5,
    }
    monkeypatch.setitem(finished.CORPUS["test"], "noisy", altered)
    finished.write_run({**ROLES, "test": {"clean": CLEAN, "noisy": noisy}})
    rows = [
        row
        for row in ReportPage(run_report()).rows
        if row[1:3] == ["clean", "free"] and row[0] == "clean"
    ]
    assert rows == [
        ["clean", "clean", "free", "50.00"]
    ]  # 3 errors in the first utterance's 6 words


@pytest.mark.parametrize("curve", [[], [(2.0, 0.4)] * 50])
def test_a_training_without_steps_or_without_a_jump(curve: list[tuple[float, float]]) -> None:
    finished.write_run(curve=curve)
    page = ReportPage(run_report())
    assert "jump at" not in page.text
    assert ("Loss in training" in page.text) == bool(curve)


def test_parameters_and_inputs_of_every_artifact() -> None:
    page = ReportPage(run_report())
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


def test_the_utterances_with_most_errors_are_first_and_have_audio() -> None:
    data = data_of(run_report(clips=2))
    errors = [sum(sum(result[3:6]) for result in row[8] if result) for row in data["utterances"]]
    assert errors == sorted(errors, reverse=True)
    assert len(errors) == sum(
        len(utterances) for sets in ROLES.values() for utterances in sets.values()
    )
    assert [row[7] for row in data["utterances"]] == [0, 1] + [-1] * (len(errors) - 2)
    for report in ({"megabytes": 0.0}, {"clips": 0}):
        page = run_report(**{"clips": 60, **report})
        assert {row[7] for row in data_of(page)["utterances"]} == {-1}
        assert "clip-0" not in ReportPage(page).scripts


def test_a_clip_over_the_budget_is_skipped() -> None:
    sizes = {
        entry: size
        for entry, size in zip(
            *(
                pq.read_table("data/shards/test/clean/index.parquet")[name].to_pylist()
                for name in ("id", "size")
            )
        )
    }
    first = data_of(run_report())["utterances"][0]
    assert first[1] == "c-4" and first[7] == 0
    data = data_of(run_report(megabytes=(sizes["c-4"] - 1) / 1_000_000, clips=60))
    clips = [row[7] for row in data["utterances"]]
    assert clips[0] == -1 and max(clips) >= 0


def test_an_utterance_without_errors_has_no_audio() -> None:
    clips = {row[1]: row[7] for row in data_of(run_report())["utterances"]}
    assert clips["c-5"] == clips["q-2"] == -1 and clips["c-1"] >= 0


def remove_tar(shards: Path) -> None:
    next(shards.glob("clean/*.tar")).unlink()


def write_fewer_utterances(shards: Path) -> None:
    finished.write_shards("test", {"clean": CLEAN[:3], "noisy": CLEAN[:2]})


def overwrite_flac(shards: Path) -> None:
    tar = next(shards.glob("clean/*.tar"))
    tar.write_bytes(tar.read_bytes().replace(b"fLaC", b"fLaX"))


def overwrite_unchecked_flac(shards: Path) -> None:
    """As ``overwrite_flac``, beside an index that has no checksums."""
    overwrite_flac(shards)
    index = shards / "clean" / INDEX
    entries = [replace(entry, checksum=NO_CHECKSUM) for entry in read_index(index)]
    write_index(index, entries)


def remove_record(shards: Path) -> None:
    (shards / "inputs.json").unlink()


@pytest.mark.parametrize(
    ("damage", "subject", "names"),
    [
        (remove_tar, "c-4", ["clean-000000.tar"]),
        (write_fewer_utterances, "c-4", ["data/shards/test/clean"]),
        (overwrite_flac, "c-4", ["clean-000000.tar", INDEX]),
        (overwrite_unchecked_flac, "c-4", ["clean-000000.tar", "FLAC"]),
        (remove_record, "data/shards/test", []),
        (lambda shards: (shards / "clean" / INDEX).unlink(), "c-4", ["data/shards/test/clean"]),
    ],
)
def test_missing_audio_is_refused_with_file_and_utterance(
    damage: Callable[[Path], None], subject: str, names: list[str]
) -> None:
    damage(Path("data/shards/test"))
    with refused(subject, *names):
        run_report()
    assert not Path("data/report/inputs.json").exists()


def test_a_set_without_utterances_is_named() -> None:
    """Without an entry in the scores, and with an empty one."""
    finished.write_run({**ROLES, "test": {"clean": CLEAN}})
    scores = json.loads(Path("metrics/score.json").read_text()) | {"nobody": {}}
    Path("metrics/score.json").write_text(json.dumps(scores))
    assert "nobody, noisy." in ReportPage(run_report()).text


def test_no_utterances_at_all() -> None:
    finished.write_run({"dev": {"dev": []}})
    page = ReportPage(run_report())
    assert (
        "There are no utterances to show." in page.text
        and json.loads(page.scripts["data"])["utterances"] == []
    )


def test_a_system_without_texts_of_a_set() -> None:
    finished.write_run({**ROLES, "test": {"clean": CLEAN, "noisy": drop_last_system(CLEAN[:2])}})
    data = data_of(run_report())
    rows = [row for row in data["utterances"] if data["sets"][row[0]] == "noisy"]
    assert len(rows) == 2 and all(row[8][SYSTEMS.index("ctc")] == 0 and row[8][0] for row in rows)


def test_a_run_without_hypotheses_has_no_alternatives() -> None:
    complete = data_of(run_report())
    assert any(row[8][0][7] for row in complete["utterances"]) and not any(
        row[8][2][7] for row in complete["utterances"]
    )
    shutil.rmtree("data/decode/test")
    incomplete = data_of(run_report())
    assert [row[:6] for row in incomplete["utterances"]] == [
        row[:6] for row in complete["utterances"]
    ]
    assert not any(
        row[8][0][7] for row in incomplete["utterances"] if incomplete["sets"][row[0]] == "clean"
    )


def test_a_large_set_is_limited_to_the_utterances_with_most_errors() -> None:
    finished.write_run({"test": {"clean": build_utterances(300)}, "dev": {}, "nonspeech-test": {}})
    page = run_report(utterances=40)
    assert len(data_of(page)["utterances"]) == 40
    assert all(row[8][0][3] for row in data_of(page)["utterances"])
    assert re.search(r"\b40\b[^.]*\b300\b", ReportPage(page).text)


def test_text_on_nonspeech_counts_as_insertions() -> None:
    data = data_of(run_report())
    rows = {row[1]: row[8] for row in data["utterances"] if data["sets"][row[0]] == "nonspeech"}
    assert rows["q-1"][0][2:7] == ["II", 0, 0, 2, "text"]
    assert rows["q-2"][0][2:7] == ["", 0, 0, 0, ""]


@pytest.mark.parametrize(
    ("damage", "subject", "names"),
    [
        (lambda: Path("metrics/score.json").unlink(), ".", ["metrics/score.json"]),
        (lambda: Path("data/score/utterances.parquet").unlink(), ".", ["utterances.parquet"]),
        (lambda: drop_column("kind"), "data/score/utterances.parquet", ["'kind'"]),
        (lambda: Path("models/bridge/inputs.json").unlink(), "models/bridge", []),
        (lambda: duplicate_row(), "c-1", ["'free'", "dev"]),
        (lambda: set_text_form("clean", "whispr"), "text_form", ["casefold", "whispr"]),
        (
            lambda: [set_text_form(name, "folded") for name in ("clean", "dev", "noisy")],
            "score.text_form",
            ["'folded'"],
        ),
    ],
)
def test_an_incomplete_run_is_refused(
    damage: Callable[[], Any], subject: str, names: list[str]
) -> None:
    damage()
    with refused(subject, *names):
        run_report()


def drop_column(without: str) -> None:
    path = Path("data/score/utterances.parquet")
    pq.write_table(pq.read_table(path).drop_columns(without), path)


def duplicate_row() -> None:
    path = Path("data/score/utterances.parquet")
    table = pq.read_table(path)
    pq.write_table(table.from_batches([*table.to_batches(), *table.slice(0, 1).to_batches()]), path)


def set_text_form(name: str, form: str) -> None:
    scores = json.loads(Path("metrics/score.json").read_text())
    for figures in scores[name].values():
        figures["text_form"] = form
    Path("metrics/score.json").write_text(json.dumps(scores))


def test_systems_and_sets_come_in_the_order_of_the_hypotheses() -> None:
    """JSON has them in alphabetical order."""
    experiment = read_experiment(Path("."))
    assert list(experiment.scores) == ["dev", "clean", "noisy", "nonspeech"]
    assert all(tuple(systems) == SYSTEMS for systems in experiment.scores.values())
    assert re.search(r"free.*constrained.*ctc", " ".join(data_of(run_report())["systems"]))
    assert len(NONSPEECH) == sum(
        utterance.set == "nonspeech" for utterance in experiment.utterances
    )


def test_the_first_sentences_name_the_best_system_of_each_set() -> None:
    def speech(wer: float) -> dict[str, Any]:
        return {"wer": wer, "wer_low": wer / 2, "wer_high": 2 * wer, "words": 1000}

    scores = {
        "clean": {"free": speech(0.03), "constrained": speech(0.02), "ctc": speech(0.1)},
        "own": {"free": speech(0.03), "ctc": speech(0.01)},
        "noise": {"free": {"text_rate": 0.5}, "ctc": {"text_rate": 0.0}},
        "same": {"free": {"text_rate": 0.0}, "ctc": {"text_rate": 0.0}},
        "alone": {"llm": {"perplexity": 12.0}},
    }
    clean, own, noise, same = verdict_lines(scores)
    assert all(word in clean for word in ("clean", "constrained", "2.00", "1.00 to 4.00", "10.00"))
    assert "free" not in clean and "3.00" not in clean
    assert "ctc" in own and "1.00" in own and "CTC" not in own
    assert "0.00 % (ctc) to 50.00 % (free)" in noise
    assert "0.00" in same and "free" not in same
    page = ReportPage(run_report())
    figures = json.loads(Path("metrics/score.json").read_text())["clean"]
    best = min(figures, key=lambda system: figures[system]["wer"])
    assert f"clean: {best} has" in page.text


def test_the_pictures_of_the_intervals_have_an_axis() -> None:
    page = ReportPage(run_report())
    scores = json.loads(Path("metrics/score.json").read_text())
    most = max(
        figures["wer_high"]
        for systems in scores.values()
        for figures in systems.values()
        if "wer_high" in figures
    )
    assert f"{100 * most:.2f} %" in page.text


def test_small_rates_of_insertions_have_tones_of_their_own() -> None:
    scores = {
        f"set {count}": {"free": {"insertions": count, "words": 10_000}}
        for count in (0, 3, 20, 50, 200, 400)
    }
    [heat_map] = heat_maps(scores, {})
    assert [cells[0].level for _, _, cells in heat_map.rows if cells[0]] == [0, 1, 2, 3, 4, 5]
