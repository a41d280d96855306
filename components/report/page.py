"""The page: template, style and script beside this module → one HTML file without dependencies.

In: the data to show, as plain values. Out: the text of the page. The page fetches nothing: style
and script are inside it. The policy in its head (Content Security Policy, level 3) allows only
these two, by their hash, and audio from the page itself. Jinja2 escapes the texts of the data, and
``json_block`` does so in blocks of JSON; the script writes texts as text, never as markup.
"""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined, Template
from markupsafe import Markup

TEMPLATES = Path(__file__).parent


def json_block(data: Any) -> Markup:
    """Data as JSON for ``<script type="application/json">``, without ``<``, ``>`` and ``&``.

    The text of a script may contain neither an end tag nor the start of a comment (HTML standard,
    section 4.12.1.3). Raises ValueError for nan and infinity, which JSON does not have.
    """
    text = json.dumps(data, ensure_ascii=False, separators=(",", ":"), allow_nan=False)
    text = text.replace("&", "\\u0026").replace("<", "\\u003c").replace(">", "\\u003e")
    return Markup(text)  # nothing in it ends the script # nosec B704


def render_page(context: dict[str, Any], browser: dict[str, Any], clips: Sequence[bytes]) -> str:
    """The complete page.

    ``context`` has the names that ``page.html`` uses, ``browser`` the data of the error browser,
    ``clips`` the FLAC of each clip by its index.
    """
    files = (TEMPLATES / "page.css", TEMPLATES / "page.js")
    style, script = (Markup(file.read_text()) for file in files)  # our own # nosec B704
    text = _template().render(
        **context,
        style=style,
        script=script,
        policy=_policy(style, script),
        browser=json_block(browser),
        is_empty=not browser["utterances"],
        clips=[json_block(base64.b64encode(clip).decode()) for clip in clips],
    )
    return text + "\n"


@lru_cache(maxsize=1)
def _template() -> Template:
    environment = Environment(
        loader=FileSystemLoader(TEMPLATES),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    return environment.get_template("page.html")


def _policy(style: str, script: str) -> str:
    return (
        f"default-src 'none'; style-src {_hash(style)}; script-src {_hash(script)}; "
        "media-src blob: data:; img-src data:; base-uri 'none'; form-action 'none'"
    )


def _hash(text: str) -> str:
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"
