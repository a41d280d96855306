"""``decode``: model + dev and test sources → hypotheses, one for each utterance and system."""

RESULT_VERSION = (
    3  # enters the work-cache keys: raise it when the same model and audio give other texts
)
