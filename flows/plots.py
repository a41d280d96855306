"""``python -m flows.plots``: from here on the pages of ``dvc plots`` draw without a network.

DVC's own page fetches Vega from a server and stays blank without one. This one carries it:
``.dvc/plots.html``, made of the JavaScript inside the package vl-convert-python and named to DVC in
``.dvc/config.local``, so that a clone in which it was not made falls back to DVC's page. Both lie
outside git. ``make run`` makes it; it costs seconds, and a megabyte in each page.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from components.config.errors import InputError, LibrettoError

PAGE = Path(".dvc/plots.html")
VEGA_LITE = "5.21"  # DVC's charts are written for version 5
# What DVC fills in stands in braces; it puts its links to the server at {scripts}, which is left
# out.
TEMPLATE = """<!DOCTYPE html>
<html>
<head>
<meta charset="utf-8">
{refresh_tag}
<title>DVC plots</title>
<script>
JAVASCRIPT
</script>
<style>table {border-spacing: 15px;}</style>
</head>
<body>
{plot_divs}
</body>
</html>
"""


def page() -> str:
    """The page's HTML, with Vega, Vega-Lite and Vega-Embed (BSD-3-Clause) in it."""
    import vl_convert

    return TEMPLATE.replace(
        "JAVASCRIPT", vl_convert.javascript_bundle("window.vegaEmbed = vegaEmbed;", VEGA_LITE)
    )


def install() -> None:
    """Writes the page and names it to DVC; raises InputError outside a DVC repository."""
    if not PAGE.parent.is_dir():
        raise InputError(
            f"{PAGE.parent.resolve()} is missing.", hint="Run from the root of the repository."
        )
    PAGE.write_text(page(), encoding="utf-8")
    subprocess.run(
        [sys.executable, "-m", "dvc", "config", "--local", "plots.html_template", PAGE.name],
        check=True,
    )


if __name__ == "__main__":
    try:
        install()
    except LibrettoError as error:
        sys.exit(f"plots: {error}")
