"""Decoding: beam search, constraints, acoustic evidence, alignment."""
