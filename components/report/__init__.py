"""``report``: figures, curves and every hypothesis → one static page, ``data/report/index.html``;
``compare`` lays runs side by side.
"""
