"""``decode``: model + dev and test sources → hypotheses, one for each utterance and system."""

# A part of the keys of the work cache: raise it if the same model and audio give other texts
# although no code has changed.
RESULT_VERSION = 3
