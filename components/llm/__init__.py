"""``llm``: a catalogue name → a folder in HF form: a checkpoint of a hub or a local one, or one
trained here to copy and correct text.
"""

RESULT_VERSION = 1  # enters the work-cache keys: raise it when the same inputs give other weights
