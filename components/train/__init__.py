"""``train``: frames and texts → the bridge: projector, matching head, LoRA, and the tuned weights
of encoder and LLM.
"""

RESULT_VERSION = 3  # enters the work-cache keys: raise it when the same inputs give another model
