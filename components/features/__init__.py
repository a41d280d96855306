"""``features``: shards + encoder → the encoder's frames in tars of the same layout, computed once
and read by key.
"""

RESULT_VERSION = (
    1  # enters the work-cache keys: raise it when the same audio and encoder give other frames
)
