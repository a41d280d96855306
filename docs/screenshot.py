"""A picture of the top of a report page, for the README.

``python docs/screenshot.py REPORT_INDEX_HTML OUT_PNG``: title, error rates and the first row of
charts, at a width of 1,200 pixels. Needs the extra ``dev`` (playwright) and the system's Chromium
(``apt-get install chromium``); nothing is downloaded. Takes a few seconds.
"""

from __future__ import annotations

import argparse
import shutil
import sys
from pathlib import Path

WIDTH = 1200  # CSS pixels, of which the page uses at most 1,120
MARGIN = 16  # CSS pixels below the last chart
MAX_BYTES = 300_000  # of the picture, so that the README loads fast
SWITCHES = ["--no-sandbox", "--disable-gpu", "--disable-background-networking"]
# Bottom of the first row of charts, or of the tables if there is no chart, in CSS pixels.
BOTTOM = """() => {
    const charts = [...document.querySelectorAll("#curves figure")];
    const parts = charts.length ? charts : [document.getElementById("rates")];
    const top = parts[0].getBoundingClientRect().top;
    const row = parts.filter((part) => Math.abs(part.getBoundingClientRect().top - top) < 1);
    return Math.max(...row.map((part) => part.getBoundingClientRect().bottom)) + window.scrollY;
}"""


def take_screenshot(page_path: Path, picture_path: Path) -> None:
    """Writes the picture; exits with a message if the page or Chromium is missing, or if the
    picture has more than ``MAX_BYTES``.
    """
    if not page_path.is_file():
        sys.exit(f"{page_path} is missing. Run 'dvc repro' first.")
    chromium = shutil.which("chromium") or shutil.which("chromium-browser")
    if chromium is None:
        sys.exit("Chromium is not installed: apt-get install chromium.")
    from playwright.sync_api import sync_playwright

    with sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=chromium, args=SWITCHES)
        page = browser.new_page(viewport={"width": WIDTH, "height": 900}, color_scheme="light")
        page.goto(page_path.resolve().as_uri())
        height = float(page.evaluate(BOTTOM)) + MARGIN
        clip = {"x": 0, "y": 0, "width": WIDTH, "height": height}
        page.screenshot(path=picture_path, full_page=True, clip=clip)
        browser.close()
    size = picture_path.stat().st_size
    if size > MAX_BYTES:
        sys.exit(f"{picture_path} has {size:,} bytes, more than {MAX_BYTES:,}.")


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description="A picture of the top of a report page.")
    parser.add_argument("page", type=Path, help="index.html of a report")
    parser.add_argument("picture", type=Path, help="PNG to write")
    options = parser.parse_args()
    take_screenshot(options.page, options.picture)


if __name__ == "__main__":
    main()
