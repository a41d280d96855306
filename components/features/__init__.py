"""``features``: shards + encoder → the encoder's frames in tars of the same layout, computed once
and read by key.
"""

# A part of the keys of the work cache: raise it if the same audio and encoder give other frames
# although no code has changed.
RESULT_VERSION = 1
