"""One training loop and its parts: ranks, precision, schedules, checkpoints, recomputation,
sharding.
"""
