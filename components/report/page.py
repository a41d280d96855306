"""The page: templates, style and script beside this module → one HTML file that needs nothing else.

In: what is shown, as plain data. Out: text of the page. It fetches nothing: style and script stand
in it, and the policy in its head (Content Security Policy, level 3) allows these two alone, by
their hash, and audio out of the page itself. Texts of the data are escaped by Jinja2, and in the
blocks of JSON by ``json_block``; the script writes them as text, never as markup.
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

HERE = Path(__file__).parent


def json_block(data: Any) -> Markup:
    """Data as JSON that can stand inside ``<script type="application/json">``: no ``<``, ``>`` or
    ``&`` is left in it (HTML standard, section 4.12.1.3: a script's text may hold no end tag and no
    comment's beginning). Raises ValueError for what is no number.
    """
    text = json.dumps(data, ensure_ascii=False, separators=(",", ":"), allow_nan=False)
    return Markup(text.replace("&", "\\u0026").replace("<", "\\u003c").replace(">", "\\u003e"))


def page(shown: dict[str, Any], browser: dict[str, Any], clips: Sequence[bytes]) -> str:
    """The whole page; ``shown`` holds what ``page.html`` names, ``browser`` the data of the error
    browser, ``clips`` FLAC by number.
    """
    style, script = (HERE / "page.css").read_text(), (HERE / "page.js").read_text()
    return (
        _template().render(
            **shown,
            style=Markup(style),
            script=Markup(script),
            policy=_policy(style, script),
            browser=json_block(browser),
            empty=not browser["utterances"],
            clips=[json_block(base64.b64encode(clip).decode()) for clip in clips],
        )
        + "\n"
    )


@lru_cache(maxsize=1)
def _template() -> Template:
    loader = FileSystemLoader(HERE)
    environment = Environment(
        loader=loader,
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    return environment.get_template("page.html")


def _policy(style: str, script: str) -> str:
    return (
        f"default-src 'none'; style-src {_hash(style)}; script-src {_hash(script)}; media-src blob: data:; img-src data:; "
        "base-uri 'none'; form-action 'none'"
    )


def _hash(text: str) -> str:
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"
