"""``train``: frames and texts → the bridge: projector, matching head and LoRA."""

RESULT_VERSION = 1  # enters the work-cache keys: raise it when the same inputs give another model
