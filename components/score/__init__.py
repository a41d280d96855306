"""``score``: hypotheses → ``metrics/score.json`` and word error rates by speaker; ``table`` prints them."""
