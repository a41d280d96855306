"""Measurements besides the pipeline; no stage runs them."""
