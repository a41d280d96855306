"""The training curves of two experiments in one chart of ``dvc plots``, on a page that needs no
server.
"""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
import yaml

from components.config.errors import InputError
from flows import comparison, experiments, plots

from .conftest import ROOT, Project

pytestmark = pytest.mark.slow

# A curve that jumps at a step of params.yaml; at 0 nothing was trained.
TRAIN = """
import yaml
from pathlib import Path
from components.train.curve import COLUMNS
from components.train.emergence import write_summary
jump = yaml.safe_load(open("params.yaml"))["jump"]
Path("metrics").mkdir(exist_ok=True)
rows = [f"{step},one,{step / 50},36,1.0,0.0,{0.3 if step < jump else 0.9},"
        f"{0.5 if step == 99 else ''}"
        for step in range(100 if jump else 0)]
header = ",".join(COLUMNS)
Path("metrics/curve.csv").write_text("\\n".join([header, *rows]) + "\\n")
write_summary(Path("metrics/curve.csv"), Path("metrics/train.json"))
Path("metrics/score.json").write_text('{"test": {"free": {"wer": 0.5}}}')
"""
STAGE = yaml.safe_load((ROOT / "dvc.yaml").read_text())["stages"]["train"]
SCORE = {"metrics/score.json": {"cache": False}}
STAGES = {
    "train": {
        "cmd": "python train.py",
        "params": ["jump"],
        "metrics": [*STAGE["metrics"], SCORE],
        "plots": STAGE["plots"],
    }
}
NO_PROXY = "http://127.0.0.1:9"  # a proxy that does not answer


class PlotPage(HTMLParser):
    """Addresses that a page requests, and its scripts."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.addresses: list[str] = []
        self.scripts: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.addresses += [
            value or ""
            for name, value in attrs
            if name in ("src", "href", "srcset", "data", "action", "content")
        ]

    def handle_data(self, data: str) -> None:
        if self.lasttag == "script" and data.strip():
            self.scripts.append(data)

    def charts(self) -> list[dict[str, Any]]:
        matches = (
            re.search(r"var spec = (\{.*\});\s*vegaEmbed\(", script, re.DOTALL)
            for script in self.scripts
        )
        return [json.loads(match[1]) for match in matches if match]


def dvc(*arguments: str) -> str:
    return subprocess.run(
        [sys.executable, "-m", "dvc", *arguments], capture_output=True, text=True, check=True
    ).stdout


@pytest.fixture
def recorded(project: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    """A workspace with a run, and the experiments ``early``, ``late`` and ``released``;
    no network.
    """
    for name in ("http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY", "all_proxy"):
        monkeypatch.setenv(name, NO_PROXY)
    folder = project(STAGES)
    (folder / "train.py").write_text(TRAIN)
    (folder / "params.yaml").write_text("jump: 50\n")
    (folder / ".gitignore").write_text("/metrics/curve.csv\n/dvc_plots\n/.dvc/plots.html\n")
    dvc("repro")
    for command in ("git add -A", "git commit -qm run"):
        subprocess.run(command.split(), check=True)
    for name, jump in {"early": 30, "late": 70, "released": 0}.items():
        dvc("exp", "run", "-S", f"jump={jump}", "-n", name)


def test_both_experiments_are_in_one_chart_without_a_network(recorded: None) -> None:
    import vl_convert

    plots.install()
    for command, revisions in (
        (("show",), {"workspace"}),
        (("diff", "early", "late"), {"early", "late"}),
    ):
        dvc("plots", *command)
        page = PlotPage(Path("dvc_plots/index.html").read_text())
        assert page.addresses == []
        assert "vegaEmbed" in page.scripts[0] and len(page.scripts[0]) > 500_000, (
            "the library itself"
        )
        (chart,) = page.charts()
        if command == ("show",):
            continue  # of the workspace, where the released projector was last
        drawn = vl_convert.vegalite_to_svg(chart, vl_version=plots.VEGA_LITE, allowed_base_urls=[])
        words = set(re.findall(r">([^<>]+)</text>", drawn))
        assert {*revisions, "Accuracy of the next token in training", "optimiser step"} <= words
        lines = set(
            re.findall(
                r'aria-roledescription="line mark"[^>]* d="([^"]+)"[^>]*stroke="([^"]+)"', drawn
            )
        )
        assert len({color for _, color in lines}) == len({path for path, _ in lines}) == 2, (
            "a line each, in a colour of its own"
        )


def test_loss_and_word_errors_on_dev_are_drawn_too(recorded: None) -> None:
    """Steps without a word error rate have no point: an empty cell is no zero."""
    import vl_convert

    dvc("exp", "apply", "early")
    dag = yaml.safe_load(Path("dvc.yaml").read_text())
    dag["plots"] = yaml.safe_load((ROOT / "dvc.yaml").read_text())["plots"]
    Path("dvc.yaml").write_text(yaml.safe_dump(dag))
    shutil.copytree(ROOT / ".dvc/plots", ".dvc/plots")
    plots.install()
    dvc("plots", "show")
    charts = PlotPage(Path("dvc_plots/index.html").read_text()).charts()
    by_title = {chart["title"]["text"]: chart for chart in charts}
    assert len(by_title) == 3
    for title, num_points in (("Loss in training", 0), ("Word error rate on dev in training", 1)):
        drawn = vl_convert.vegalite_to_svg(
            by_title[title], vl_version=plots.VEGA_LITE, allowed_base_urls=[]
        )
        assert drawn.count('aria-roledescription="point"') == num_points


def test_metrics_and_comparison_have_the_step_of_the_jump(recorded: None) -> None:
    shown = json.loads(dvc("exp", "show", "--json"))
    (baseline,) = [entry for entry in shown if entry["rev"] != "workspace"]
    assert baseline["data"]["metrics"]["metrics/train.json"]["data"]["jump"]["step"] == 50
    rows, failed = comparison.build_table(["early", "late", "released"], experiments.list_results())
    assert not failed
    assert [row.get("jump at step") for row in rows] == ["30", "70", None]
    dvc("exp", "apply", "early")
    assert "jump.step" in dvc("metrics", "show")


def test_outside_a_repository_nothing_is_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InputError) as caught:
        plots.install()
    assert caught.value.subject == str(tmp_path / ".dvc")
    assert caught.value.hint
    assert not list(tmp_path.iterdir())
