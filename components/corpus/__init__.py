"""``corpus``: sources by role → a manifest of the accepted utterances and a table of the rejects;
never audio.
"""

# A part of the keys of the work cache: raise it if the same input gives another manifest or other
# audio although no code has changed.
RESULT_VERSION = 1
