"""``corpus``: sources by role → a manifest of what is kept and a table of what is refused. Never
audio.
"""

# Enters the keys of the work cache: raise it when the same input gives another manifest or other
# audio.
RESULT_VERSION = 1
