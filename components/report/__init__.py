"""``report``: figures, curves and all hypotheses → one static page, ``data/report/index.html``.

``compare`` puts several runs side by side.
"""
