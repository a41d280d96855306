"""Filling data roots: archives, downloads, unpacking."""
