"""Bridges by kind: frames of the encoder → vectors of the LLM's width."""
