"""Configuration of the documentation site: ``make docs`` builds it with Sphinx, without a network.

In: the Markdown pages of this folder, and docstrings. Out: ``docs/_build/html``. Cost: about 20 s.
"""

from __future__ import annotations

import sys
import tomllib
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

project = "Libretto"
author = "The Libretto contributors"
release = version = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
extensions = ["myst_parser", "sphinx.ext.autodoc"]
exclude_patterns = ["_build"]
myst_heading_anchors = 4  # a link may name a heading, as it may where Markdown is read elsewhere
autodoc_member_order = "bysource"
autodoc_typehints = "signature"
html_theme = "furo"  # needs no font and no script of another server
html_title = f"Libretto {release}"
html_copy_source = False
html_show_sphinx = False
