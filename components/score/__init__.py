"""``score``: hypotheses → ``metrics/score.json`` and tables of parts and utterances; ``table``
prints the figures.
"""
