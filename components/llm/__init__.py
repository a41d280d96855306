"""``llm``: a catalogue name → a folder in HF form: a checkpoint of a hub or a local one, or one
trained here to copy and correct text.
"""

# A part of the keys of the work cache: raise it if the same inputs give other weights although no
# code has changed.
RESULT_VERSION = 1
