"""Checkpoints in HF form: from a hub or a folder, checked, converted, read; their networks without
weights.
"""
