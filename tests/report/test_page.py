"""The page in a headless browser: filters, sorting, playback, keyboard, a phone, dark mode."""

from __future__ import annotations

import re
import shutil
import struct
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import REPOSITORY
from tests.report import finished
from tests.report.finished import (
    CLEAN,
    MARKUP,
    NONSPEECH,
    ROLES,
    build_utterances,
    drop_last_system,
    run_report,
)

pytestmark = pytest.mark.slow
OVERFLOW = "document.documentElement.scrollWidth - window.innerWidth"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Pages of three runs: a few utterances, 10,000 utterances, and a system without texts of a
    set.
    """
    root = tmp_path_factory.mktemp("page")
    with pytest.MonkeyPatch.context() as patch:
        for name, roles in (
            ("few", ROLES),
            (
                "many",
                {"test": {"clean": build_utterances(10_000)}, "dev": {}, "nonspeech-test": {}},
            ),
            (
                "silent",
                {
                    "test": {"clean": CLEAN, "noisy": drop_last_system(CLEAN)},
                    "dev": {},
                    "nonspeech-test": {},
                },
            ),
        ):
            (root / name).mkdir()
            patch.chdir(root / name)
            finished.write_run(roles, audio=name == "few")
            if name != "few":
                for role in ROLES:
                    finished.write_shards(role, {})
            run_report(clips=60 if name == "few" else 0)
    return root


@pytest.fixture
def opened(chromium: Any, folder: Path) -> Iterator[Callable[..., Any]]:
    """Opens the page; afterwards nothing was fetched and the console is empty."""
    contexts, messages, urls = [], [], []

    def open_page(name: str = "few", **options: Any) -> Any:
        contexts.append(
            chromium.new_context(**{"viewport": {"width": 1200, "height": 900}, **options})
        )
        page = contexts[-1].new_page()
        page.set_default_timeout(60_000)
        page.on("console", lambda message: messages.append(message.text))
        page.on("pageerror", lambda error: messages.append(str(error)))
        page.on("request", lambda request: urls.append(request.url))
        page.goto((folder / name / "data/report/index.html").as_uri())
        return page

    yield open_page
    for context in contexts:
        context.close()
    assert messages == []
    assert [url for url in urls if not url.startswith(("file:", "data:", "blob:"))] == []


def ids(page: Any) -> list[str]:
    return page.locator("#list > li h3").all_inner_texts()


def item(page: Any, name: str) -> Any:
    return page.locator(
        "#list > li", has=page.locator("h3", has_text=re.compile(f"^{name}$"))
    ).first


def until(page: Any, condition: str) -> None:
    """Waits for an expression; playwright's own way evaluates a string inside the page, which the
    page's policy forbids.
    """
    end = time.monotonic() + 60
    while not page.evaluate(condition):
        assert time.monotonic() < end, f"never: {condition}"
        page.wait_for_timeout(50)


def test_it_opens_with_most_errors_first(opened: Callable[..., Any]) -> None:
    page = opened()
    assert ids(page)[0] == "c-4" and len(ids(page)) == 13
    assert page.locator("#status").inner_text() == "1 to 13 of 13 utterances."
    assert page.locator("html").get_attribute("lang") == "en"


def test_texts_like_markup_stay_texts(opened: Callable[..., Any]) -> None:
    page = opened()
    raw = item(page, "c-4").locator("details.raw")
    raw.locator("summary").click()
    assert raw.locator("dd").first.inner_text() == MARKUP
    assert page.evaluate(
        "window.broken === undefined && document.images.length === 0 && "
        "document.querySelectorAll('main i').length === 0"
    )
    page.locator("#f-text").fill(MARKUP[:30])
    until(page, "document.querySelectorAll('#list > li').length === 1")
    assert page.evaluate("document.images.length") == 0


def test_words_are_aligned(opened: Callable[..., Any]) -> None:
    page = opened()
    page.locator("#f-set").select_option(label="clean (5)")
    rows = item(page, "c-1").locator("table").first.locator("tr")
    assert [cell for cell in rows.nth(0).locator("th, td").all_inner_texts() if cell] == [
        "reference",
        *CLEAN[0].reference.split(),
    ]
    assert rows.nth(1).locator("td").all_inner_texts() == [
        "the",
        "batS",
        "sat",
        "–D",
        "the",
        "mat",
        "todayI",
    ]
    assert rows.nth(1).locator("span").evaluate_all(
        "nodes => nodes.map((node) => [node.className, node.title])"
    ) == [["S", "substituted"], ["D", "deleted"], ["I", "inserted"]]
    colours = (
        rows.nth(1)
        .locator("span")
        .evaluate_all("nodes => nodes.map((node) => getComputedStyle(node).backgroundColor)")
    )
    assert len(set(colours)) == 3


@pytest.mark.parametrize(
    ("kind", "system", "expected"),
    [
        ("any", "", {"c-1", "c-2", "c-3", "c-4", "q-1", "q-3"}),
        ("any", "constrained", {"c-2", "c-4"}),
        ("substitution", "free", {"c-1"}),
        ("deletion", "free", {"c-1"}),
        ("deletion", "", {"c-1", "c-2", "c-3", "c-4"}),
        ("insertion", "free", {"c-1", "c-3", "q-1"}),
        ("loop", "", {"c-3"}),
        ("loop", "ctc", set()),
        ("other", "", {"c-1"}),
        ("echo", "", set()),
        ("text", "", {"q-1", "q-3"}),
        ("text", "free", {"q-1"}),
    ],
)
def test_filters_by_kind_and_system(
    opened: Callable[..., Any], kind: str, system: str, expected: set[str]
) -> None:
    page = opened()
    page.locator("#f-kind").select_option(kind)
    page.locator("#f-first").select_option(label=system or "any system shown")
    assert set(ids(page)) == expected
    assert ("No utterance fits" in page.locator("#status").inner_text()) == (not expected)


def test_filters_by_set_text_audio_and_systems(opened: Callable[..., Any]) -> None:
    page = opened()
    page.locator("#f-set").select_option(label="nonspeech (3)")
    assert set(ids(page)) == {utterance.id for utterance in NONSPEECH}
    page.locator("#f-audio").check()
    assert set(ids(page)) == {"q-1", "q-3"}
    page.locator("#f-systems input").nth(0).uncheck()
    assert item(page, "q-3").locator("tbody tr").count() == 3
    page.locator("#f-kind").select_option("text")
    assert set(ids(page)) == {"q-3"}, "hidden systems do not count"
    page.locator("#f-audio").uncheck()
    page.locator("#f-kind").select_option("")
    page.locator("#f-set").select_option("")
    page.locator("#f-text").fill("MOURNING")
    until(page, "document.querySelectorAll('#list > li').length === 3")
    assert set(ids(page)) == {"c-2"}


def test_sorting(opened: Callable[..., Any]) -> None:
    page = opened()
    page.locator("#f-set").select_option(label="clean (5)")
    page.locator("#f-sort").select_option("seconds")
    assert ids(page)[:2] == ["c-4", "c-1"]
    page.locator("#f-sort").select_option("id")
    assert ids(page) == [utterance.id for utterance in CLEAN]
    page.locator("#f-first").select_option(label="free")
    page.locator("#f-second").select_option(label="ctc")
    page.locator("#f-sort").select_option("worse")
    assert ids(page)[0] == "c-3" and ids(page)[-1] == "c-4"
    page.locator("#f-sort").select_option("better")
    assert ids(page)[0] == "c-4" and ids(page)[-1] == "c-3"
    page.locator("#f-sort").select_option("errors")
    assert ids(page)[0] == "c-3"


def test_utterances_without_a_text_of_the_compared_system_are_last(
    opened: Callable[..., Any],
) -> None:
    page = opened("silent")
    facts = "document.querySelectorAll('#list > li > .head:first-child .facts:nth-child(2)')"
    sets = f"[...{facts}].map((node) => node.textContent.split(' ')[0])"
    for system in ("any system shown", "free"):
        page.locator("#f-first").select_option(label=system)
        page.locator("#f-second").select_option(label="ctc")
        for order in ("worse", "better"):
            page.locator("#f-sort").select_option(order)
            assert page.evaluate(sets) == ["clean"] * 5 + ["noisy"] * 5, (system, order)


def test_a_mean_is_over_the_systems_with_a_text(opened: Callable[..., Any]) -> None:
    """c-3: free has 6 errors, constrained none, ctc 1 on clean and no text on noisy; so 7 / 3 and 6
    / 2 more than constrained's none.
    """
    page = opened("silent")
    page.locator("#f-text").fill("c-3")
    until(page, "document.querySelectorAll('#list > li').length === 2")
    page.locator("#f-second").select_option(label="constrained")
    page.locator("#f-sort").select_option("worse")
    assert ["noisy" in text for text in page.locator("#list > li").all_inner_texts()] == [
        True,
        False,
    ]


def test_audio_plays_and_only_one_at_a_time(opened: Callable[..., Any]) -> None:
    page = opened()
    assert item(page, "c-5").get_by_role("button").count() == 0
    assert "audio is not in this page" in item(page, "c-5").inner_text()
    page.locator("#f-set").select_option(label="clean (5)")
    first, second = item(page, "c-1"), item(page, "c-4")
    second.get_by_role("button", name="Play c-4").click()
    until(
        page, "document.querySelector('audio') && document.querySelector('audio').currentTime > 0.1"
    )
    assert second.locator("audio").evaluate("node => [node.duration, node.src.slice(0, 5)]") == [
        pytest.approx(2.0, abs=0.02),
        "blob:",
    ]
    first.get_by_role("button").click()
    assert second.locator("audio").evaluate("node => node.paused")
    until(
        page,
        "[...document.querySelectorAll('audio')].some((node) => Math.abs(node.duration - 1.25) "
        "< 0.02)",
    )


def test_everything_works_by_keyboard(opened: Callable[..., Any]) -> None:
    page = opened()
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.textContent").startswith("Skip")
    page.keyboard.press("Tab")
    page.keyboard.press("Enter")
    assert page.evaluate("document.activeElement.id") == "errors"
    focused = (
        "document.activeElement.querySelector('h3') && "
        "document.activeElement.querySelector('h3').textContent"
    )
    names = ids(page)
    page.keyboard.press("j")
    assert page.evaluate(focused) == names[0]
    page.keyboard.press("j")
    page.keyboard.press("ArrowDown")
    assert page.evaluate(focused) == names[2]
    page.keyboard.press("k")
    page.keyboard.press("ArrowUp")
    assert page.evaluate(focused) == names[0]
    page.keyboard.press("Enter")
    until(
        page, "document.querySelector('audio') && document.querySelector('audio').currentTime > 0.1"
    )
    page.keyboard.press(" ")
    until(page, "document.querySelector('audio').paused")
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.tagName") == "BUTTON"
    page.keyboard.press("/")
    page.keyboard.type("jp n")
    assert page.locator("#f-text").input_value() == "jp n", "keys in a field are text"
    outline = page.locator("#f-text").evaluate("node => getComputedStyle(node).outlineStyle")
    assert outline != "none"


def test_pages_by_keyboard(opened: Callable[..., Any]) -> None:
    page = opened("many")
    assert page.locator("#status").inner_text() == "1 to 20 of 10000 utterances."
    assert page.locator("#list > li").count() == 20
    page.keyboard.press("n")
    assert page.locator("#page-number").inner_text() == "page 2 of 500"
    second = ids(page)
    page.keyboard.press("k")
    assert page.locator("#page-number").inner_text() == "page 1 of 500"
    page.keyboard.press("j")
    assert ids(page) == second
    page.locator("#previous").click()
    assert page.locator("#previous").is_disabled()
    page.locator("#f-text").fill("u-07777")
    until(page, "document.querySelectorAll('#list > li').length === 1")
    assert (
        ids(page) == ["u-07777"]
        and page.locator("#status").inner_text() == "1 to 1 of 1 utterance (of 10000)."
    )


def test_a_cell_of_the_table_links_to_its_utterances(opened: Callable[..., Any]) -> None:
    page = opened()
    page.locator(".heat a", has_text="33.33").first.click()
    until(page, "document.querySelectorAll('#list > li').length === 1")
    assert ids(page) == ["q-1"]
    assert [page.locator(f"#f-{name}").input_value() for name in ("kind", "first")] == ["text", "0"]
    page.locator("#f-first").select_option(label="ctc")
    assert ids(page) == ["q-3"] and "first=ctc" in page.url
    page.reload()
    assert ids(page) == ["q-3"], "the address keeps the filters"


def test_a_cell_works_again_and_resets_the_filter_by_audio(
    opened: Callable[..., Any],
) -> None:
    page = opened()
    cell = page.locator(".heat a", has_text="33.33").first
    for _ in range(2):
        cell.click()
        until(page, "document.activeElement.id === 'errors'")
        assert ids(page) == ["q-1"]
        page.evaluate("document.activeElement.blur()")
    page.locator("#f-audio").check()
    cell.click()
    until(page, "!document.querySelector('#f-audio').checked")


def test_an_address_with_unknown_values_shows_all(opened: Callable[..., Any]) -> None:
    page = opened()
    page.evaluate("location.hash = '#errors?sort=foo&kind=bar&set=none&first=none&second=none'")
    until(page, "document.activeElement.id === 'errors'")
    assert len(ids(page)) == 13
    assert [
        page.locator(f"#f-{name}").input_value()
        for name in ("sort", "kind", "set", "first", "second")
    ] == ["errors", "", "", "", "1"]


def test_the_n_best_list(opened: Callable[..., Any]) -> None:
    raw = item(opened(), "c-1").locator("details.raw")
    raw.locator("summary").click()
    raw.locator("ol").wait_for()
    alternatives = raw.locator("ol li").all_inner_texts()
    assert alternatives == [f"{CLEAN[0].texts[0]} maybe -2.50", "no text"]


@pytest.mark.parametrize("name", ["few", "many"])
def test_a_phone_never_scrolls_sideways(opened: Callable[..., Any], name: str) -> None:
    page = opened(name, viewport={"width": 375, "height": 740})
    assert page.evaluate(OVERFLOW) <= 0
    page.evaluate("for (const node of document.querySelectorAll('details')) node.open = true")
    until(
        page,
        "[...document.querySelectorAll('details.raw')].every((node) => node.querySelector('dl'))",
    )
    assert page.evaluate(OVERFLOW) <= 0
    lines = item(page, "c-1" if name == "few" else ids(page)[0]).locator("table")
    assert lines.count() > 1, "long utterances have several lines"
    assert all(
        lines.nth(number).evaluate("node => node.scrollWidth <= window.innerWidth")
        for number in range(lines.count())
    )


def test_words_wider_than_a_phone_scroll_by_keyboard(
    opened: Callable[..., Any],
) -> None:
    page = opened(viewport={"width": 375, "height": 740})
    boxes = page.locator(".aligned").evaluate_all(
        "nodes => nodes.map((box) => [box.scrollWidth > box.clientWidth, box.tabIndex === 0])"
    )
    assert {is_wide for is_wide, _ in boxes} == {True, False}
    assert all(is_wide == has_focus for is_wide, has_focus in boxes)
    box = page.locator(".aligned[tabindex]").first
    assert box.get_attribute("role") == "region" and box.get_attribute("aria-label")
    box.focus()
    page.keyboard.press("ArrowRight")
    until(page, "document.activeElement.scrollLeft > 0")


def test_dark_mode_has_its_own_colours(opened: Callable[..., Any]) -> None:
    shades = {}
    for scheme in ("light", "dark"):
        page = opened(color_scheme=scheme)
        shades[scheme] = page.evaluate(
            "['backgroundColor', 'color'].map((name) => "
            "Math.max(...getComputedStyle(document.body)[name]"
            ".match(/[0-9]+/g).slice(0, 3).map(Number)))"
        )
    assert shades["light"][0] > 200 > 80 > shades["light"][1]
    assert shades["dark"][0] < 80 < 200 < shades["dark"][1]


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_every_level_of_the_heat_map_has_contrast(opened: Callable[..., Any], scheme: str) -> None:
    """WCAG 2, level AA: 4.5 to 1."""
    page = opened(color_scheme=scheme)
    for level in range(1, 6):
        cell = page.locator(".heat td").first
        cell.evaluate("(node, level) => { node.className = `n h${level}`; }", level)
        colours = cell.evaluate(
            "node => [getComputedStyle(node).color, getComputedStyle(node).backgroundColor]"
        )
        dark, light = sorted(map(luminance, colours))
        assert (light + 0.05) / (dark + 0.05) >= 4.5, level


def luminance(colour: str) -> float:
    """Relative luminance of ``rgb(r, g, b)``, from 0 to 1."""
    shares = [int(level) / 255 for level in re.findall(r"\d+", colour)]
    red, green, blue = (
        share / 12.92 if share <= 0.04045 else ((share + 0.055) / 1.055) ** 2.4 for share in shares
    )
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue


def test_nothing_but_the_page_s_own_script_runs(chromium: Any, folder: Path) -> None:
    """The policy blocks a script and a handler that get into the page, in case escaping fails."""
    context = chromium.new_context()
    page = context.new_page()
    page.goto((folder / "few/data/report/index.html").as_uri())
    page.evaluate("""() => {
        const script = document.createElement("script");
        script.textContent = "window.broken = 1";
        document.body.append(script);
        const button = document.createElement("button");
        button.setAttribute("onclick", "window.broken = 2");
        document.body.append(button);
        button.click();
    }""")
    assert page.evaluate("window.broken === undefined")
    context.close()


def test_the_picture_for_the_readme(folder: Path, tmp_path: Path) -> None:
    if not (shutil.which("chromium") or shutil.which("chromium-browser")):
        pytest.skip("the package chromium is not installed: apt-get install chromium")
    picture = tmp_path / "report.png"
    command = [sys.executable, REPOSITORY / "docs/screenshot.py"]
    subprocess.run([*command, folder / "few/data/report/index.html", picture], check=True)
    header = picture.read_bytes()[:24]
    assert header.startswith(b"\x89PNG")
    width, height = struct.unpack(">II", header[16:])
    assert width == 1200 and 500 < height < 3000
    missing = subprocess.run([*command, folder / "nowhere.html", picture], capture_output=True)
    assert missing.returncode == 1 and b"nowhere.html" in missing.stderr


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_the_levels_of_the_heat_map_differ(opened: Callable[..., Any], scheme: str) -> None:
    """From each other, and the lowest one from the page."""
    page = opened(color_scheme=scheme)
    cell = page.locator(".heat td").first
    tones = [page.evaluate("getComputedStyle(document.body).backgroundColor")]
    for level in range(1, 6):
        cell.evaluate("(node, level) => { node.className = `n h${level}`; }", level)
        tones.append(cell.evaluate("node => getComputedStyle(node).backgroundColor"))
    levels = [luminance(tone) + 0.05 for tone in tones]
    for one, other in pairwise(levels):
        assert max(one, other) / min(one, other) >= 1.12


def test_a_phone_shows_that_a_table_goes_on_and_cuts_no_filter(
    opened: Callable[..., Any],
) -> None:
    page = opened(viewport={"width": 390, "height": 844})
    wide = [
        box
        for box in page.locator(".box").all()
        if box.evaluate("node => node.scrollWidth > node.clientWidth + 1")
    ]
    assert wide
    for box in wide:
        shade = box.evaluate("node => getComputedStyle(node).backgroundAttachment")
        assert {"local", "scroll"} <= set(shade.split(", "))
    for control in page.locator("#filters select, #filters input[type=search]").all():
        assert control.evaluate("node => node.clientWidth") > 250
