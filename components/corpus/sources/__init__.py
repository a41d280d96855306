"""Kinds of sources: one module each, registered in ``components.corpus.source``."""
