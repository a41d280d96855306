"""``score``: hypotheses → ``metrics/score.json`` and tables of groups and utterances.

``python -m components.score table`` prints the figures. ``components.score.error_rates.score``
scores texts as a library call.
"""
