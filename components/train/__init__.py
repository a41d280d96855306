"""``train``: frames and texts → the bridge: projector, matching head, LoRA, and what of encoder and
LLM is tuned.
"""

RESULT_VERSION = 3  # enters the work-cache keys: raise it when the same inputs give another model
