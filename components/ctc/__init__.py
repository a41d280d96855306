"""``ctc``: frames of an encoder without a CTC head for them → a small head that is trained on them,
and limits of the search that are calibrated on dev.
"""

# A part of the keys of the work cache: raise it if the same inputs give other weights or limits
# although no code has changed.
RESULT_VERSION = 1
# What a head's folder says of its targets, where many of them have no path through the frames.
TARGETS, SHARE_WITHOUT_PATH = "targets.json", "transcripts_without_path"
