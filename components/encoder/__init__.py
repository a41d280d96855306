"""``encoder``: a catalogue name → a folder in HF form: a checkpoint of a hub or a local one, or one
trained here with CTC.
"""

# A part of the keys of the work cache: raise it if the same inputs give other weights although no
# code has changed; and for an edit of how components.model.folders.folder fills a unit (fill_unit,
# remove_code), since the key of a checkpoint that was trained elsewhere depends on the code that
# converts weights alone.
RESULT_VERSION = 1
