"""``train``: frames and texts → the bridge: projector, matching head, LoRA, and the tuned weights
of encoder and LLM.
"""

# A part of the keys of the work cache: raise it if the same inputs give another model although no
# code has changed.
RESULT_VERSION = 3
