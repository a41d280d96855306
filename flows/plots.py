"""``python -m flows.plots``: makes the pages of ``dvc plots`` draw without a network.

DVC's own page loads Vega from a server and stays blank without one. This one contains it:
``.dvc/plots.html``, from the JavaScript in the package vl-convert-python, named to DVC in
``.dvc/config.local``, so that a clone without it uses DVC's page. Neither file is tracked by Git.
``make run`` writes it; it costs seconds, and a megabyte in each page.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from components.config.errors import InputError, LibrettoError

PAGE = Path(".dvc/plots.html")
VEGA_LITE = "5.21"  # DVC's charts are written for version 5
# DVC replaces what is in braces. It would put its links to the server at {scripts}, which is left
# out here.
TEMPLATE = """<!DOCTYPE html>
<html>
<head>
<meta charset="utf-8">
{refresh_tag}
<title>DVC plots</title>
<script>
JAVASCRIPT
const viewport = {name: "viewport", content: "width=device-width, initial-scale=1"};
document.head.append(Object.assign(document.createElement("meta"), viewport));
</script>
<style>
body {display: flex; flex-wrap: wrap; gap: 1rem 2rem; margin: 1rem; font-family: sans-serif;}
body > div {max-width: 100%; overflow-x: auto;}
table {border-spacing: 15px;}
</style>
</head>
<body>
{plot_divs}
</body>
</html>
"""


def build_page() -> str:
    """The page's HTML, with Vega, Vega-Lite and Vega-Embed (BSD-3-Clause) in it."""
    import vl_convert

    javascript = vl_convert.javascript_bundle("window.vegaEmbed = vegaEmbed;", VEGA_LITE)
    return TEMPLATE.replace("JAVASCRIPT", javascript)


def install() -> None:
    """Writes the page and names it to DVC; raises InputError outside a DVC repository."""
    folder = PAGE.parent.resolve()
    if not folder.is_dir():
        raise InputError(
            f"{folder} is missing.",
            subject=str(folder),
            hint="Run from the root of the repository.",
        )
    PAGE.write_text(build_page(), encoding="utf-8")
    subprocess.run(
        [sys.executable, "-m", "dvc", "config", "--local", "plots.html_template", PAGE.name],
        check=True,
    )


if __name__ == "__main__":
    try:
        install()
    except LibrettoError as error:
        sys.exit(f"plots: {error}")
